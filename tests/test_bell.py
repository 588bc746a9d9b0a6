"""What a site calls out, heard by a second connection to a real Redis."""

import itertools
import threading
from contextlib import contextmanager

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import children
from orchestrator.private_redis import PrivateRedis
from tasks import bell, codec, keys, messages
from tasks.app import connect, use_broker
from tasks.bell import Call
from tasks.ledger import Ledger
from tasks.messages import Submission
from tasks.site_ledger import SiteLedger
from tests.conftest import constant, make_spec, order_of, submit, zeros
from tests.machine import wait_until
from workers.errors import MalformedMessage

DEADLINE = 10.0  # seconds


@contextmanager
def hearing(client):
    """What is rung in the block, as (site, call); to be looked at after it."""
    heard = []
    with client.pubsub() as bells:
        bells.psubscribe(keys.bell("*"))
        assert bells.get_message(timeout=DEADLINE)["type"] == "psubscribe"
        yield heard
        client.publish(keys.bell("end"), b"")  # what was rung before has come before
        while (received := bells.get_message(timeout=DEADLINE))["channel"] != b"fedelta:bell:end":
            heard.append((received["channel"].decode(), bell.decode(received["data"])))


@contextmanager
def watching(client):
    """The commands that the server gets in the block, as text; to be looked at after it."""
    commands = []
    with client.monitor() as monitor:
        yield commands
        client.echo("end")
        while (command := monitor.next_command()["command"]) != "ECHO end":
            commands.append(command)


@contextmanager
def calls_heard():
    """The generator `bell.calls`, in a thread of its own, and what it has given so far."""
    heard, stopping = [], threading.Event()
    thread = threading.Thread(target=lambda: heard.extend(bell.calls(connect(), stopping)), daemon=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bell, "PATIENCE_SECONDS", 0.02)  # it looks whether it is to stop as often
        thread.start()
        try:
            wait_until(lambda: has_listener() or not thread.is_alive())
            yield heard
        finally:
            stopping.set()
            thread.join(DEADLINE)
    assert not thread.is_alive()


def has_listener():
    return connect().pubsub_numpat() == 1


def ring(client, site, call):
    with client.pipeline(transaction=False) as pipe:
        bell.ring(pipe, site, call)
        pipe.execute()


def begin(client):
    Ledger(client).create("trial", make_spec(), zeros())


def submission(lease, **facts):
    """An answer to the order that the lease is on."""
    order, issued, _ = lease.value.split()
    return Submission(order=order, issued=float(issued), **facts)


def meddle(monkeypatch, act):
    """Act once from another connection, between what a transaction has read and its end."""
    ring, times = bell.ring, itertools.count()

    def ring_late(pipe, site, call):
        if next(times) == 0:
            act()
        ring(pipe, site, call)

    monkeypatch.setattr(bell, "ring", ring_late)


def test_a_call_is_a_small_map_with_the_formats_version():
    call = Call(kind="submitted", experiment="trial", number=7, seconds=0.5, has_failed=True)
    assert msgpack.unpackb(messages.encode(call)) == {
        "v": 1,
        "kind": "submitted",
        "experiment": "trial",
        "number": 7,
        "seconds": 0.5,
        "has_failed": True,
        "holder": "",
    }
    assert bell.decode(messages.encode(call)) == call


def test_the_largest_call_there_is_may_be_rung():
    largest = Call(
        kind="submitted",
        experiment="x" * 63,
        number=2**53 - 1,
        seconds=1e9,
        has_failed=True,
        holder="f" * 64,
    )
    assert len(messages.encode(largest)) <= bell.MAX_BYTES
    assert bell.decode(messages.encode(largest)) == largest


def test_a_call_of_more_bytes_than_any_can_have_is_refused_unread():
    with pytest.raises(MalformedMessage) as raised:
        bell.decode(b"\xc1" * 1025)
    assert str(raised.value) == "expected at most 1024 bytes, got 1025"
    with pytest.raises(MalformedMessage, match="expected a msgpack map, got 1024 bytes that are not"):
        bell.decode(b"\xc1" * 1024)


@pytest.mark.parametrize(
    ("fields", "mistake"),
    [
        ({"v": 2}, "Call: expected format 1, got 2"),
        ({"v": None}, "Call: expected format 1, got None"),
        ({"kind": "shutdown"}, "Call: kind: expected "),
        ({"experiment": "x" * 64}, "Call: experiment: String should have at most 63 characters"),
        ({"experiment": "{other}:head"}, "Call: experiment: expected lower-case letters, digits and hyphens"),
        ({"number": -1}, "Call: number: should be greater than or equal to 0, got -1"),
        ({"number": 2**53}, "Call: number: should be less than 9007199254740992"),
        ({"number": True}, "Call: number: should be a valid integer, got True"),
        ({"seconds": float("nan")}, "Call: seconds: should be a finite number, got nan"),
        ({"seconds": 1e10}, "Call: seconds: should be less than or equal to 1000000000"),
        ({"has_failed": 1}, "Call: has_failed: should be a valid boolean, got 1"),
        ({"holder": "f" * 65}, "Call: holder: String should have at most 64 characters"),
        ({"holder": "worker 1"}, "Call: holder: "),
        ({"site": "b"}, "Call: site: is not a field that is known here, got 'b'"),
    ],
)
def test_a_call_that_says_what_no_site_can_have_done_is_refused(fields, mistake):
    with pytest.raises(MalformedMessage) as raised:
        bell.decode(msgpack.packb({"v": 1, "kind": "here", **fields}))
    assert str(raised.value).startswith(mistake)


@given(st.binary(max_size=1100))
def test_garbage_is_refused_and_nothing_else_happens(garbage):
    with pytest.raises(MalformedMessage):
        bell.decode(garbage)


def test_the_name_of_the_site_is_that_of_the_channel(client):
    with calls_heard() as heard:
        ring(client, "a", Call(kind="here"))
        ring(client, "ab", Call(kind="scored", experiment="trial", number=3, seconds=1.5))
        client.publish("fedelta:bells:c", messages.encode(Call(kind="here")))
        client.publish("fedelta:bell:fedelta:bell:x", messages.encode(Call(kind="gone")))
        wait_until(lambda: len(heard) >= 3)
    assert heard == [
        ("a", Call(kind="here")),
        ("ab", Call(kind="scored", experiment="trial", number=3, seconds=1.5)),
        ("fedelta:bell:x", Call(kind="gone")),
    ]


@pytest.mark.parametrize(
    ("garbage", "reason"),
    [
        (b"", "expected a msgpack map, got 0 bytes that are not"),
        (b"\xff garbage", "expected a msgpack map, got 9 bytes that are not"),
        (b"\x00" * 2000, "expected at most 1024 bytes, got 2000"),
        (msgpack.packb({"v": 2, "kind": "here"}), "Call: expected format 1, got 2"),
        (msgpack.packb(["here"]), "expected a msgpack map, got list"),
    ],
    ids=["nothing", "no msgpack", "too large", "another format", "no map"],
)
def test_what_is_no_call_is_logged_and_left_out_and_the_next_is_heard(client, caplog, garbage, reason):
    with calls_heard() as heard:
        client.publish(keys.bell("a"), garbage)
        ring(client, "a", Call(kind="here"))
        wait_until(lambda: heard)
    assert heard == [("a", Call(kind="here"))]
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage().startswith(f"site 'a' rang with what is no call: {reason}")


def test_a_channel_whose_name_is_no_text_or_very_long_is_logged_in_short(client, caplog):
    with calls_heard() as heard:
        client.publish(b"fedelta:bell:\xff\n" + b"x" * 1000, b"garbage")
        ring(client, "a", Call(kind="here"))
        wait_until(lambda: heard)
    (record,) = caplog.records
    message = record.getMessage()
    assert message.startswith("site '\N{REPLACEMENT CHARACTER}\\nxxx")
    assert len(message.partition(" rang with")[0]) == len("site ") + 80


def test_nobody_is_heard_any_more_once_it_is_to_stop(client):
    with calls_heard() as heard:
        pass
    wait_until(lambda: not has_listener())
    ring(client, "a", Call(kind="here"))
    assert heard == []


def test_the_sites_are_heard_again_after_redis_was_away(client, private_redis, tmp_path, caplog):
    server = PrivateRedis(tmp_path / "redis", tmp_path / "log")
    process = server.start()
    try:
        use_broker(server.broker_url)
        with calls_heard() as heard:
            ring(connect(), "a", Call(kind="here"))
            wait_until(lambda: len(heard) == 1)
            children.end([process], grace_seconds=DEADLINE)
            wait_until(lambda: "cannot hear the sites: " in caplog.text)
            process = server.start()
            wait_until(has_listener)
            ring(connect(), "ab", Call(kind="gone"))
            wait_until(lambda: len(heard) == 2)
        assert heard == [("a", Call(kind="here")), ("ab", Call(kind="gone"))]
    finally:
        use_broker(private_redis.broker_url)
        children.end([process], grace_seconds=DEADLINE)
        server.remove_home()


def test_an_order_that_is_taken_is_called_out_with_its_number(client):
    begin(client)
    with hearing(client) as heard:
        SiteLedger(client).take("trial", "ab/1", "worker")
    assert heard == [("fedelta:bell:ab", Call(kind="taken", experiment="trial", number=1))]


def test_the_lease_and_its_call_are_one_transaction(client):
    begin(client)
    with watching(client) as commands:
        SiteLedger(client).take("trial", "a/1", "worker")
    inside = commands[commands.index("MULTI") + 1 : commands.index("EXEC")]
    assert [command.split()[:2] for command in inside] == [
        ["SET", "fedelta:{trial}:lease:a"],
        ["TIME"],
        ["PUBLISH", "fedelta:bell:a"],
    ]


@pytest.mark.parametrize("order", ["a/2", "nobody/1"])
def test_an_order_that_is_not_there_is_not_called_out(client, order):
    begin(client)
    with hearing(client) as heard:
        assert SiteLedger(client).take("trial", order, "worker") is None
    assert heard == []


def test_an_order_that_is_held_or_submitted_is_not_called_out(client):
    begin(client)
    SiteLedger(client).take("trial", "a/1", "worker")
    submit(client, "ab/1", constant(1.0))
    with hearing(client) as heard:
        assert SiteLedger(client).take("trial", "a/1", "another") is None
        assert SiteLedger(client).take("trial", "ab/1", "another") is None
    assert heard == []


def test_whoever_loses_the_race_for_an_order_calls_nothing_out(client, monkeypatch):
    begin(client)
    another = f"{order_of(client, 'a').claim} another"
    meddle(monkeypatch, lambda: client.set(keys.lease("trial", "a"), another))
    with hearing(client) as heard:
        assert SiteLedger(client).take("trial", "a/1", "worker") is None
    assert heard == []
    assert client.get(keys.lease("trial", "a")) == another.encode()


def test_a_submission_is_called_out_with_its_number_and_its_seconds(client):
    begin(client)
    lease = SiteLedger(client).take("trial", "ab/1", "worker").lease
    delta = codec.pack_tree({"weight": np.zeros(0)})
    with hearing(client) as heard:
        assert SiteLedger(client).submit("trial", lease, submission(lease, delta=delta, seconds=2.5))
    call = Call(kind="submitted", experiment="trial", number=1, seconds=2.5, has_failed=False)
    assert heard == [("fedelta:bell:ab", call)]


def test_a_submission_without_a_delta_is_called_out_as_failed(client):
    begin(client)
    lease = SiteLedger(client).take("trial", "a/1", "worker").lease
    with hearing(client) as heard:
        assert SiteLedger(client).submit("trial", lease, submission(lease, error="no examples"))
    assert heard == [
        ("fedelta:bell:a", Call(kind="submitted", experiment="trial", number=1, has_failed=True))
    ]


def test_the_submission_its_place_in_the_inbox_and_its_call_are_one_transaction(client):
    begin(client)
    lease = SiteLedger(client).take("trial", "a/1", "worker").lease
    with watching(client) as commands:
        SiteLedger(client).submit("trial", lease, submission(lease))
    inside = commands[commands.index("MULTI") + 1 : commands.index("EXEC")]
    assert [command.split()[:2] for command in inside] == [
        ["SET", "fedelta:{trial}:delta:a"],
        ["RPUSH", "fedelta:{trial}:inbox"],
        ["DEL", "fedelta:{trial}:lease:a"],
        ["PUBLISH", "fedelta:bell:a"],
    ]


def test_a_submission_whose_order_is_gone_is_not_called_out(client):
    begin(client)
    lease = SiteLedger(client).take("trial", "a/1", "worker").lease
    client.delete(keys.order("trial", "a"))
    with hearing(client) as heard:
        assert not SiteLedger(client).submit("trial", lease, submission(lease))
    assert heard == []


def test_a_submission_whose_order_goes_at_the_last_moment_is_not_called_out(client, monkeypatch):
    begin(client)
    lease = SiteLedger(client).take("trial", "a/1", "worker").lease
    meddle(monkeypatch, lambda: client.delete(keys.order("trial", "a")))
    with hearing(client) as heard:
        assert not SiteLedger(client).submit("trial", lease, submission(lease))
    assert heard == []
    assert not client.exists(keys.delta("trial", "a"), keys.inbox("trial"))


def test_a_submission_whose_order_is_sent_again_at_the_last_moment_is_called_out_once(client, monkeypatch):
    begin(client)
    lease = SiteLedger(client).take("trial", "a/1", "worker").lease
    order = client.get(keys.order("trial", "a"))
    meddle(monkeypatch, lambda: client.set(keys.order("trial", "a"), order))
    with hearing(client) as heard:
        assert SiteLedger(client).submit("trial", lease, submission(lease))
    assert [(channel, call.kind) for channel, call in heard] == [("fedelta:bell:a", "submitted")]
    assert client.llen(keys.inbox("trial")) == 1


def test_a_score_is_called_out_with_its_version_in_the_same_request(client):
    with hearing(client) as heard, watching(client) as commands:
        SiteLedger(client).put_evaluation("trial", "a", 4, 10, {"mse": 1.0}, 0.25)
    assert heard == [("fedelta:bell:a", Call(kind="scored", experiment="trial", number=4, seconds=0.25))]
    assert [command.split()[:2] for command in commands[-2:]] == [
        ["XADD", "fedelta:{trial}:evaluations:a"],
        ["PUBLISH", "fedelta:bell:a"],
    ]


def test_every_site_of_a_worker_is_announced_on_its_own_channel(client):
    call = Call(kind="started", holder="0f")
    with hearing(client) as heard:
        SiteLedger(client).announce(["a", "ab"], "fedelta 1", call)
    assert heard == [("fedelta:bell:a", call), ("fedelta:bell:ab", call)]
    stored = messages.decode(messages.Announcement, client.get(keys.site("ab")))
    assert stored.software == "fedelta 1"
    assert client.time()[0] - 5 <= stored.seen <= client.time()[0] + 1
