import logging
import signal
import subprocess

import pytest

from orchestrator import children, embedded
from orchestrator.embedded import QUICK_DEATHS, Child
from workers.errors import Unavailable


def dies_at_once():
    return subprocess.Popen(["false"])


def dies_again(child):
    child.process.wait()
    child.revive()


def test_a_child_is_started_when_it_is_made():
    child = Child("worker", dies_at_once)
    assert child.process.wait() == 1


def test_a_living_child_is_left_alone():
    child = Child("worker", lambda: subprocess.Popen(["sleep", "60"]))
    try:
        living = child.process
        child.revive()
        assert child.process is living
        assert living.poll() is None
    finally:
        children.end([child.process], grace_seconds=3.0)


def test_a_dead_child_is_started_again_and_the_log_says_so(caplog):
    child = Child("worker", dies_at_once)
    dead = child.process
    with caplog.at_level(logging.WARNING):
        dies_again(child)
    assert child.process is not dead
    assert child.process.wait() == 1
    (message,) = caplog.messages
    assert message.startswith("the worker ended with status 1 after 0.")
    assert message.endswith(" s: started again")


def test_a_child_that_died_too_often_right_after_its_start_is_given_up():
    child = Child("coordinator", dies_at_once)
    for _ in range(QUICK_DEATHS - 1):
        dies_again(child)
    with pytest.raises(Unavailable) as raised:
        dies_again(child)
    assert str(raised.value) == f"the coordinator ended {QUICK_DEATHS} times right after its start"


def test_quick_deaths_before_a_long_life_do_not_count(monkeypatch):
    child = Child("worker", dies_at_once)
    for _ in range(QUICK_DEATHS - 1):
        dies_again(child)
    with monkeypatch.context() as clock:
        clock.setattr(
            embedded, "QUICK_SECONDS", 0.0
        )  # so that however short it was, this life was a long one
        dies_again(child)
    for _ in range(QUICK_DEATHS - 1):
        dies_again(child)
    with pytest.raises(Unavailable, match=f"ended {QUICK_DEATHS} times"):
        dies_again(child)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_child_that_somebody_kills_again_and_again_is_never_given_up(number):
    child = Child("worker", lambda: subprocess.Popen(["sleep", "60"]))
    try:
        for _ in range(2 * QUICK_DEATHS):
            child.process.send_signal(number)
            dies_again(child)
        assert child.process.poll() is None
    finally:
        child.process.kill()
        child.process.wait()


def test_a_child_that_a_fault_of_its_own_kills_is_given_up():
    child = Child("worker", lambda: subprocess.Popen(["sh", "-c", "kill -SEGV $$"]))
    with pytest.raises(Unavailable, match="the worker ended 5 times right after its start"):
        for _ in range(QUICK_DEATHS):
            dies_again(child)


def test_a_kill_between_quick_deaths_begins_their_count_anew():
    starts = iter([*["false"] * (QUICK_DEATHS - 1), "kill -KILL $$", *["false"] * QUICK_DEATHS])
    child = Child("worker", lambda: subprocess.Popen(["sh", "-c", next(starts)]))
    for _ in range(2 * QUICK_DEATHS - 1):
        dies_again(child)
    with pytest.raises(Unavailable):
        dies_again(child)
