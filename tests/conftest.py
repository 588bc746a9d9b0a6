"""A private Redis for the session; no test touches one that was given."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import redis
from pydantic import TypeAdapter

from orchestrator import children
from orchestrator.private_redis import PrivateRedis
from tasks import aggregate, codec
from tasks.app import connect, use_broker
from tasks.ledger import Ledger
from tasks.messages import Submission
from tasks.site_ledger import SiteLedger
from tasks.state import State
from tests import centres
from tests.centres import RunningCentre
from workers.params import Params
from workers.spec import Experiment, Schema, Spec


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
    schema = Schema(features=("x",), target="y", target_kind="regression", mean=(0.0,), scale=(1.0,))
    return Spec(experiment=TypeAdapter(Experiment).validate_python(written), schema=schema)


def zeros() -> Params:
    """The initial model of `make_spec`."""
    return {"weight": np.zeros((1, 1), np.float32), "bias": np.zeros(1, np.float32)}


REPOSITORY = Path(__file__).parent.parent


def submit(client: redis.Redis, order: str, delta: Params, **facts: object) -> bool:
    """Carry out an order of "trial" as a site would: take it, store this delta."""
    ledger = SiteLedger(client)
    taken = ledger.take("trial", order, holder="worker")
    assert taken is not None, f"{order} is not to be had"
    submission = Submission(order=order, delta=codec.pack_tree(delta), **{"num_examples": 10, **facts})
    return ledger.submit("trial", taken.lease, submission)


def constant(value: float) -> Params:
    """A delta of `make_spec`'s model with one value everywhere."""
    return {path: np.full_like(leaf, value) for path, leaf in zeros().items()}


def drain(client: redis.Redis) -> State:
    """Let the coordinator of "trial" have one turn."""
    with Ledger(client).turn("trial") as turn:
        return aggregate.drain(turn)
