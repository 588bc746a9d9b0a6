import dataclasses
import threading

import pytest
import redis

from orchestrator import children, control
from orchestrator.private_redis import PrivateRedis
from tasks import codec, dispatch, keys, messages, progress, snapshot
from tasks.bell import Call
from tasks.ledger import Ledger
from tasks.site_ledger import SiteLedger
from tests.conftest import constant, drain, make_spec, submit, zeros
from workers.errors import MalformedMessage, NotFound

SITES = ("a", "ab", "c")


@pytest.fixture
def elsewhere(tmp_path, client):
    """Another Redis, empty."""
    private = PrivateRedis(tmp_path / "elsewhere", tmp_path / "log")
    process = private.start()
    with redis.Redis.from_url(private.broker_url.replace("redis+socket://", "unix://")) as found:
        yield found
    children.end([process], grace_seconds=3.0)
    private.remove_home()


@pytest.fixture(autouse=True)
def nothing_is_sent(monkeypatch):
    monkeypatch.setattr(dispatch, "follow", lambda *_: None)


def begin(client, **changes):
    spec = make_spec(**changes)
    memory = zeros()
    assert Ledger(client).create("trial", spec, memory) is not None


def stop(client):
    """Stop it, without the last score."""
    control.stop(client, "trial")
    now = client.time()[0]
    client.hset(keys.head("trial"), mapping={"phase": "finished", "evaluating": "", "finished": str(now)})


def head_of(client):
    return progress.read(client, "trial").head


def order_of(client, site):
    (record,) = [found.record for found in progress.read(client, "trial").sites if found.name == site]
    return None if record.base_version is None else f"{site}/{record.sequence}"


def work(client, *values, site="a"):
    """Let the site submit these, one after another."""
    for value in values:
        assert submit(client, order_of(client, site), constant(value))
        drain(client)


def move(client, elsewhere):
    taken = snapshot.take(client, "trial")
    assert snapshot.put(elsewhere, taken)
    return taken


def rows(client, key):
    return [fields[b"row"] for _, fields in client.xrange(key)]


def everything(client):
    """What an experiment is: every key, but when it stopped, and that it was imported."""
    found = {key: client.get(key) for key in (keys.spec("trial"), keys.memory("trial"))}
    head = client.hgetall(keys.head("trial"))
    found["head"] = {name: value for name, value in head.items() if name not in (b"finished", b"paused")}
    found["sites"] = client.hgetall(keys.sites("trial"))
    found["model"] = client.get(keys.model("trial", int(head[b"version"])))
    for stream in snapshot.streams(make_spec().experiment):
        found[stream.name] = [row for row in rows(client, stream.key) if b"imported" not in row]
    return found


def fill(client):
    """Two updates, a refusal, scores of version 0, and some of what is in flight."""
    SiteLedger(client).put_evaluation("trial", "a", 0, 10, {"mse": 1.5, "r2": None})
    work(client, 1.0, 2.0)
    submit(client, order_of(client, "ab"), {"weight": zeros()["weight"]})
    drain(client)
    submit(client, order_of(client, "c"), constant(4.0))  # not drained


def test_what_was_stopped_is_the_same_elsewhere_byte_for_byte(client, elsewhere):
    begin(client)
    fill(client)
    stop(client)
    move(client, elsewhere)
    assert everything(elsewhere) == everything(client)
    assert [len(rows(elsewhere, key("trial"))) for key in (keys.history, keys.metrics)] == [2, 0]
    assert len(rows(elsewhere, keys.evaluations("trial", "a"))) == 1
    assert Ledger(elsewhere).names() == ["trial"] and Ledger(elsewhere).running() == []


def test_one_that_runs_is_stopped_in_the_snapshot_and_goes_on_where_it_is(client, elsewhere):
    begin(client)
    fill(client)
    before = {key: client.dump(key) for key in client.keys()}
    taken = move(client, elsewhere)
    assert {key: client.dump(key) for key in client.keys()} == before
    assert taken.was_running
    head = head_of(elsewhere)
    assert (head.phase, head.outcome, head.reason) == ("finished", "stopped", "exported while it ran")
    assert (head.applied, head.version, head.refused, head.evaluating) == (2, 2, 1, None)
    records = {found.name: found.record for found in progress.read(elsewhere, "trial").sites}
    assert all(record.base_version is None and record.is_owed for record in records.values())


def test_nothing_that_was_in_flight_is_elsewhere(client, elsewhere):
    begin(client)
    fill(client)
    SiteLedger(client).take("trial", order_of(client, "a"), "worker")
    assert client.keys("*:lease:*") and client.keys("*:delta:*") and client.keys("*:inbox")
    move(client, elsewhere)
    kept = {key.decode().rpartition("}:")[2].partition(":")[0] for key in elsewhere.keys("fedelta:{trial}:*")}
    assert kept == {"spec", "head", "sites", "model", "memory", "history", "events", "evaluations"}
    assert len(elsewhere.keys("*:model:*")) == 1


STRATEGIES = {
    "fedasync": {"kind": "fedasync", "mixing_rate": 0.5},
    "fedbuff": {
        "kind": "fedbuff",
        "buffer_size": 4,
        "server_optimizer": {"name": "adam", "learning_rate": 0.1},
    },
    "fedavg": {"kind": "fedavg", "server_optimizer": {"name": "sgd", "learning_rate": 1.0, "momentum": 0.9}},
}
BEFORE = [("a", 1.0), ("ab", 2.0), ("c", 4.0), ("a", 8.0), ("c", 16.0)]  # half a buffer, half a round
AFTER = [("a", 0.5), ("ab", -3.0), ("c", 1.0), ("ab", 2.0), ("c", 5.0), ("a", -1.0)]


def go_on(client, steps):
    for site, value in steps:
        if order := order_of(client, site):
            submit(client, order, constant(value))
            drain(client)


@pytest.mark.parametrize("kind", STRATEGIES)
def test_going_on_elsewhere_gives_what_going_on_would_have_given(client, elsewhere, kind):
    begin(client, strategy=STRATEGIES[kind])
    go_on(client, BEFORE)
    move(client, elsewhere)
    memory = codec.decode_tree(elsewhere.get(keys.memory("trial")), None)
    assert {"fedasync": 0, "fedbuff": 1, "fedavg": 2}[kind] == memory.get(
        "count", 0
    )  # something is half done
    stop(client)
    for one in (client, elsewhere):
        control.resume(one, "trial")
        go_on(one, AFTER)
    here, there = head_of(client), head_of(elsewhere)
    assert (there.version, there.applied) == (here.version, here.applied)
    assert there.version > {"fedasync": 5, "fedbuff": 1, "fedavg": 1}[kind]
    for key in (keys.model("trial", here.version), keys.memory("trial"), keys.sites("trial")):
        assert key.endswith("sites") or elsewhere.get(key) == client.get(key)


def test_the_time_until_it_is_resumed_is_a_pause(client, elsewhere, monkeypatch):
    begin(client)
    work(client, 1.0)
    client.hset(keys.head("trial"), "paused", "30.0")  # it was stopped before
    taken = snapshot.take(client, "trial")
    now = taken.taken + 100.0
    monkeypatch.setattr(snapshot.turn, "now", lambda _: now)
    snapshot.put(elsewhere, taken)
    head = head_of(elsewhere)
    assert (head.finished, head.paused) == (now, pytest.approx(130.0))
    event = list(progress.events(elsewhere, "trial"))[-1]
    assert (event.kind, event.time, event.pause) == ("imported", now, pytest.approx(100.0))
    assert event.detail.endswith(" UTC after 1 updates") and event.detail.startswith("exported on 2")
    monkeypatch.setattr(snapshot.turn, "now", lambda _: now + 7.0)
    control.resume(elsewhere, "trial")
    assert head_of(elsewhere).paused == pytest.approx(137.0)


def test_a_clock_that_is_behind_makes_no_pause_negative_and_it_can_be_resumed(client, elsewhere, monkeypatch):
    begin(client)
    taken = snapshot.take(client, "trial")
    now = taken.taken - 300.0
    monkeypatch.setattr(snapshot.turn, "now", lambda _: now)
    snapshot.put(elsewhere, taken)
    assert (head_of(elsewhere).finished, head_of(elsewhere).paused) == (now, 0.0)
    control.resume(elsewhere, "trial")
    assert head_of(elsewhere).paused == 0.0


def test_a_snapshot_is_of_one_moment_though_commits_follow_one_another(client):
    """FedBuff, K = 3, always 1: the model is the version, the buffer's sum its count."""
    begin(client, strategy={"kind": "fedbuff", "buffer_size": 3, "staleness": {"kind": "constant"}})
    is_over = threading.Event()

    def commit():
        while not is_over.is_set():
            work(client, 1.0)

    coordinator = threading.Thread(target=commit)
    coordinator.start()
    try:
        taken = []
        while len(taken) < 40 or taken[-1][0].state.head.applied < 60:
            found = snapshot.take(client, "trial")
            taken.append(
                (found, [messages.decode(messages.HistoryRow, row) for row in found.rows(history(found))])
            )
    finally:
        is_over.set()
        coordinator.join()
    assert len({found.state.head.applied for found, _ in taken}) > 10  # it did go on meanwhile
    for found, history_rows in taken:
        head = found.state.head
        assert len(history_rows) == head.applied == found.state.sites["a"].updates
        assert head.version == head.applied // 3
        memory, model = codec.decode_tree(found.memory, None), codec.decode_tree(found.model, None)
        assert memory["count"] == memory["sum/bias"] == head.applied % 3
        assert model["bias"] == head.version


def history(found):
    return snapshot.streams(found.spec.experiment)[0]


def test_a_model_that_moves_on_while_it_is_read_is_read_again(client, monkeypatch):
    begin(client)
    read, late = snapshot._read, iter([5, 3, 0])

    def read_later(*arguments):
        work(client, *[1.0] * next(late))
        return read(*arguments)

    monkeypatch.setattr(snapshot, "_read", read_later)
    assert snapshot.take(client, "trial").state.head.version == 8


def test_what_is_appended_later_is_not_in_the_snapshot_and_every_page_is(client, monkeypatch):
    monkeypatch.setattr(snapshot, "PAGE", 2)
    begin(client)
    work(client, *[1.0] * 5)
    taken = snapshot.take(client, "trial")
    work(client, *[1.0] * 3)
    whole = rows(client, keys.history("trial"))
    assert len(whole) == 8
    assert list(taken.rows(history(taken))) == whole[:5]
    assert list(taken.rows(history(taken))) == whole[:5]  # again


def test_a_score_that_is_none_is_left_out_and_a_flood_of_them_is_cut(client, monkeypatch):
    begin(client)
    key = keys.evaluations("trial", "c")
    client.xadd(key, {"row": b"garbage"})
    client.xadd(key, {"other": b""})
    for version in range(5):
        SiteLedger(client).put_evaluation("trial", "c", version, 10, {"mse": 1.0})
    monkeypatch.setattr(snapshot, "MAX_EVALUATIONS", 2)
    taken = snapshot.take(client, "trial")
    (stream,) = [found for found in snapshot.streams(taken.spec.experiment) if found.key == key]
    kept = [messages.decode(messages.EvaluationRow, row).version for row in taken.rows(stream)]
    assert kept == [0, 1, 2, 3]  # twice of what is kept


def test_a_row_of_the_coordinators_that_is_none_is_told(client):
    begin(client)
    work(client, 1.0)
    client.xadd(keys.history("trial"), {"row": b"garbage"})
    taken = snapshot.take(client, "trial")
    with pytest.raises(MalformedMessage, match="^history, row 2: "):
        list(taken.rows(history(taken)))


def test_a_name_that_is_taken_changes_nothing(client, elsewhere):
    begin(client)
    work(client, 1.0)
    taken = snapshot.take(client, "trial")
    begin(elsewhere)
    before = {key: elsewhere.dump(key) for key in elsewhere.keys()}
    assert not snapshot.put(elsewhere, taken)
    assert {key: elsewhere.dump(key) for key in elsewhere.keys()} == before


def test_of_two_imports_at_once_one_is_refused(client, elsewhere):
    begin(client)
    work(client, 1.0)
    taken = snapshot.take(client, "trial")

    def rows_during_which_another_comes(stream):
        if stream.name == "history":
            assert snapshot.put(elsewhere, taken)
        return taken.rows(stream)

    assert not snapshot.put(elsewhere, dataclasses.replace(taken, rows=rows_during_which_another_comes))
    assert len(rows(elsewhere, keys.history("trial"))) == 1
    assert len(list(progress.events(elsewhere, "trial"))) == 1


def test_an_import_that_breaks_off_leaves_nothing_and_a_second_one_works(client, elsewhere):
    begin(client)
    work(client, 1.0, 2.0)
    taken = snapshot.take(client, "trial")

    def broken(stream):
        yield from taken.rows(stream)
        if stream.name == "metrics":
            raise MalformedMessage("metrics: is damaged")

    with pytest.raises(MalformedMessage):
        snapshot.put(elsewhere, dataclasses.replace(taken, rows=broken))
    assert elsewhere.keys() == []
    assert snapshot.put(elsewhere, taken)


def test_remains_of_an_experiment_that_redis_has_forgotten_are_removed(client, elsewhere):
    begin(client)
    work(client, 1.0)
    taken = snapshot.take(client, "trial")
    begin(elsewhere)
    fill(elsewhere)
    elsewhere.hset(keys.head("trial"), "strange", "field")
    elsewhere.hset(keys.sites("trial"), "stranger", b"record")
    elsewhere.delete(keys.spec("trial"))
    assert snapshot.put(elsewhere, taken)
    got = {found.name: found.record.updates for found in progress.read(elsewhere, "trial").sites}
    assert got == {"a": 1, "ab": 0, "c": 0}
    assert everything(elsewhere)["history"] == rows(client, keys.history("trial"))
    assert elsewhere.hlen(keys.sites("trial")) == 3 and not elsewhere.hexists(keys.head("trial"), "strange")
    assert not elsewhere.keys("*:order:*") + elsewhere.keys("*:delta:*") + elsewhere.keys("*:inbox")
    assert rows(elsewhere, keys.evaluations("trial", "a")) == []
    assert Ledger(elsewhere).running() == []


def test_an_experiment_that_is_not_there_or_has_lost_its_model_is_told(client):
    with pytest.raises(NotFound, match="no experiment 'trial' in the ledger; there: none"):
        snapshot.take(client, "trial")
    begin(client)
    client.delete(keys.model("trial", 0))
    with pytest.raises(NotFound, match="the ledger has lost its model"):
        snapshot.take(client, "trial")


def test_the_rights_of_the_command_line_suffice_to_move_an_experiment(client, tls_centre):
    begin(client)
    fill(client)
    operator = tls_centre.connect("operator")
    assert snapshot.put(operator, snapshot.take(client, "trial"))
    again = snapshot.take(operator, "trial")
    assert [len(list(again.rows(stream))) for stream in snapshot.streams(again.spec.experiment)] == [
        *(2, 0, 2, 1, 0, 0)
    ]


def test_a_site_may_announce_itself_meanwhile(client, elsewhere):
    SiteLedger(elsewhere).announce(SITES, "fedelta 0.1.0", Call(kind="here"))
    begin(client)
    move(client, elsewhere)
    assert all(found.seen is not None for found in progress.read(elsewhere, "trial").sites)
