"""A real worker that is told to end while it trains: it finishes in time, or hands its order back."""

import signal
import sys

import pytest

from orchestrator import children
from tasks import dispatch, keys
from tasks.app import site_queue
from tasks.ledger import Ledger
from tasks.participation import participation
from tasks.supervise import welcome
from tasks.train import train
from tests.conftest import drain, make_spec, sent, zeros
from tests.machine import wait_until
from workers import data
from workers.spec import Spec

# A worker of site `a` whose training takes so long, and who has so long to finish it.
WORKER = """
import runpy, sys, time
from orchestrator import children
from tasks import presence
from workers import client_update

seconds, presence.FINISH_SECONDS, presence.INTERVAL = float(sys.argv[1]), float(sys.argv[2]), 0.2
train = client_update.train

def train_slowly(*arguments, **options):
    time.sleep(seconds)
    return train(*arguments, **options)

client_update.train = train_slowly
sys.argv = children.worker(["a"])[2:]
runpy.run_module("celery", run_name="__main__", alter_sys=True)
"""


@pytest.fixture
def trial(client):
    """An experiment on real examples, whose first order is in the queue of its one site."""
    participation.cache_clear()
    experiment = make_spec(sites=["a"], data={"dataset": "two-hospitals"}).experiment
    new = Ledger(client).create(
        "trial", Spec(experiment=experiment, schema=data.describe(experiment)), zeros()
    )
    assert new is not None
    dispatch.train("trial", "a", 1)
    return client


@pytest.fixture
def worker(tmp_path):
    """Start the worker; its log is `worker.log`."""
    started = []

    def start(seconds=0.0, finish_seconds=60.0):
        command = [sys.executable, "-c", WORKER, str(seconds), str(finish_seconds)]
        started.append(children.start(command, start.log))
        return started[0]

    start.log = tmp_path / "log"
    yield start
    children.end(started, grace_seconds=0.0)


def is_at_work(client):
    return client.exists(keys.lease("trial", "a"))


def test_what_takes_too_long_is_handed_back_and_another_worker_has_it_at_once(trial, worker):
    process = worker(seconds=600, finish_seconds=0.5)
    wait_until(lambda: is_at_work(trial))
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 0
    assert not trial.exists(keys.lease("trial", "a"), keys.delta("trial", "a"))
    assert "a/1 is handed back: it would take longer than a worker has to end" in worker.log.read_text()

    def is_sent_again_to_a_worker_that_starts():
        welcome("a", "0123456789abcdef")
        return sent(trial, site_queue("a")) == ["a.1.trial"]

    wait_until(is_sent_again_to_a_worker_that_starts, seconds=5.0)  # half a lease
    train("trial", "a/1")
    assert drain(trial).head.applied == 1


def test_what_can_be_finished_in_time_is_handed_in_before_the_worker_ends(trial, worker):
    process = worker(seconds=1.0)
    wait_until(lambda: is_at_work(trial))
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0
    assert trial.exists(keys.delta("trial", "a")) and not is_at_work(trial)
    assert "handed back" not in worker.log.read_text()
    assert drain(trial).head.applied == 1


def test_a_worker_that_has_nothing_to_do_ends_at_once(trial, worker):
    trial.delete(site_queue("a"))
    process = worker()
    wait_until(lambda: trial.exists(keys.site("a")), "it announces itself")
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 0
    assert not trial.exists(keys.delta("trial", "a"))
