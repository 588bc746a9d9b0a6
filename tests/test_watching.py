"""Following a run on this machine whose host crashes, with a host and a clock of the test's own."""

import pytest

from orchestrator import watching
from orchestrator.runs import Run
from orchestrator.watching import HOST_SECONDS, HOST_STARTS
from workers.errors import Unavailable


class Host:
    """A host as the command line sees it: after each start it lives so many seconds; None ends it well."""

    def __init__(self, lives):
        self.lives, self.num_starts = iter(lives), 0
        self.now = self.crashes = 1000.0
        self.status = None

    def start(self, run):
        self.num_starts += 1
        seconds = next(self.lives)
        self.crashes = float("inf") if seconds is None else self.now + seconds
        self.status = 0 if seconds is None else None
        return self

    def has_crashed(self, run):
        return self.now >= self.crashes

    def poll(self):
        return self.status

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def followed(tmp_path, monkeypatch):
    """Follow a run whose host has crashed, and then lives so many seconds each time it is started."""

    def follow(*lives):
        host = Host(lives)
        monkeypatch.setattr(watching.hosting, "start", host.start)
        monkeypatch.setattr(watching.hosting, "has_crashed", host.has_crashed)
        monkeypatch.setattr(watching.hosting, "address", lambda run, host: "unix:///nowhere")
        monkeypatch.setattr(watching.hosting, "last_words", lambda run: "it fell over")
        monkeypatch.setattr(watching, "use_broker", lambda url: None)
        monkeypatch.setattr(watching, "_show_if_there", lambda run, show: None)
        monkeypatch.setattr(watching.time, "monotonic", lambda: host.now)
        monkeypatch.setattr(watching.time, "sleep", host.sleep)
        watching.here(Run(folder=tmp_path), lambda progress: None)
        return host.num_starts

    return follow


def test_a_host_that_crashes_right_after_each_start_is_given_up(followed):
    assert followed(*[1.0] * (HOST_STARTS - 1), None) == HOST_STARTS
    with pytest.raises(Unavailable, match="cannot go on: it fell over"):
        followed(*[1.0] * HOST_STARTS, None)


def test_a_host_that_lives_long_between_its_crashes_is_started_however_often(followed):
    assert followed(*[HOST_SECONDS + 1.0] * 20, None) == 21


def test_a_host_that_lived_long_has_as_many_starts_again_as_in_the_beginning(followed):
    quick = [1.0] * (HOST_STARTS - 1)
    assert followed(*quick, HOST_SECONDS + 1.0, *quick, None) == 2 * HOST_STARTS
    with pytest.raises(Unavailable):
        followed(*quick, HOST_SECONDS + 1.0, *quick, 1.0, None)
