"""What one hospital can write is only read as data: hostile values in everything that it may write."""

import base64
import json

import msgpack
import numpy as np
import pytest

from tasks import aggregate, codec, collect, keys, messages, progress, supervise
from tasks.app import COORDINATOR_QUEUE, site_queue
from tasks.bell import Call
from tasks.reception import Reception
from tasks.site_ledger import LEASE, SiteLedger
from tests.conftest import constant, submit
from tests.machine import wait_until
from tests.security.conftest import SITES, TESTER
from tests.security.trial import (
    CENTRAL,
    HOSTILE_BYTES,
    HOSTILE_CALLS,
    MINE,
    OTHERS,
    SHARED,
    a_delta,
    applied,
    as_people_look,
    everything,
    hospital,
    issued,
    packed,
    tree,
)

# What is wrong with a submission that is sound but for this.
MISTAKES = {
    "another site's order": {"order": "ab/1"},
    "an order to come": {"order": "a/2"},
    "an order that is no order": {"order": "a/1/../ab/1"},
    "a forgotten order of that number": {"issued": 1.0},
    "an order of no time": {"issued": float("nan")},
    "no examples": {"num_examples": 0},
    "fewer than no examples": {"num_examples": -1},
    "too many examples": {"num_examples": 2**53},
    "true examples": {"num_examples": True},
    "examples as text": {"num_examples": "10"},
    "a loss that is no number": {"loss": float("nan")},
    "an infinite time": {"seconds": float("inf")},
    "a negative time": {"started": -1.0},
    "not finite": {"delta": codec.pack_tree(constant(np.nan))},
    "beyond all bounds": {"delta": codec.pack_tree(constant(1e30))},
    "no leaves": {"delta": []},
    "a leaf twice": {"delta": tree() + tree()},
    "leaves that are no pairs": {"delta": [[]]},
    "objects": {"delta": tree(dtype="object")},
    "a dtype with fields": {"delta": tree(dtype="<f4,<f4")},
    "a pickle": {"delta": tree(encoding="pickle", data=b"cos\nsystem\n(S'id'\ntR.")},
    "a shape of terabytes": {"delta": tree(shape=[2**39, 2**39])},
    "a shape of nothing, and much of it": {"delta": tree(shape=[0, 2**39, 2**39], data=b"")},
    "a negative shape": {"delta": tree(shape=[-1, -1])},
    "an error with a page": {
        "delta": None,
        "error": "<script>alert(1)</script>\x1b[2J\n2026 INFO all is well",
    },
    "an error too long": {"delta": None, "error": "x" * 501},
}


@pytest.mark.parametrize("made", [*HOSTILE_BYTES, *MISTAKES])
def test_a_hostile_delta_is_not_applied_and_the_others_are(trial, coordinator, made):
    mistake = {"issued": issued(trial), **MISTAKES.get(made, {})}
    hospital(trial, "a").set(MINE["delta"], HOSTILE_BYTES.get(made, a_delta(**mistake)))
    hospital(trial, "a").rpush(SHARED["inbox"], "a")
    submit(hospital(trial, "ab"), "ab/1", constant(1.0))
    aggregate.aggregate("trial")
    submit(hospital(trial, "b"), "b/1", constant(1.0))
    aggregate.aggregate("trial")
    supervise.supervise()
    assert applied(coordinator) == ["ab", "b"]
    assert not coordinator.exists(MINE["delta"])
    assert coordinator.llen(COORDINATOR_QUEUE) == 0 == len(coordinator.lrange(SHARED["inbox"], 0, -1))
    as_people_look(trial)


def test_extreme_but_valid_submissions_leave_the_model_finite(trial, coordinator):
    extreme = {"num_examples": 2**53 - 1, "bytes_down": 2**53 - 1, "loss": 1e30, "seconds": 1e9}
    for number in range(1, 4):
        asked = {"order": f"a/{number}", "issued": issued(trial)}
        submission = a_delta(1e18, started=1e11, **asked, **extreme)
        hospital(trial, "a").set(MINE["delta"], submission)
        hospital(trial, "a").rpush(SHARED["inbox"], "a")
        submit(hospital(trial, "b"), f"b/{number}", constant(1.0))
        aggregate.aggregate("trial")
    assert applied(coordinator) == ["a", "b"] * 3
    model = progress.model(coordinator, "trial", 6)
    assert all(np.isfinite(leaf).all() for leaf in model.values())
    as_people_look(trial)


def test_a_hospital_that_names_others_in_the_inbox_changes_nothing_for_them(trial, coordinator):
    before = everything(trial)
    hospital(trial, "a").rpush(
        SHARED["inbox"], "b", "ab", "b", "nobody", "", "b/1", b"\xff\xfe", "*", "a" * 10_000
    )
    aggregate.aggregate("trial")
    assert applied(coordinator) == []
    assert {key for key, value in everything(trial).items() if before.get(key) != value} <= {
        CENTRAL["head"].encode(),
        CENTRAL["memory"].encode(),
    }
    submit(hospital(trial, "b"), "b/1", constant(1.0))
    aggregate.aggregate("trial")
    assert applied(coordinator) == ["b"]
    assert progress.read(coordinator, "trial").head.refused == 0


def test_an_inbox_with_a_hundred_thousand_entries_is_worked_off(trial, coordinator):
    with hospital(trial, "a").pipeline(transaction=False) as pipe:
        for _ in range(100):
            pipe.rpush(SHARED["inbox"], *["ab", b"\xff"] * 500)
        pipe.execute()
    submit(hospital(trial, "b"), "b/1", constant(1.0))
    turns = 0
    while coordinator.exists(SHARED["inbox"]):
        aggregate.aggregate("trial")
        turns += 1
        assert turns <= 101
    assert applied(coordinator) == ["b"]


def score(**changes):
    return packed(**{"time": 0.0, "version": 0, "num_examples": 10, "metrics": {"mse": 1.0}, **changes})


HOSTILE_SCORES = {
    **{kind: {"row": stored} for kind, stored in HOSTILE_BYTES.items()},
    "no row": {"evil": b"x"},
    "a row beside another": {b"\xff": b"\xff", "x": score()},
    "another version": {"row": score(version=7)},
    "a negative version": {"row": score(version=-1)},
    "more examples than there are numbers": {"row": score(num_examples=2**53)},
    "no examples": {"row": score(num_examples=0)},
    "a score beyond all bounds": {"row": score(metrics={"mse": 1e31})},
    "a score that is no number": {"row": score(metrics={"mse": float("nan")})},
    "a score as text": {"row": score(metrics={"mse": "0.0"})},
    "too many scores": {"row": score(metrics={str(number): 0.0 for number in range(33)})},
}


@pytest.mark.parametrize("fields", HOSTILE_SCORES.values(), ids=HOSTILE_SCORES.keys())
def test_a_hostile_score_counts_as_none_and_the_others_count(trial, coordinator, clock, fields):
    begun = progress.read(coordinator, "trial").head.evaluating_since
    clock["now"] = begun + 1
    hospital(trial, "a").xadd(MINE["evaluations"], fields)
    for site, mse in (("ab", 1.0), ("b", 3.0)):
        SiteLedger(hospital(trial, site)).put_evaluation("trial", site, 0, 10, {"mse": mse, "r2": None})
    collect.collect("trial")
    assert list(progress.metrics(coordinator, "trial")) == []  # `a` may still answer
    clock["now"] = begun + collect.GIVE_UP_SECONDS + 1
    collect.collect("trial")
    (row,) = progress.metrics(coordinator, "trial")
    assert (row.num_sites, row.metrics) == (2, {"mse": 2.0, "r2": None})


@pytest.mark.parametrize("fields", HOSTILE_SCORES.values(), ids=HOSTILE_SCORES.keys())
def test_a_hostile_score_keeps_nobody_from_reading_the_others(trial, fields):
    hospital(trial, "a").xadd(MINE["evaluations"], fields)
    as_people_look(trial)


def test_a_hospitals_absurd_score_is_a_number_and_names_no_metric_of_its_own(trial, coordinator):
    absurd = score(num_examples=2**53 - 1, metrics={"mse": 1e30, "<script>": 1.0, "r2": None})
    hospital(trial, "a").xadd(MINE["evaluations"], {"row": absurd})
    for site in OTHERS:
        SiteLedger(hospital(trial, site)).put_evaluation("trial", site, 0, 10, {"mse": 1.0, "r2": 0.5})
    collect.collect("trial")
    (row,) = progress.metrics(coordinator, "trial")
    assert (sorted(row.metrics), row.metrics["r2"]) == (["mse", "r2"], 0.5)
    assert np.isfinite(row.metrics["mse"])
    as_people_look(trial)


HOSTILE_LEASES = {
    **HOSTILE_BYTES,
    "another site's order": b"ab/1 holder",
    "an order of its own, for ever": b"CLAIM holder",
    "a forgotten order of that number": b"a/1 1.0 holder",
    "an order of no time": b"a/1 nan holder",
    "an order without a time": b"a/1 holder",
    "a claim without a holder": b"CLAIM",
    "a holder that is no text": b"CLAIM \xff\xfe\n\x1b[2J",
    "a long holder": b"CLAIM " + b"x" * 100_000,
    "a future order": b"a/999999999999999999999 x",
}


@pytest.mark.parametrize("stored", HOSTILE_LEASES.values(), ids=HOSTILE_LEASES.keys())
def test_a_hostile_lease_or_announcement_holds_up_nobody_else(trial, coordinator, clock, stored):
    stored = stored.replace(b"CLAIM", messages.claim("a/1", issued(trial)).encode())
    hospital(trial, "a").set(MINE["lease"], stored)
    hospital(trial, "a").set(MINE["announcement"], stored)
    hospital(trial, "a").set(MINE["delta"], stored)
    for site in SITES:
        hospital(trial, site).brpop(site_queue(site), timeout=1)
        hospital(trial, site).brpop(site_queue(site), timeout=1)
    clock["now"] = progress.read(coordinator, "trial").now + LEASE + 1
    supervise.supervise()
    supervise.welcome("a", "\n* evil")
    found = {site.name: site.record for site in progress.read(coordinator, "trial").sites}
    assert [found[site].attempt for site in OTHERS] == [2, 2]
    assert {site: coordinator.llen(site_queue(site)) for site in OTHERS} == {
        "ab": 2,
        "b": 2,
    }  # order and score
    as_people_look(trial)


def test_an_announcement_from_the_future_does_not_hold_up_an_evaluation_for_ever(trial, coordinator, clock):
    hospital(trial, "a").set(MINE["announcement"], packed(seen=1e300, software="\x1b[2J" * 40))
    for site in OTHERS:
        SiteLedger(hospital(trial, site)).put_evaluation("trial", site, 0, 10, {"mse": 1.0})
    clock["now"] = progress.read(coordinator, "trial").now + collect.GIVE_UP_SECONDS + 1
    collect.collect("trial")
    assert len(list(progress.metrics(coordinator, "trial"))) == 1
    as_people_look(trial)


# --- bells -------------------------------------------------------------------------------------------------


def sent(guarded):
    """The tasks in the coordinator's queue, by name and arguments, oldest first."""
    stored = guarded.connect(TESTER).lrange(COORDINATOR_QUEUE, 0, -1)[::-1]
    bodies = [message_of(entry) for entry in stored]
    return [(task, arguments) for task, arguments in bodies]


def message_of(entry):
    message = json.loads(entry)
    _, arguments, _ = msgpack.unpackb(base64.b64decode(message["body"]))
    return message["headers"]["task"], arguments


@pytest.mark.parametrize("kind", ["here", "taken", "gone"])
def test_a_call_that_asks_for_nothing_sends_nothing(trial, coordinator, kind):
    Reception().answer(coordinator, "a", Call(kind=kind, experiment="trial"))
    assert sent(trial) == []


def test_a_call_makes_the_centre_look_at_what_runs_and_no_more(trial, coordinator):
    reception = Reception()
    for kind in ("submitted", "scored"):
        for experiment in ("other", "", "trial", "trial", "trial"):
            reception.answer(coordinator, "a", Call(kind=kind, experiment=experiment))
    for _ in range(100):
        reception.answer(coordinator, "a", Call(kind="started", holder="0" * 64))
    assert sent(trial) == [
        ("aggregate", {"experiment": "trial"}),
        ("collect", {"experiment": "trial"}),
        ("welcome", {"site": "a", "holder": "0" * 64}),  # of the site whose channel it was
    ]


def test_a_call_about_another_hospitals_work_finds_nothing_to_do(trial, coordinator):
    before = {key: value for key, value in everything(trial).items() if b"trial" in key}
    reception = Reception()
    reception.answer(coordinator, "a", Call(kind="submitted", experiment="trial", number=1))
    reception.answer(coordinator, "a", Call(kind="scored", experiment="trial", number=0))
    aggregate.aggregate("trial")
    collect.collect("trial")
    assert {key: value for key, value in everything(trial).items() if b"trial" in key} == before


def test_a_hospital_that_starts_again_and_again_is_ordered_again_and_the_others_are_not(trial, coordinator):
    taken = SiteLedger(hospital(trial, "ab")).take("trial", "ab/1", "worker")
    SiteLedger(hospital(trial, "a")).take("trial", "a/1", "first")
    for number in range(20):
        supervise.welcome("a", f"{number:x}")
    found = {site.name: site.record for site in progress.read(coordinator, "trial").sites}
    assert [found[site].attempt for site in OTHERS] == [1, 1]
    assert SiteLedger(hospital(trial, "ab")).renew(taken.lease)


def test_hostile_calls_do_not_make_the_coordinator_deaf(trial, coordinator):
    tester, reception = trial.connect(TESTER), Reception()
    reception.start()
    try:
        wait_until(lambda: tester.pubsub_numpat() == 1)
        for data in (*HOSTILE_CALLS, messages.encode(Call(kind="submitted", experiment="other"))):
            hospital(trial, "a").publish(MINE["bell"], data)
        hospital(trial, "b").publish(
            keys.bell("b"), messages.encode(Call(kind="submitted", experiment="trial"))
        )
        wait_until(lambda: sent(trial))
    finally:
        reception.stop()
        wait_until(lambda: tester.pubsub_numpat() == 0)
    assert sent(trial) == [("aggregate", {"experiment": "trial"})]
