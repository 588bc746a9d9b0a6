"""The state machine, without Redis."""

import dataclasses

import pytest

from tasks import state
from tasks.state import Head, SiteRecord, State
from tests.conftest import make_spec


def records(new, *fields):
    """These fields of every site's record."""
    return {site: tuple(getattr(record, field) for field in fields) for site, record in new.sites.items()}


def state_of(version=0, **sites):
    return State(
        head=Head(started=0.0, version=version), sites={k: SiteRecord(**v) for k, v in sites.items()}
    )


def begun():
    return state.begin(["a", "b", "c"], now=10.0)


def test_every_order_says_when_it_was_given_and_keeps_it_however_often_it_is_sent():
    new = begun()
    assert records(new, "sequence", "issued", "sent_at") == dict.fromkeys("abc", (1, 10.0, 10.0))
    new = state.resend(new, "a", 25.0)
    assert records(new, "issued", "sent_at", "attempt")["a"] == (10.0, 25.0, 2)
    new = state.order(new, ["a"], 30.0)
    assert records(new, "sequence", "issued", "sent_at", "attempt")["a"] == (2, 30.0, 30.0, 1)


def test_what_is_sent_again_is_counted_at_its_site_and_in_all():
    new = state.resend(state.resend(state.resend(begun(), "a", 20.0), "a", 21.0), "c", 22.0)
    assert (records(new, "resent"), new.head.resent) == ({"a": (2,), "b": (0,), "c": (1,)}, 3)


def test_what_is_refused_is_counted_at_its_site_and_in_all_whether_it_is_a_fault_or_not():
    new = state.order(state.refuse(begun(), "a", is_fault=True), ["a"], 11.0)
    new = state.refuse(new, "a", is_fault=False)
    assert records(new, "refused", "refusals", "base_version")["a"] == (2, 1, None)
    assert new.head.refused == 2


def test_a_site_that_goes_away_in_an_asynchronous_experiment_keeps_its_order():
    new = state.go_away(begun(), "a", takes_back=False)
    assert records(new, "is_away", "is_owed", "base_version", "absences")["a"] == (True, False, 0, 1)
    assert (new.head.absences, new.at_hand, new.outstanding) == (1, ("b", "c"), ("a", "b", "c"))
    back = state.come_back(new, "a", 50.0)
    assert back.sites["a"] == dataclasses.replace(new.sites["a"], is_away=False)


def test_a_site_that_goes_away_from_a_round_gives_its_order_back_and_has_another_when_it_is_there():
    new = state.go_away(begun(), "a", takes_back=True)
    assert records(new, "is_away", "is_owed", "base_version")["a"] == (True, True, None)
    assert (new.outstanding, new.at_hand) == (("b", "c"), ("b", "c"))
    new = state.come_back(state.advance(new, 3), "a", 50.0)
    assert records(new, "is_away", "is_owed", "sequence", "base_version", "issued")["a"] == (
        *(False, False),
        *(2, 3, 50.0),
    )


def test_a_site_that_goes_away_when_its_update_is_in_the_round_is_owed_nothing():
    new = state.accept(begun(), "a", staleness=0, bytes_up=1, bytes_down=1, now=11.0)
    new = state.go_away(new, "a", takes_back=True)
    assert records(new, "is_away", "is_owed")["a"] == (True, False)
    assert state.come_back(new, "a", 50.0).outstanding == ("b", "c")
    owed = state.come_back(state.owe(new, ["a"]), "a", 50.0)
    assert owed.outstanding == ("a", "b", "c")
    assert not owed.sites["a"].is_owed


def test_a_site_that_is_dropped_is_neither_active_nor_at_hand():
    new = state_of(a={"is_dropped": True}, b={"is_away": True}, c={})
    assert (new.active, new.at_hand) == (("b", "c"), ("c",))


def test_a_site_says_what_software_it_has():
    new = state.identify(begun(), "b", "fedelta 2")
    assert records(new, "software") == {"a": ("",), "b": ("fedelta 2",), "c": ("",)}


# At rest, and resumed


def test_at_rest_no_order_is_open_and_nobody_is_asked_to_score():
    new = state.at_rest(begun(), "taken elsewhere", 20.0)
    head = new.head
    assert (head.phase, head.outcome, head.reason, head.finished) == (
        *("finished", "stopped"),
        *("taken elsewhere", 20.0),
    )
    assert (new.outstanding, head.evaluating) == ((), None)
    assert records(new, "is_owed", "sequence") == dict.fromkeys("abc", (True, 1))
    assert state.at_rest(new, "again", 30.0) is new


def test_an_experiment_that_comes_to_its_own_end_is_at_rest_with_that_end():
    finishing = state.finish(begun(), "completed", "5 updates are applied", 20.0)
    assert finishing.head.phase == "finishing"
    head = state.at_rest(finishing, "taken elsewhere", 21.0).head
    assert (head.outcome, head.reason, head.phase) == ("completed", "5 updates are applied", "finished")


def test_an_asynchronous_experiment_is_resumed_with_an_order_for_every_site_away_or_not():
    new = state.go_away(begun(), "a", takes_back=False)
    new = state.resume(state.at_rest(new, "by hand", 20.0), is_synchronous=False, now=100.0)
    assert records(new, "sequence", "issued", "is_owed") == dict.fromkeys("abc", (2, 100.0, False))
    assert (new.head.paused, new.head.phase, new.head.reason) == (80.0, "running", "")
    assert new.sites["a"].is_away


def test_a_round_is_resumed_with_orders_for_who_is_missing_from_it_and_there():
    new = state.accept(begun(), "a", staleness=0, bytes_up=1, bytes_down=1, now=11.0)
    new = state.go_away(new, "c", takes_back=True)
    new = state.resume(state.at_rest(new, "by hand", 20.0), is_synchronous=True, now=100.0)
    assert new.outstanding == ("b",)  # a's update is in the round, and c is away
    assert records(new, "is_owed", "is_away") == {
        **dict.fromkeys("ab", (False, False)),
        "c": (True, True),
    }
    assert state.come_back(new, "c", 110.0).outstanding == ("b", "c")


@pytest.mark.parametrize("is_synchronous", [True, False])
def test_a_site_that_was_dropped_has_another_chance_when_it_is_resumed(is_synchronous):
    new = begun()
    for _ in range(state.MAX_REFUSALS):
        new = state.refuse(state.order(new, ["a"], 11.0), "a", is_fault=True)
    assert new.sites["a"].is_dropped
    new = state.resume(state.at_rest(new, "by hand", 20.0), is_synchronous=is_synchronous, now=100.0)
    assert new.outstanding == ("a", "b", "c")
    assert records(new, "is_dropped", "refusals", "refused")["a"] == (False, 0, state.MAX_REFUSALS)


# Before training


def describing():
    return state.begin(["a", "b", "c"], now=10.0, is_described=False)


def test_an_experiment_that_is_to_be_described_begins_with_orders_and_asks_for_no_score():
    new = describing()
    assert (new.head.phase, new.head.is_described, new.head.evaluating) == ("describing", False, None)
    assert records(new, "sequence", "base_version", "issued") == dict.fromkeys("abc", (1, 0, 10.0))
    assert (begun().head.phase, begun().head.is_described, begun().head.evaluating) == ("running", True, 0)


def test_a_site_that_has_told_has_no_order_and_a_clean_record():
    new = state.order(state.refuse(describing(), "a", is_fault=True), ["a"], 11.0)
    new = state.told(new, "a")
    assert records(new, "base_version", "refusals", "refused", "updates")["a"] == (None, 0, 1, 0)
    assert (new.outstanding, new.head.applied) == (("b", "c"), 0)


@pytest.mark.parametrize(
    ("record", "is_done"),
    [
        ({}, True),
        ({"is_away": True}, True),
        ({"base_version": 0}, False),
        ({"is_owed": True}, False),
        ({"is_dropped": True}, False),
    ],
)
def test_a_site_has_done_all_when_it_takes_part_and_nothing_more_is_asked_of_it(record, is_done):
    assert SiteRecord(**record).is_done is is_done


@pytest.mark.parametrize("is_synchronous", [True, False])
def test_when_training_begins_every_site_has_a_new_order_and_the_model_is_scored(is_synchronous):
    new = state.told(state.told(describing(), "a"), "b")
    new = state.begin_training(new, is_synchronous=is_synchronous, now=35.0)
    head = new.head
    assert (head.phase, head.is_described, head.version) == ("running", True, 0)
    assert (head.evaluating, head.evaluating_since, head.started, head.paused) == (0, 35.0, 10.0, 25.0)
    assert records(new, "sequence", "base_version", "issued", "attempt") == dict.fromkeys(
        "abc", (2, 0, 35.0, 1)
    )


@pytest.mark.parametrize("is_synchronous", [True, False])
def test_when_training_begins_a_site_that_is_away_has_its_order_or_in_rounds_is_owed_one(is_synchronous):
    new = state.go_away(describing(), "a", takes_back=True)
    new = state.begin_training(new, is_synchronous=is_synchronous, now=35.0)
    assert new.outstanding == (("b", "c") if is_synchronous else ("a", "b", "c"))
    assert records(new, "is_owed") == {"a": (is_synchronous,), "b": (False,), "c": (False,)}
    back = state.come_back(new, "a", 40.0)
    assert records(back, "sequence", "base_version", "is_owed")["a"] == (2, 0, False)


@pytest.mark.parametrize("is_synchronous", [True, False])
def test_when_training_begins_a_site_that_was_dropped_stays_so(is_synchronous):
    new = describing()
    for _ in range(state.MAX_REFUSALS):
        new = state.refuse(state.order(new, ["a"], 11.0), "a", is_fault=True)
    new = state.begin_training(new, is_synchronous=is_synchronous, now=35.0)
    assert (new.outstanding, new.active, new.sites["a"].is_owed) == (("b", "c"), ("b", "c"), False)


def test_the_pause_until_training_is_never_less_than_what_was_paused_before():
    stopped = state.at_rest(describing(), "by hand", 20.0)
    new = state.resume(stopped, is_synchronous=False, now=100.0)
    assert new.head.paused == 80.0
    assert state.begin_training(new, is_synchronous=False, now=120.0).head.paused == 110.0
    assert state.begin_training(new, is_synchronous=False, now=5.0).head.paused == 80.0


def test_a_stop_before_training_scores_nothing_and_is_the_end_at_once():
    new = state.finish(state.told(describing(), "a"), "stopped", "by hand", 20.0)
    head = new.head
    assert (head.phase, head.outcome, head.finished, head.evaluating) == ("finished", "stopped", 20.0, None)
    assert new.outstanding == () and not head.is_described


@pytest.mark.parametrize("is_synchronous", [True, False])
def test_what_was_stopped_before_training_asks_everybody_who_is_there_to_describe_anew(is_synchronous):
    new = state.told(state.told(describing(), "a"), "c")
    new = state.go_away(new, "c", takes_back=True)
    new = state.finish(new, "stopped", "by hand", 20.0)
    new = state.resume(new, is_synchronous=is_synchronous, now=100.0)
    assert (new.head.phase, new.head.is_described, new.head.evaluating) == ("describing", False, None)
    assert records(new, "sequence", "is_owed") == {**dict.fromkeys("ab", (2, False)), "c": (1, True)}
    assert state.come_back(new, "c", 110.0).outstanding == ("a", "b", "c")


def test_seconds_are_over_only_when_so_many_were_trained():
    experiment = make_spec(stop={"seconds": 60}).experiment
    head = state.begin_training(describing(), is_synchronous=False, now=1010.0).head
    assert state.reason_to_stop(head, experiment, 1069.0) is None
    assert state.reason_to_stop(head, experiment, 1070.0) == "60 seconds have passed"
