import os
import time

import pytest

from tasks import health, supervise


@pytest.fixture
def alive(tmp_path, monkeypatch):
    """The file that is asked for, touched long ago."""
    path = tmp_path / "alive"
    path.touch()
    os.utime(path, (1000, 1000))
    monkeypatch.setenv("FEDELTA_ALIVE_FILE", str(path))
    return path


def is_fresh(path):
    return time.time() - path.stat().st_mtime < 30


def test_a_process_that_has_said_so_is_at_work(alive):
    assert not is_fresh(alive)
    health.say_so()
    assert is_fresh(alive)


def test_a_file_that_is_not_there_is_made(alive):
    alive.unlink()
    health.say_so()
    assert alive.read_bytes() == b""


def test_where_nobody_asked_for_the_file_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDELTA_ALIVE_FILE", "")
    monkeypatch.chdir(tmp_path)
    health.say_so()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_touched_is_worth_a_line_and_stops_nothing(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("FEDELTA_ALIVE_FILE", str(tmp_path / "nowhere" / "alive"))
    health.say_so()
    assert "alive cannot be touched: No such file or directory" in caplog.text


def test_a_coordinator_says_so_when_it_looks_after_its_experiments(client, alive):
    supervise.supervise()
    assert is_fresh(alive)
