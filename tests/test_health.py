import os
import time

import pytest

from tasks import health, supervise
from tasks.app import app
from tasks.beat import LivingScheduler


@pytest.fixture
def alive(tmp_path, monkeypatch):
    """The file that is asked for."""
    path = tmp_path / "alive"
    monkeypatch.setenv("FEDELTA_ALIVE_FILE", str(path))
    return path


def age(path, seconds):
    """Let the file have been touched so many seconds ago."""
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_a_process_that_has_said_so_is_at_work(alive):
    health.say_so()
    assert alive.read_bytes() == b""
    assert health.is_fresh()


def test_a_process_that_never_said_so_is_not(alive):
    assert not health.is_fresh()


@pytest.mark.parametrize(("seconds", "is_fresh"), [(25, True), (31, False), (86400, False)])
def test_a_process_that_said_so_long_ago_is_not(alive, seconds, is_fresh):
    health.say_so()
    age(alive, seconds)
    assert health.is_fresh() is is_fresh


def test_a_process_may_say_so_again(alive):
    health.say_so()
    age(alive, 86400)
    health.say_so()
    assert health.is_fresh()


def test_where_nobody_asked_for_the_file_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDELTA_ALIVE_FILE", "")
    monkeypatch.chdir(tmp_path)
    health.say_so()
    assert list(tmp_path.iterdir()) == []
    assert not health.is_fresh()


def test_a_coordinator_says_so_when_it_looks_after_its_experiments(client, alive):
    supervise.supervise()
    assert health.is_fresh()


def test_a_clock_of_its_own_says_so_when_it_has_sent_what_is_due(client, alive):
    scheduler = LivingScheduler(app, lazy=True)
    scheduler.setup_schedule()
    assert not alive.exists()
    scheduler.apply_async(scheduler.schedule["supervise"], advance=False)
    assert health.is_fresh()
    assert client.llen("coordinator") == 1
