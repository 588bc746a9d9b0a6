import time

import pytest

from tasks import collect, dispatch, keys, progress, supervise
from tasks.app import SUPERVISE_EVERY, site_queue
from tasks.bell import Call
from tasks.ledger import Ledger
from tasks.site_ledger import LEASE, SiteLedger
from tasks.supervise import JUST_SENT, Care
from tests.conftest import announce, constant, drain, make_spec, sent, submit, zeros


def begin(client, **changes):
    Ledger(client).create("trial", make_spec(**changes), zeros())


def repair(client, **care):
    with Ledger(client).turn("trial") as turn:
        return supervise.repair(turn, Care(**care))


def score(client, *sites, version=0, mse=1.0, num_examples=10):
    for site in sites:
        SiteLedger(client).put_evaluation("trial", site, version, num_examples, {"mse": mse, "r2": None})


def close_evaluation(client):
    with Ledger(client).turn("trial") as turn:
        return collect.close_evaluation(turn)


def test_an_order_whose_message_was_lost_is_sent_again_and_counted(client, clock):
    begin(client)
    clock["now"] += LEASE + 1
    new = repair(client)
    assert new.head.resent == 3
    assert {site: record.attempt for site, record in new.sites.items()} == {"a": 2, "ab": 2, "c": 2}
    assert {record.sequence for record in new.sites.values()} == {1}  # the same orders, the same deltas
    details = [event.detail for event in progress.events(client, "trial") if event.kind == "resent"]
    assert details == ["nobody is at work on it 11 s after it was sent"] * 3


def test_an_order_is_not_sent_again_too_soon_or_while_its_message_waits(client, clock):
    begin(client)
    assert repair(client).head.resent == 0
    dispatch.train("trial", "a", 1)
    clock["now"] += LEASE + 1
    new = repair(client)
    assert dispatch.num_waiting([site_queue("a")]) == {"site.a": 1}
    assert (new.sites["a"].attempt, new.sites["ab"].attempt) == (1, 2)


def test_an_order_with_a_living_lease_is_left_alone_however_long_it_takes(client, clock):
    begin(client)
    SiteLedger(client).take("trial", "a/1", "worker")
    clock["now"] += 3600
    assert repair(client).sites["a"].attempt == 1


def test_what_a_dead_worker_held_is_sent_again_as_soon_as_another_has_started(client):
    begin(client)
    SiteLedger(client).take("trial", "a/1", "dead")
    SiteLedger(client).take("trial", "c/1", "dead")
    new = repair(client, started={"a": "new"})
    assert (new.sites["a"].attempt, new.sites["c"].attempt) == (2, 1)
    taken = SiteLedger(client).take("trial", "a/1", "new")
    assert taken.order.attempt == 2
    assert repair(client, started={"a": "new"}).sites["a"].attempt == 2  # its own lease is no reason


def test_a_submission_that_the_inbox_does_not_name_is_put_back_into_it(client):
    begin(client)
    submit(client, "a/1", constant(1.0))
    client.delete(keys.inbox("trial"))
    repair(client)
    assert drain(client).head.applied == 1


def test_the_experiment_ends_when_its_seconds_are_over(client, clock):
    begin(client, stop={"seconds": 60})
    clock["now"] += 61
    new = repair(client)
    assert (new.head.phase, new.head.outcome, new.head.reason) == (
        "finishing",
        "completed",
        "60 seconds have passed",
    )


def test_an_evaluation_is_closed_when_every_site_has_answered(client):
    begin(client)
    score(client, "a", "c", mse=1.0, num_examples=10)
    assert close_evaluation(client).head.evaluating == 0
    score(client, "ab", mse=4.0, num_examples=20)
    new = close_evaluation(client)
    assert (new.head.evaluating, new.head.evaluated) == (None, 0)
    (row,) = progress.metrics(client, "trial")
    assert (row.metrics, row.num_sites) == ({"mse": 2.5, "r2": None}, 3)


def test_an_evaluation_does_not_wait_for_a_site_that_is_not_there(client, clock):
    begin(client)
    score(client, "a", "c")
    clock["now"] += collect.ANSWER_SECONDS + 1
    assert close_evaluation(client).head.evaluated == 0


def test_an_evaluation_waits_for_a_site_that_is_there_until_it_gives_up(client, clock):
    begin(client)
    clock["now"] = float(client.time()[0])  # sites announce themselves by the ledger's own clock
    SiteLedger(client).announce(["ab"], "test", Call(kind="here"))
    with Ledger(client).turn("trial") as turn:
        assert turn.present() == {"ab"}
    score(client, "a", "c")
    clock["now"] = 1000.0 + collect.ANSWER_SECONDS + 1
    with Ledger(client).turn("trial") as turn:
        turn.present = lambda: {"ab"}
        assert not collect.is_complete(turn, {"a", "c"})
    clock["now"] = 1000.0 + collect.GIVE_UP_SECONDS + 1
    with Ledger(client).turn("trial") as turn:
        turn.present = lambda: {"ab"}
        assert collect.is_complete(turn, {"a", "c"})


def test_closing_an_evaluation_leaves_the_inbox_alone(client):
    begin(client)
    submit(client, "a/1", constant(1.0))
    score(client, "a", "ab", "c")
    close_evaluation(client)
    assert drain(client).head.applied == 1


def test_a_target_that_is_reached_ends_the_experiment(client):
    begin(client, stop={"target": {"metric": "mse", "value": 0.5}})
    score(client, "a", "ab", "c", mse=0.5)
    new = close_evaluation(client)
    assert (new.head.phase, new.head.reason) == ("finished", "mse has reached 0.5")


def test_patience_ends_the_experiment_after_evaluations_without_a_better_one(client):
    begin(client, stop={"patience": 2}, evaluation={"every": 1})
    for version, mse in enumerate([3.0, 2.0, 2.0, 5.0]):
        score(client, "a", "ab", "c", version=version, mse=mse)
        assert close_evaluation(client).head.evaluated == version
        if version < 3:
            submit(client, f"a/{version + 1}", constant(1.0))
            drain(client)
    head = progress.read(client, "trial").head
    assert (head.phase, head.reason) == ("finished", "mse is no better since 2 evaluations")


def test_a_finishing_experiment_is_finished_when_its_last_version_is_scored(client):
    begin(client, stop={"updates": 1})
    submit(client, "a/1", constant(1.0))
    assert drain(client).head.phase == "finishing"
    score(client, "a", "ab", "c", version=1)
    new = close_evaluation(client)
    assert new.head.phase == "finished"
    assert Ledger(client).running() == []


# A worker or a coordinator that has just started


def test_what_nobody_holds_is_sent_at_once_to_a_worker_that_starts(client, clock):
    begin(client)
    SiteLedger(client).take("trial", "c/1", "busy")
    clock["now"] += JUST_SENT + 0.1
    new = repair(client, started={"a": "new", "c": "busy"})
    assert {site: record.attempt for site, record in new.sites.items()} == {"a": 2, "ab": 1, "c": 1}
    (event,) = [event for event in progress.events(client, "trial") if event.kind == "resent"]
    assert (event.order, event.detail) == ("a/1", "nobody is at work on it 1 s after it was sent")


def test_what_waits_in_the_queue_of_a_worker_that_starts_is_not_sent_again(client, clock):
    begin(client)
    dispatch.train("trial", "a", 1)
    clock["now"] += JUST_SENT + 0.1
    assert repair(client, started={"a": "new"}).sites["a"].attempt == 1


def test_an_order_that_a_worker_which_starts_may_be_about_to_take_is_not_sent_again(client, clock):
    begin(client)
    clock["now"] += JUST_SENT - 0.1
    assert repair(client, started={"a": "new"}).sites["a"].attempt == 1


def test_welcome_sends_a_dead_workers_order_to_its_successor(client):
    begin(client)
    SiteLedger(client).take("trial", "a/1", "dead")
    supervise.welcome("a", "0123456789abcdef")
    assert sent(client, site_queue("a")) == ["a.1.trial"]
    assert SiteLedger(client).take("trial", "a/1", "0123456789abcdef") is not None


def test_a_coordinator_that_has_just_started_is_less_patient_with_what_its_predecessor_may_not_have_sent(
    client, clock
):
    begin(client)
    clock["now"] += SUPERVISE_EVERY - 0.1
    assert repair(client, patience=SUPERVISE_EVERY).head.resent == 0
    clock["now"] += 0.2
    assert repair(client, patience=SUPERVISE_EVERY).head.resent == 3


@pytest.mark.parametrize(
    ("lived", "patience"), [(0.0, 1.0), (3.0, 4.0), (LEASE - 2.0, 9.0), (LEASE + 0.5, 10.0), (1e6, 10.0)]
)
def test_a_coordinator_is_less_patient_with_orders_that_are_older_than_itself(
    client, monkeypatch, lived, patience
):
    begin(client)
    cares = []
    monkeypatch.setattr(supervise, "look_after", lambda ledger, experiment, care: cares.append(care))
    monkeypatch.setattr(supervise, "_BEGUN", time.monotonic() - lived)
    supervise.supervise()
    assert [care.patience for care in cares] == [pytest.approx(patience, abs=0.2)]


# What must hold up nobody


@pytest.mark.parametrize("task", [supervise.supervise, lambda: supervise.welcome("c", "0f")])
def test_an_experiment_that_cannot_be_read_is_named_and_the_others_are_looked_after(client, caplog, task):
    for name in ("early", "trial"):
        Ledger(client).create(name, make_spec(name=name), zeros())
    SiteLedger(client).take("trial", "c/1", "worker")
    submit(client, "a/1", constant(1.0))
    client.hset(keys.head("early"), "version", "many")
    task()
    assert progress.read(client, "trial").head.applied == 1
    said = "early: cannot be looked after: Head: version: should be a valid integer"
    assert [line for line in caplog.messages if line.startswith("early")][0].startswith(said)


def test_an_experiment_whose_model_is_lost_is_named_and_the_others_are_looked_after(client, caplog):
    for name in ("early", "trial"):
        Ledger(client).create(name, make_spec(name=name), zeros())
    client.rpush(keys.inbox("early"), "a")
    client.delete(keys.model("early", 0))
    submit(client, "a/1", constant(1.0))
    supervise.supervise()
    assert progress.read(client, "trial").head.applied == 1
    assert "early: cannot be looked after: experiment early: the ledger has lost" in caplog.text


def test_a_submission_that_was_cut_off_is_no_error(client, caplog):
    begin(client)
    client.sadd(keys.RUNNING, "early")  # the name is written first
    with caplog.at_level("INFO"):
        supervise.supervise()
    assert "early" not in caplog.text


# A clock that was set back


def test_orders_of_a_time_that_is_to_come_are_sent_again(client, clock):
    clock["now"] = 10_000.0
    begin(client)
    clock["now"] -= LEASE - 1
    assert repair(client).head.resent == 0
    clock["now"] -= 2
    assert repair(client).head.resent == 3


def test_an_evaluation_of_a_time_that_is_to_come_is_given_up(client, clock):
    clock["now"] = 10_000.0
    begin(client)
    score(client, "a", "c")
    clock["now"] -= collect.ANSWER_SECONDS - 1
    assert close_evaluation(client).head.evaluating == 0
    clock["now"] -= 2
    assert close_evaluation(client).head.evaluated == 0


def test_sites_that_have_not_scored_are_asked_again_every_so_often(client, clock):
    begin(client)
    score(client, "c")
    asked = []
    for _ in range(16):  # for 32 s, and a lease is 10
        clock["now"] += SUPERVISE_EVERY
        with Ledger(client).turn("trial") as turn:
            asked.append(supervise.missing_scores(turn))
    assert [sites for sites in asked if sites] == [["a", "ab"]] * 3


def test_what_nobody_could_say_while_redis_was_away_is_held_against_no_site(monkeypatch):
    clock = {"now": 100.0}
    monkeypatch.setattr(supervise.time, "monotonic", lambda: clock["now"])
    outage = supervise.Outage()
    assert outage.is_over(None) and outage.is_over(2.0)
    assert not outage.is_over(14.0)
    clock["now"] += LEASE - 0.1
    assert not outage.is_over(2.0)
    clock["now"] += 0.2
    assert outage.is_over(2.0)


def test_after_an_outage_the_roll_is_called_when_the_sites_have_had_their_time(client, clock):
    begin(client)
    clock["now"] += LEASE + 1
    assert not any(record.is_away for record in repair(client, is_outage_over=False).sites.values())
    clock["now"] += LEASE + 1
    assert all(record.is_away for record in repair(client).sites.values())


# Before training

LAYOUT = {"features": ["x"], "target": {"kind": "regression", "column": "y"}}


def test_an_experiment_that_is_being_described_is_not_over_and_lost_orders_are_sent_again(client, clock):
    begin(client, data={"dataset": "ours", "layout": LAYOUT}, stop={"seconds": 1})
    clock["now"] += LEASE + 1
    announce(client, "a", "ab", "c", seen=clock["now"])
    new = repair(client)
    assert (new.head.phase, new.head.resent, new.head.reason) == ("describing", 3, "")
    with Ledger(client).turn("trial") as turn:
        assert supervise.missing_scores(turn) == []


def test_welcome_sends_a_site_that_starts_its_order_to_describe(client):
    begin(client, data={"dataset": "ours", "layout": LAYOUT})
    SiteLedger(client).take("trial", "a/1", "dead")
    supervise.welcome("a", "0123456789abcdef")
    assert sent(client, site_queue("a")) == ["a.1.trial"]
    taken = SiteLedger(client).take("trial", "a/1", "0123456789abcdef")
    assert taken.order.asks == "describe"
