"""What a worker says of itself, heard by a second connection to a real Redis."""

import threading
import time

import pytest
import redis

from tasks import keys, messages, presence
from tasks.bell import Call
from tasks.ledger import Ledger
from tasks.messages import Announcement
from tasks.presence import HOLDER, SOFTWARE, Presence
from tasks.site_ledger import LEASE, SiteLedger
from tests.conftest import make_spec, zeros
from tests.machine import wait_until
from tests.test_bell import DEADLINE, calls_heard

STARTED, HERE, GONE = Call(kind="started", holder=HOLDER), Call(kind="here"), Call(kind="gone")


@pytest.fixture
def worker(monkeypatch):
    """A presence that announces itself often, and is silent after the test."""
    monkeypatch.setattr(presence, "INTERVAL", 0.01)
    made = Presence()
    yield made
    made.stop()
    wait_until(lambda: "presence" not in [thread.name for thread in threading.enumerate()])


class Unreliable(SiteLedger):
    """A site's ledger whose Redis is away for the first announcements."""

    def __init__(self, client, num_failures):
        super().__init__(client)
        self.num_failures = num_failures

    def announce(self, sites, software, call):
        self.num_failures -= 1
        if self.num_failures >= 0:
            raise redis.ConnectionError("it is away")
        super().announce(sites, software, call)


def take(client):
    Ledger(client).create("trial", make_spec(), zeros())
    return SiteLedger(client).take("trial", "a/1", HOLDER).lease


def test_a_lease_is_held_by_the_process():
    assert len(HOLDER) == 16
    assert int(HOLDER, 16) >= 0


def test_it_is_announced_three_times_in_a_lease():
    assert 3 * presence.INTERVAL == LEASE


def test_a_worker_says_that_it_started_then_that_it_is_here_and_at_last_that_it_is_gone(client, worker):
    with calls_heard() as heard:
        worker.start(SiteLedger(client), iter(["a", "ab"]))
        wait_until(lambda: len(heard) >= 8)
        worker.stop()
        wait_until(lambda: heard[-1] == ("ab", GONE))
        wait_until(lambda: "presence" not in [thread.name for thread in threading.enumerate()])
    for site in ("a", "ab"):
        calls = [call for name, call in heard if name == site]
        assert calls == [STARTED, *[HERE] * (len(calls) - 2), GONE]
        announcement = messages.decode(Announcement, client.get(keys.site(site)))
        assert announcement.software == SOFTWARE


def test_a_worker_that_is_stopped_while_it_starts_says_both(client, worker):
    worker.stop()
    with calls_heard() as heard:
        worker.start(SiteLedger(client), ["a"])
        wait_until(lambda: len(heard) >= 2)
    assert heard == [("a", STARTED), ("a", GONE)]


def test_a_start_that_nobody_could_hear_is_said_again(client, worker, caplog):
    with calls_heard() as heard:
        worker.start(Unreliable(client, num_failures=2), ["a", "ab"])
        wait_until(lambda: len(heard) >= 4)
    assert heard[:4] == [("a", STARTED), ("ab", STARTED), ("a", HERE), ("ab", HERE)]
    assert [record.getMessage() for record in caplog.records] == ["cannot announce a, ab: it is away"] * 2


def test_a_worker_that_cannot_say_that_it_is_gone_ends_all_the_same(client, worker, caplog):
    class Mute(SiteLedger):
        def leave(self, sites):
            raise redis.ConnectionError("it is away")

    worker.start(Mute(client), ["a"])
    worker.stop()
    wait_until(lambda: "presence" not in [thread.name for thread in threading.enumerate()])
    assert caplog.messages == ["cannot say that a is gone: it is away"]


def test_a_worker_that_is_stopped_keeps_the_lease_of_the_training_that_it_finishes(
    client, worker, monkeypatch
):
    monkeypatch.setattr(presence, "INTERVAL", 0.05)
    lease = take(client)
    worker.start(SiteLedger(client), ["a"])
    with calls_heard() as heard, worker.renewing(lease):
        worker.stop()
        client.delete(lease.key)
        wait_until(lambda: client.exists(lease.key))
        assert ("a", GONE) not in heard
    wait_until(lambda: "presence" not in [thread.name for thread in threading.enumerate()])


def test_a_lease_is_renewed_while_its_block_runs_and_no_longer(client, worker):
    lease = take(client)
    worker.start(SiteLedger(client), ["a"])
    with worker.renewing(lease):
        client.delete(lease.key)
        wait_until(lambda: client.get(lease.key) == f"a/1 {HOLDER}".encode())
        assert 0 < client.ttl(lease.key) <= LEASE
    worker.stop()
    wait_until(lambda: "presence" not in [thread.name for thread in threading.enumerate()])
    client.delete(lease.key)
    after = Presence()
    after.stop()
    after.start(SiteLedger(client), ["a"])
    wait_until(lambda: "presence" not in [thread.name for thread in threading.enumerate()])
    assert not client.exists(lease.key)


def test_a_lease_is_given_up_when_its_block_fails(client, worker):
    lease = take(client)
    with pytest.raises(ValueError), worker.renewing(lease):
        raise ValueError
    client.delete(lease.key)
    worker.stop()
    worker.start(SiteLedger(client), ["a"])
    wait_until(lambda: "presence" not in [thread.name for thread in threading.enumerate()])
    assert not client.exists(lease.key)


def test_a_pause_ends_when_the_worker_stops(worker):
    threading.Timer(0.01, worker.stop).start()
    begun = time.monotonic()
    worker.pause(3600)
    assert time.monotonic() - begun < DEADLINE


def test_the_file_is_touched_only_by_who_could_announce_itself(client, worker, tmp_path, monkeypatch):
    alive = tmp_path / "alive"
    monkeypatch.setenv("FEDELTA_ALIVE_FILE", str(alive))
    unreachable = Unreliable(client, num_failures=10**9)
    worker.start(unreachable, ["a"])
    wait_until(lambda: unreachable.num_failures < 10**9 - 3)
    assert not alive.exists()
    unreachable.num_failures = 0
    wait_until(alive.exists)
