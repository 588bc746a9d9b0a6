"""The coordinator's ear, with a real ledger and a real queue."""

import base64
import json
import threading

import msgpack
import pytest

from orchestrator import children
from orchestrator.private_redis import PrivateRedis
from tasks import bell, coordinator, dispatch, keys, reception
from tasks.app import COORDINATOR_QUEUE, app, connect, use_broker
from tasks.bell import Call
from tasks.ledger import Ledger
from tasks.reception import FORGET_SECONDS, Reception
from tests.conftest import constant, make_spec, submit, zeros
from tests.machine import wait_until
from tests.test_bell import DEADLINE, has_listener, ring


@pytest.fixture
def clock(monkeypatch):
    """The reception's clock, to be moved by hand."""
    time = {"now": 50.0}
    monkeypatch.setattr(reception.time, "monotonic", lambda: time["now"])
    return time


@pytest.fixture
def listening(monkeypatch):
    """Start a reception's thread, which ends with the test."""
    monkeypatch.setattr(bell, "PATIENCE_SECONDS", 0.02)  # it looks whether it is to stop as often
    ear = Reception()

    def start():
        ear.start()
        wait_until(has_listener)
        return ear

    yield start
    ear.stop()
    wait_until(lambda: "reception" not in [thread.name for thread in threading.enumerate()])


def begin(client, *names):
    for name in names:
        Ledger(client).create(name, make_spec(name=name), zeros())


def waiting(client):
    """The messages in the coordinator's queue, oldest first: task and arguments."""
    found = []
    for entry in reversed(client.lrange(COORDINATOR_QUEUE, 0, -1)):
        message = json.loads(entry)
        _, arguments, _ = msgpack.unpackb(base64.b64decode(message["body"]))
        found.append((message["headers"]["task"], arguments))
    return found


def submitted(experiment="trial"):
    return Call(kind="submitted", experiment=experiment, number=1)


def scored(experiment="trial"):
    return Call(kind="scored", experiment=experiment)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (submitted(), ("aggregate", {"experiment": "trial"})),
        (Call(kind="submitted", experiment="trial", has_failed=True), ("aggregate", {"experiment": "trial"})),
        (scored(), ("collect", {"experiment": "trial"})),
        (Call(kind="started", holder="0f"), ("welcome", {"site": "a", "holder": "0f"})),
    ],
)
def test_what_a_site_has_done_becomes_the_message_that_deals_with_it(client, call, message):
    begin(client, "trial")
    Reception().answer(client, "a", call)
    assert waiting(client) == [message]


@pytest.mark.parametrize("kind", ["here", "taken", "gone"])
def test_what_is_only_to_be_known_becomes_no_message(client, kind):
    begin(client, "trial")
    Reception().answer(client, "a", Call(kind=kind, experiment="trial", number=1, holder="0f"))
    assert waiting(client) == []


@pytest.mark.parametrize("call", [submitted("nobody"), scored("nobody"), submitted(""), scored("")])
def test_an_experiment_that_is_not_there_gets_no_message(client, call):
    begin(client, "trial")
    Reception().answer(client, "a", call)
    assert waiting(client) == []


@pytest.mark.parametrize("call", [submitted(), scored()])
def test_an_experiment_that_is_finished_gets_no_message(client, call):
    begin(client, "trial")
    client.srem(keys.RUNNING, "trial")
    Reception().answer(client, "a", call)
    assert waiting(client) == []


def test_a_flood_of_calls_for_one_experiment_is_one_message_that_waits(client, clock):
    begin(client, "trial")
    ear = Reception()
    for number in range(200):
        ear.answer(client, ("a", "ab", "c")[number % 3], submitted())
        clock["now"] += 0.004
    assert waiting(client) == [("aggregate", {"experiment": "trial"})]


def test_after_its_message_was_taken_an_experiment_gets_another(client, clock):
    begin(client, "trial")
    ear = Reception()
    ear.answer(client, "a", submitted())
    ear.taken("aggregate", "trial")
    ear.answer(client, "ab", submitted())
    ear.answer(client, "c", submitted())
    assert waiting(client) == [("aggregate", {"experiment": "trial"})] * 2


def test_a_message_that_is_taken_says_nothing_of_other_tasks_or_experiments(client, clock):
    begin(client, "trial")
    ear = Reception()
    ear.answer(client, "a", submitted())
    ear.taken("collect", "trial")
    ear.taken("aggregate", "second")
    ear.taken("supervise", "")
    ear.answer(client, "a", submitted())
    assert len(waiting(client)) == 1


def test_tasks_experiments_and_sites_do_not_wait_for_one_another(client, clock):
    begin(client, "trial", "second")
    ear = Reception()
    for call in (submitted(), scored(), submitted("second")):
        ear.answer(client, "a", call)
    for site in ("a", "ab", "a"):
        ear.answer(client, site, Call(kind="started", holder="0f"))
    assert waiting(client) == [
        ("aggregate", {"experiment": "trial"}),
        ("collect", {"experiment": "trial"}),
        ("aggregate", {"experiment": "second"}),
        ("welcome", {"site": "a", "holder": "0f"}),
        ("welcome", {"site": "ab", "holder": "0f"}),
    ]


def test_a_message_that_another_coordinator_took_is_not_waited_for_long(client, clock):
    begin(client, "trial")
    ear = Reception()
    ear.answer(client, "a", submitted())
    clock["now"] += FORGET_SECONDS - 0.01
    ear.answer(client, "a", submitted())
    assert len(waiting(client)) == 1
    clock["now"] += 0.01
    ear.answer(client, "a", submitted())
    assert len(waiting(client)) == 2


@pytest.mark.parametrize(
    ("task", "arguments", "about"),
    [
        ("aggregate", {"experiment": "trial"}, "trial"),
        ("collect", {"experiment": "trial"}, "trial"),
        ("welcome", {"site": "a", "holder": "0f"}, "a"),
        ("supervise", {}, ""),
    ],
)
def test_the_coordinator_says_what_it_takes_before_it_reads_the_ledger(
    client, monkeypatch, task, arguments, about
):
    begin(client, "trial")
    said = []
    monkeypatch.setattr(coordinator.reception, "taken", lambda *what: said.append(what))
    app.tasks[task].apply(kwargs=arguments, throw=True)
    assert said == [(task, about)]


def test_what_is_rung_is_answered(client, listening):
    begin(client, "trial")
    listening()
    submit(client, "a/1", constant(1.0))
    wait_until(lambda: client.llen(COORDINATOR_QUEUE))
    assert waiting(client) == [("aggregate", {"experiment": "trial"})]


def test_a_call_that_cannot_be_answered_is_logged_and_the_next_is(client, listening, monkeypatch, caplog):
    send = dispatch.welcome

    def fail_for_a(site, holder):
        if site == "a":
            raise OSError("the queue is away")
        send(site, holder)

    monkeypatch.setattr(dispatch, "welcome", fail_for_a)
    listening()
    ring(client, "a", Call(kind="started", holder="0f"))
    client.publish(keys.bell("a"), b"garbage")
    ring(client, "ab", Call(kind="started", holder="0f"))
    wait_until(lambda: client.llen(COORDINATOR_QUEUE))
    assert waiting(client) == [("welcome", {"site": "ab", "holder": "0f"})]
    answered, heard = caplog.records
    assert answered.getMessage() == "the call of site a could not be answered"
    assert str(answered.exc_info[1]) == "the queue is away"
    assert heard.getMessage().startswith("site 'a' rang with what is no call: ")


def test_after_it_was_stopped_nothing_is_answered(client, listening):
    begin(client, "trial")
    listening().stop()
    wait_until(lambda: not has_listener())
    ring(client, "a", submitted())
    assert waiting(client) == []


def test_the_sites_are_answered_again_after_redis_was_away(
    client, private_redis, tmp_path, listening, monkeypatch, caplog
):
    answered = []
    monkeypatch.setattr(dispatch, "welcome", lambda site, holder: answered.append((site, holder)))
    server = PrivateRedis(tmp_path / "redis", tmp_path / "log")
    process = server.start()
    try:
        use_broker(server.broker_url)
        listening()
        ring(connect(), "a", Call(kind="started", holder="01"))
        wait_until(lambda: answered)
        children.end([process], grace_seconds=DEADLINE)
        wait_until(lambda: "cannot hear the sites: " in caplog.text)
        process = server.start()
        wait_until(has_listener)
        ring(connect(), "ab", Call(kind="started", holder="02"))
        wait_until(lambda: len(answered) == 2)
        assert answered == [("a", "01"), ("ab", "02")]
    finally:
        use_broker(private_redis.broker_url)
        children.end([process], grace_seconds=DEADLINE)
        server.remove_home()


def test_a_queue_is_a_list_and_nothing_else(client):
    dispatch.welcome("a", "0f")
    dispatch.train("trial", "a", 1)
    assert {(key, client.type(key)) for key in client.keys()} == {
        (b"coordinator", b"list"),
        (b"site.a", b"list"),
    }
    taken, queues = [], [app.amqp.queues[COORDINATOR_QUEUE]]
    with (
        app.connection_for_read() as connection,
        app.amqp.TaskConsumer(connection.default_channel, queues, on_message=taken.append),
    ):
        connection.drain_events(timeout=DEADLINE)
        assert client.keys() == [b"site.a"]  # no set of bindings, none of what is not acknowledged
        taken[0].ack()
    assert client.keys() == [b"site.a"]


def test_what_a_site_rings_while_a_turn_goes_on_leads_to_another_turn(client, monkeypatch):
    begin(client, "trial")
    ear = Reception()
    monkeypatch.setattr(coordinator.reception, "taken", ear.taken)
    ear.answer(client, "a", submitted())
    app.tasks["aggregate"].apply(kwargs={"experiment": "trial"}, throw=True)
    ear.answer(client, "ab", submitted())
    assert len(waiting(client)) == 2
