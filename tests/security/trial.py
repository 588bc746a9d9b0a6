"""What the tests of one hospital's credentials share: who attacks, what there is, what is hostile."""

import msgpack

from orchestrator import access
from tasks import codec, keys, messages, progress
from tasks.app import COORDINATOR_QUEUE, site_queue
from tasks.messages import Order
from tests.conftest import constant
from tests.security.conftest import SITES, TESTER

ATTACKER, OTHERS = "site.a", ("ab", "b")

# What there is, by key: the coordinator's ...
CENTRAL = {
    **{kind: getattr(keys, kind)("trial") for kind in ("head", "sites", "memory")},
    **{kind: getattr(keys, kind)("trial") for kind in ("history", "metrics", "events")},
    "experiments": keys.EXPERIMENTS,
    "running": keys.RUNNING,
    "coordinator": keys.COORDINATOR,
    "queue": COORDINATOR_QUEUE,
}

# ... and what every site may use in one way.
SHARED = {"spec": keys.spec("trial"), "model": keys.model("trial", 0), "inbox": keys.inbox("trial")}


def belongings(site):
    """A site's keys, queue and channel, by what they are."""
    in_trial = {
        kind: getattr(keys, kind)("trial", site) for kind in ("order", "lease", "delta", "evaluations")
    }
    in_trial["unfinished"] = keys.unfinished(in_trial["delta"], "0")
    return {**in_trial, "announcement": keys.site(site), "queue": site_queue(site), "bell": keys.bell(site)}


MINE = belongings("a")


def everything(guarded):
    """All that the server holds, by key."""
    tester = guarded.connect(TESTER)
    return {key: tester.dump(key) for key in tester.keys("*")}


def hospital(guarded, site):
    return guarded.connect(access.site_user(site))


def applied(coordinator):
    return [row.site for row in progress.history(coordinator, "trial")]


def as_people_look(guarded, name="trial"):
    """What everybody who only looks would read: it must not fail either."""
    operator = guarded.connect(access.OPERATOR)
    progress.read(operator, name)
    for rows in (progress.history, progress.metrics, progress.events):
        list(rows(operator, name))
    for site in SITES:
        list(progress.evaluations(operator, name, site))


def packed(**fields):
    return msgpack.packb({"v": 1, **fields})


def tree(**leaf):
    data = {"dtype": "float32", "shape": [1, 1], "encoding": "raw", "data": b"\0" * 4, **leaf}
    return [["weight", data], ["bias", {**data, "shape": [1]}]]


def issued(guarded, site="a"):
    """When the site's unfinished order was given, which whatever is to count must repeat."""
    return messages.decode(Order, guarded.connect(TESTER).get(keys.order("trial", site))).issued


def a_delta(value=1.0, issued=0.0, **changes):
    """A submission of `a`'s as its worker would make it for an order of that time, but for the changes."""
    good = {"order": "a/1", "issued": issued, "delta": codec.pack_tree(constant(value)), "num_examples": 10}
    return packed(**{**good, **changes})


NESTED = b"\x91" * 2000 + b"\xc0"

HOSTILE_BYTES = {
    "nothing": b"",
    "a number": b"\x01",
    "no msgpack": b"\xc1",
    "text": b"{}",
    "cut off": a_delta()[:-3],
    "more than a message": a_delta() + b"\0",
    "deep": NESTED,
    "a list said to be long": b"\xdd\xff\xff\xff\xff",
    "a map said to be long": b"\xdf\xff\xff\xff\xff",
    "an extension": b"\xc7\x01\x05\x00",
    "a timestamp": b"\x81\xa1v\xd6\xff\0\0\0\0",
    "keys that are no text": msgpack.packb({1: 1, "v": 1}),
    "no UTF-8": b"\x82\xa1v\x01\xa5order\xa2\xff\xfe",
    "another format": msgpack.packb({"v": 2}),
    "true for one": msgpack.packb({"v": True}),
    "an unknown field": packed(evil=1),
    "the name of Python's own argument": packed(self=1),
    "the name of pydantic's own argument": packed(__dataclass_self__=1),
    "a class": packed(__class__="x"),
    "megabytes": bytes(3_000_000),
}

HOSTILE_CALLS = [
    *HOSTILE_BYTES.values(),
    packed(kind="run"),
    packed(kind="submitted", experiment="other"),
    packed(kind="submitted", experiment="x" * 64),
    packed(kind="submitted", experiment="trial", number=2**53),
    packed(kind="submitted", experiment="trial", seconds=float("nan")),
    packed(kind="started", holder="x" * 65),
    packed(kind=["submitted"], experiment={"trial": 1}),
]
