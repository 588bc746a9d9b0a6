import pytest

from tasks import collect, dispatch, keys, ledger, progress, supervise
from tasks.app import site_queue
from tasks.bell import Call
from tasks.ledger import Ledger
from tasks.site_ledger import LEASE, SiteLedger
from tests.conftest import constant, drain, make_spec, submit, zeros


@pytest.fixture
def clock(monkeypatch):
    """The ledger's clock, to be moved by hand."""
    time = {"now": 1000.0}
    monkeypatch.setattr(ledger, "_now", lambda _pipe: time["now"])
    return time


def begin(client, **changes):
    Ledger(client).create("trial", make_spec(**changes), zeros())


def repair(client, alive=None):
    with Ledger(client).turn("trial") as turn:
        return supervise.repair(turn, alive or {})


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
    details = [event.detail for event in progress.events(client, "trial")]
    assert details == ["nobody is at work on it 11 s after it was sent"] * 3


def test_an_order_is_not_sent_again_too_soon_or_while_its_message_waits(client, clock):
    begin(client)
    assert repair(client).head.resent == 0
    dispatch.train("trial", "a", 1)
    clock["now"] += LEASE + 1
    new = repair(client)
    assert dispatch.num_waiting(site_queue("a")) == 1
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
    new = repair(client, alive={"a": "new"})
    assert (new.sites["a"].attempt, new.sites["c"].attempt) == (2, 1)
    taken = SiteLedger(client).take("trial", "a/1", "new")
    assert taken.order.attempt == 2
    assert repair(client, alive={"a": "new"}).sites["a"].attempt == 2  # its own lease is no reason


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
