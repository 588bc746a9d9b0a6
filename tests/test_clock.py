from orchestrator.clock import Clock
from tasks.messages import Event
from tasks.state import Head


def resumed(time, pause):
    return Event(time=time, kind="resumed", pause=pause)


def test_a_moment_is_told_since_the_beginning_without_the_pauses_before_it():
    # Runs from 1000 to 1010, stands still until 1030, runs on; stands still again from 1040 to 1045.
    clock = Clock.of(Head(started=1000.0, paused=25.0), [resumed(1030.0, 20.0), resumed(1045.0, 5.0)])
    assert [clock(time) for time in (1000.0, 1009.5, 1030.0, 1040.0, 1045.0, 1046.25)] == [
        *(0.0, 9.5, 10.0, 20.0, 20.0, 21.25)
    ]


def test_the_newest_events_are_enough_to_tell_when_they_were():
    clock = Clock.of(Head(started=1000.0, paused=25.0), [resumed(1045.0, 5.0)])
    assert [clock(time) for time in (1035.0, 1045.0, 1046.25)] == [15.0, 20.0, 21.25]


def test_a_pause_that_the_head_does_not_know_yet_changes_nothing_before_it():
    clock = Clock.of(Head(started=1000.0), [resumed(1030.0, 20.0)])
    assert [clock(time) for time in (1009.5, 1031.0)] == [9.5, 11.0]
