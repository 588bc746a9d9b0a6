"""What a worker says of itself, heard by a second connection to a real Redis."""

import dataclasses
import threading
import time

import pytest
import redis

from tasks import keys, messages, presence
from tasks.bell import Call
from tasks.ledger import Ledger
from tasks.messages import Announcement
from tasks.presence import HOLDER, SOFTWARE, Presence
from tasks.site_ledger import LEASE, Lease, SiteLedger
from tests.conftest import make_spec, order_of, zeros
from tests.machine import wait_until
from tests.test_bell import DEADLINE, calls_heard

STARTED, HERE, GONE = Call(kind="started", holder=HOLDER), Call(kind="here"), Call(kind="gone")


@pytest.fixture(autouse=True)
def exits(monkeypatch):
    """With which codes the process would have ended at once."""
    codes = []
    monkeypatch.setattr(presence.os, "_exit", codes.append)
    monkeypatch.setattr(presence.logging, "shutdown", lambda: None)
    return codes


@pytest.fixture
def worker(monkeypatch, exits):
    """A presence that announces itself often, and is silent after the test."""
    monkeypatch.setattr(presence, "INTERVAL", 0.01)
    monkeypatch.setattr(presence, "SETTLE_SECONDS", 0.01)
    made = Presence()
    yield made
    made.stop()
    wait_until(lambda: "presence" not in [thread.name for thread in threading.enumerate()])


class Unreliable(SiteLedger):
    """A site's ledger whose Redis is away for so many announcements, after the first so many."""

    def __init__(self, client, num_failures, num_good=0):
        super().__init__(client)
        self.num_failures, self.num_good = num_failures, num_good

    def announce(self, sites, software, call, datasets):
        self.num_good -= 1
        if self.num_good >= 0:
            return super().announce(sites, software, call, datasets)
        self.num_failures -= 1
        if self.num_failures >= 0:
            raise redis.ConnectionError("it is away")
        super().announce(sites, software, call, datasets)


def take(client):
    Ledger(client).create("trial", make_spec(), zeros())
    return SiteLedger(client).take("trial", "a/1", HOLDER).lease


def test_a_lease_is_held_by_the_process():
    assert len(HOLDER) == 16
    assert int(HOLDER, 16) >= 0


def test_it_is_announced_three_times_in_a_lease():
    assert 3 * presence.INTERVAL == LEASE


def test_a_worker_says_that_it_is_here_that_it_has_started_and_at_last_that_it_is_gone(client, worker):
    with calls_heard() as heard:
        worker.start(SiteLedger(client), iter(["a", "ab"]))
        wait_until(lambda: len(heard) >= 8)
        worker.stop()
        wait_until(lambda: heard[-1] == ("ab", GONE))
        wait_until(lambda: "presence" not in [thread.name for thread in threading.enumerate()])
    for site in ("a", "ab"):
        calls = [call for name, call in heard if name == site]
        # It has had time to take what waited in its queue before it asks for what a predecessor left.
        assert calls == [HERE, STARTED, *[HERE] * (len(calls) - 3), GONE]
        announcement = messages.decode(Announcement, client.get(keys.site(site)))
        assert announcement.software == SOFTWARE


def test_a_worker_that_is_stopped_while_it_starts_asks_for_nothing(client, worker):
    worker.stop()
    with calls_heard() as heard:
        worker.start(SiteLedger(client), ["a"])
        wait_until(lambda: len(heard) >= 2)
    assert heard == [("a", HERE), ("a", GONE)]


def test_a_start_that_nobody_could_hear_is_said_again(client, worker, caplog):
    with calls_heard() as heard:
        worker.start(Unreliable(client, num_failures=2, num_good=1), ["a", "ab"])
        wait_until(lambda: len(heard) >= 6)
    assert heard[:6] == [(site, call) for call in (HERE, STARTED, HERE) for site in ("a", "ab")]
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
        wait_until(lambda: client.get(lease.key) == f"{order_of(client, 'a').claim} {HOLDER}".encode())
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


# What it holds, and what it hands back


def lease_on(client, issued):
    """A lease of this process on the first order of `a` as it was given at that time."""
    value = f"{messages.claim('a/1', issued)} {HOLDER}"
    order_key = keys.order("trial", "a")
    return Lease(key=keys.lease("trial", "a"), order="a/1", order_key=order_key, value=value, started=0.0)


def test_a_process_holds_the_very_order_that_it_is_at_work_on_and_no_other(client):
    made, lease = Presence(), take(client)
    assert not made.holds(lease)
    with made.renewing(lease):
        assert made.holds(lease)
        assert not made.holds(lease_on(client, issued=1.0))
        assert not made.holds(dataclasses.replace(lease, key=keys.lease("trial", "ab")))
    assert not made.holds(lease)


def test_the_end_of_work_on_an_order_that_was_forgotten_leaves_the_lease_of_its_successor(client, worker):
    forgotten, lease = lease_on(client, issued=1.0), take(client)
    worker.start(SiteLedger(client), ["a"])
    with worker.renewing(lease):
        with worker.renewing(forgotten):
            assert worker.holds(forgotten) and worker.holds(lease)
        assert worker.holds(lease)
        client.delete(lease.key)
        wait_until(lambda: client.get(lease.key) == lease.value.encode())


def is_silent():
    return "presence" not in [thread.name for thread in threading.enumerate()]


def test_what_takes_longer_than_a_worker_has_to_end_is_handed_back(
    client, worker, exits, monkeypatch, caplog
):
    monkeypatch.setattr(presence, "FINISH_SECONDS", 0.1)
    lease = take(client)
    with calls_heard() as heard, worker.renewing(lease):
        worker.start(SiteLedger(client), ["a"])
        worker.stop()
        wait_until(is_silent)
        wait_until(lambda: ("a", GONE) in heard)
    assert (exits, client.exists(lease.key)) == ([0], 0)
    assert caplog.messages == ["a/1 is handed back: it would take longer than a worker has to end"]
    assert SiteLedger(client).take("trial", "a/1", "another") is not None


def test_a_worker_that_finishes_in_time_ends_by_itself_and_hands_nothing_back(client, worker, exits, caplog):
    lease = take(client)
    with worker.renewing(lease):
        worker.start(SiteLedger(client), ["a"])
        worker.stop()
        client.delete(lease.key)
        wait_until(lambda: client.exists(lease.key))  # it goes on to renew it
        assert not is_silent()
    wait_until(is_silent)
    assert (exits, caplog.messages) == ([], [])
    assert client.get(lease.key) == lease.value.encode()  # it is `submit` that ends a lease


def test_a_worker_that_cannot_hand_back_ends_all_the_same(client, worker, exits, monkeypatch, caplog):
    class Mute(SiteLedger):
        def hand_back(self, lease):
            raise redis.ConnectionError("it is away")

    monkeypatch.setattr(presence, "FINISH_SECONDS", 0.0)
    with worker.renewing(take(client)):
        worker.start(Mute(client), ["a"])
        worker.stop()
        wait_until(is_silent)
    assert exits == [0]
    assert caplog.messages == ["cannot say that a is gone: it is away"]


def test_an_order_that_cannot_be_read_does_not_silence_a_worker(client, worker):
    lease = take(client)
    with worker.renewing(lease):
        worker.start(SiteLedger(client), ["a"])
        client.set(lease.order_key, b"of another format")
        for _ in range(3):
            client.delete(lease.key, keys.site("a"))
            wait_until(lambda: client.exists(keys.site("a")))
