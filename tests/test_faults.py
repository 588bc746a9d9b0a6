import dataclasses
from typing import get_args

import pytest

from orchestrator import faults
from orchestrator.clock import Clock
from orchestrator.faults import Fault
from tasks.messages import EventKind
from tests.test_live import STARTED, event, progress_of, site


def test_every_kind_of_event_is_a_fault_but_those_of_peoples_hands():
    assert set(get_args(EventKind)) - set(faults.WORDS) == {"described", "finished", "resumed", "imported"}


def test_a_healthy_run_has_none():
    assert faults.of(progress_of(sites=[site("a")]), [event(1.0, "finished"), event(2.0, "resumed")]) == {}


def test_each_kind_has_its_count_its_first_and_last_moment_and_its_sites():
    sites = [site("a", absences=2, is_away=True, refused=1), site("b", resent=2), site("c", resent=1)]
    events = [
        event(1.0, "resent", "b"),
        event(2.0, "gone", "a"),
        event(3.5, "back", "a"),
        event(4.0, "resent", "c"),
        event(5.0, "gone", "a"),
        event(6.0, "refused", "a"),
        event(7.25, "resent", "b"),
        event(8.0, "unattended"),
        event(9.0, "unattended"),
        event(9.5, "software", "b"),
        event(10.0, "dropped", "c"),
        event(11.0, "finished"),
    ]

    def fault(count, first, last, **sites):
        facts = {"first_seconds": first, "last_seconds": last, "sites": sites}
        return Fault(count=count, is_at_least=False, **facts)

    assert faults.of(progress_of(sites=sites), events) == {
        "refused": fault(1, 6.0, 6.0, a=1),
        "resent": fault(3, 1.0, 7.25, b=2, c=1),
        "gone": fault(2, 2.0, 5.0, a=2),
        "back": fault(1, 3.5, 3.5, a=1),
        "dropped": fault(1, 10.0, 10.0, c=1),
        "software": fault(1, 9.5, 9.5, b=1),
        "unattended": fault(2, 8.0, 9.0),
    }


def test_counts_are_the_ledgers_where_the_oldest_events_are_forgotten(monkeypatch):
    monkeypatch.setattr(faults, "MAX_EVENTS", 3)
    sites = [site("a", resent=70), site("b", resent=30)]
    events = [event(50.0, "resent", "a"), event(51.0, "dropped", "b"), event(52.0, "unattended")]
    found = faults.of(progress_of(sites=sites), events)
    assert found["resent"] == Fault(
        count=100, is_at_least=False, first_seconds=None, last_seconds=50.0, sites={"a": 70, "b": 30}
    )
    assert found["dropped"] == Fault(
        count=1, is_at_least=True, first_seconds=None, last_seconds=51.0, sites={"b": 1}
    )
    assert (found["unattended"].count, found["unattended"].is_at_least) == (1, True)


def test_an_event_that_is_newer_than_the_counters_counts():
    events = [event(1.0, "resent", "a"), event(2.0, "resent", "a")]
    found = faults.of(progress_of(sites=[site("a", resent=1)]), events)
    assert found["resent"] == Fault(
        count=2, is_at_least=False, first_seconds=1.0, last_seconds=2.0, sites={"a": 2}
    )


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (event(12.34, "gone", "a", "last seen 11 s ago"), ("12.3 s", "a", "gone: last seen 11 s ago")),
        (event(1.0, "back", "a"), ("1.0 s", "a", "back")),
        (event(1.0, "refused", "a", "norm 3"), ("1.0 s", "a", "update refused: norm 3")),
        (event(1.0, "unattended", detail="for 9 s"), ("1.0 s", "", "unattended: for 9 s")),
        (event(1.0, "back", "a", "with \x1b[31mred\n"), ("1.0 s", "a", "back: with  [31mred ")),
    ],
)
def test_a_fault_is_told_in_a_line(written, read):
    assert faults.told(written, Clock(started=STARTED, paused=0.0, resumptions=())) == read


def as_summary(**facts):
    filled = {"count": 1, "is_at_least": False, "first_seconds": 1.0, "last_seconds": 1.0, "sites": {}}
    return dataclasses.asdict(Fault(**{**filled, **facts}))


def test_rows_are_in_one_order_and_name_the_sites_the_most_often_first():
    summary = {
        "unattended": as_summary(count=2, is_at_least=True, first_seconds=None, last_seconds=30.04),
        "resent": as_summary(count=4, first_seconds=1.26, last_seconds=9.0, sites={"a": 1, "b": 3}),
        "of a later version": as_summary(),
    }
    assert faults.rows(summary) == [
        ("orders sent again", "4", "1.3 s", "9.0 s", "b 3, a 1"),
        ("without a coordinator", "at least 2", "not known", "30.0 s", ""),
    ]


def test_of_very_many_sites_the_rest_is_counted():
    sites = {f"site-{n}": 1 for n in range(faults.MAX_NAMED + 2)}
    ((*_, named),) = faults.rows({"gone": as_summary(count=10, sites=sites)})
    assert named.endswith(f"site-{faults.MAX_NAMED - 1} 1 and 2 more")


def test_only_sites_at_which_something_went_wrong_have_a_row():
    well = {"absences": 0, "resent": 0, "refused": 0, "is_dropped": False}
    sites = {"a": {**well, "updates": 7}, "b": {**well, "resent": 2}, "c": {**well, "is_dropped": True}}
    assert faults.site_rows(sites) == [("b", "0", "2", "0", ""), ("c", "0", "0", "0", "yes")]
