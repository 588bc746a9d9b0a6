"""A private Redis for the session; no test touches one that was given."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import redis
from pydantic import TypeAdapter

from orchestrator import children
from orchestrator.private_redis import PrivateRedis
from tasks import aggregate, codec, environment, keys, messages, turn
from tasks.app import connect, use_broker
from tasks.ledger import Ledger
from tasks.messages import Announcement, Order, Submission
from tasks.site_ledger import SiteLedger
from tasks.state import State
from tests import centres
from tests.centres import RunningCentre
from workers import originals
from workers.params import Params
from workers.schema import Schema
from workers.spec import Experiment, Spec
from workers.standardization import Preprocessing

REPOSITORY = Path(__file__).parent.parent
PUBLISHED = REPOSITORY.parent / "shared" / "data"  # what the publishers of data sets have


@pytest.fixture(scope="session", autouse=True)
def published_data() -> Iterator[None]:
    """The files of fedelta's own data sets are at hand, here and in the processes started from here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDELTA_DATA_DIR", str(PUBLISHED))
        originals.use(environment.data_folders())
        yield


@pytest.fixture(scope="session")
def private_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateRedis]:
    folder = tmp_path_factory.mktemp("redis")
    server = PrivateRedis(folder, folder / "log")
    process = server.start()
    yield server
    children.end([process], grace_seconds=3.0)
    server.remove_home()


@pytest.fixture
def client(private_redis: PrivateRedis) -> redis.Redis:
    """An empty Redis, in use as broker and ledger."""
    use_broker(private_redis.broker_url)
    found = connect()
    found.flushall()
    return found


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """The clock that coordinators read, to be moved by hand; sites, leases and Redis keep the real one."""
    time = {"now": 1000.0}
    monkeypatch.setattr(turn, "now", lambda _pipe: time["now"])
    return time


@pytest.fixture(scope="session")
def tls_centre(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCentre]:
    """A centre whose Redis runs; tests add sites of new names (`centres.a_name`) and stop nothing."""
    found = centres.make(tmp_path_factory.mktemp("tls"))
    found.start()
    yield found
    found.stop()


@pytest.fixture
def own_centre(tmp_path: Path) -> Iterator[RunningCentre]:
    """A centre of the test's own, whose Redis is not started yet."""
    found = centres.make(tmp_path)
    yield found
    found.stop()


def make_spec(**changes: object) -> Spec:
    """A small experiment: three sites, one model of two parameters; `changes` replace its tables."""
    written = {
        "name": "trial",
        "sites": ["a", "ab", "c"],
        "data": {"dataset": "two-hospitals"},
        "model": {"kind": "linear-regression"},
        "training": {"epochs": 1},
        "strategy": {"kind": "fedasync", "mixing_rate": 0.5},
        "stop": {"updates": 1000},
        **changes,
    }
    schema = Schema(
        features=("x",),
        target="y",
        target_kind="regression",
        preprocessing=Preprocessing(fill=(0.0,), shift=(0.0,), scale=(1.0,)),
    )
    return Spec(experiment=TypeAdapter(Experiment).validate_python(written), schema=schema)


def zeros() -> Params:
    """The initial model of `make_spec`."""
    return {"weight": np.zeros((1, 1), np.float32), "bias": np.zeros(1, np.float32)}


def submit(client: redis.Redis, order: str, delta: Params | None, **facts: object) -> bool:
    """Carry out an order of "trial" as a site would: take it, store this delta, or without one an `error`."""
    ledger = SiteLedger(client)
    taken = ledger.take("trial", order, holder="worker")
    assert taken is not None, f"{order} is not to be had"
    made = {"order": order, "issued": taken.order.issued, "num_examples": 10, **facts}
    submission = Submission(delta=None if delta is None else codec.pack_tree(delta), **made)
    return ledger.submit("trial", taken.lease, submission)


def order_of(client: redis.Redis, site: str) -> Order:
    """The site's unfinished order of "trial"."""
    stored = client.get(keys.order("trial", site))
    assert stored is not None, f"{site} has no order"
    return messages.decode(Order, stored)


def sent(client: redis.Redis, queue: str) -> list[str]:
    """The ids of the messages in a queue, oldest first: `a.2.trial` is the second order of site a."""
    return [json.loads(entry)["headers"]["id"] for entry in reversed(client.lrange(queue, 0, -1))]


def announce(client: redis.Redis, *sites: str, seen: float, software: str = "fedelta") -> None:
    """Say that these sites' workers lived at that time, as they would."""
    for site in sites:
        client.set(keys.site(site), messages.encode(Announcement(seen=seen, software=software)))


def constant(value: float) -> Params:
    """A delta of `make_spec`'s model with one value everywhere."""
    return {path: np.full_like(leaf, value) for path, leaf in zeros().items()}


def drain(client: redis.Redis) -> State:
    """Let the coordinator of "trial" have one turn."""
    with Ledger(client).turn("trial") as turn:
        return aggregate.drain(turn)


def skip_last_scores(client: redis.Redis) -> None:
    """Let "trial", which was stopped, be finished as if every site had scored its last version."""
    client.hset(keys.head("trial"), "phase", "finished")
    client.srem(keys.RUNNING, "trial")
