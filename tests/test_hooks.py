"""A process dies or stands still exactly where a test says, and nowhere else."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tasks import environment, hooks
from tests.conftest import REPOSITORY
from tests.machine import wait_until
from workers.errors import SettingsError

PASSES = """
from tasks import hooks
for number in range(1, 6):
    print(number, flush=True)
    hooks.reached("train.taken")
    hooks.reached("commit.before")
"""


def passing(fault):
    """A process that comes five times by two moments."""
    environment = {**os.environ, "FEDELTA_FAULT": fault}
    return subprocess.Popen(
        [sys.executable, "-c", PASSES], env=environment, stdout=subprocess.PIPE, text=True
    )


def state_of(process):
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.mark.parametrize(
    ("fault", "seen"),
    [
        ("kill commit.before 3", "1\n2\n3\n"),
        ("kill commit.before", "1\n"),
        ("kill train.taken 5", "1\n2\n3\n4\n5\n"),
    ],
)
def test_a_process_is_killed_at_the_nth_passage_of_the_moment_that_is_named(fault, seen):
    process = passing(fault)
    assert process.communicate(timeout=60)[0] == seen
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("fault", ["kill commit.before 6", "kill commit.after", ""])
def test_a_moment_that_is_not_reached_so_often_or_not_named_kills_nobody(fault):
    process = passing(fault)
    assert process.communicate(timeout=60)[0] == "1\n2\n3\n4\n5\n"
    assert process.returncode == 0


def test_a_process_stands_still_at_the_nth_passage_and_goes_on_when_it_is_told_to():
    with passing("stop commit.before 2") as process:
        try:
            wait_until(lambda: state_of(process) == "T", "it stands still")
            process.send_signal(signal.SIGCONT)
            assert process.communicate(timeout=60)[0] == "1\n2\n3\n4\n5\n"
        finally:
            process.kill()
    assert process.returncode == 0


@pytest.mark.parametrize(
    "written",
    ["die commit.before", "kill", "kill nowhere", "kill commit.before x", "kill commit.before -1", " "],
)
def test_a_fault_that_is_none_names_what_was_expected(written):
    with pytest.raises(SettingsError) as raised:
        hooks._read(written)
    assert str(raised.value) == (
        "FEDELTA_FAULT: expected '<kill|stop> <moment> [<number>]', with one of the moments "
        "train.received, train.taken, train.trained, train.stored, evaluate.scored, aggregate.draining, "
        f"commit.before, commit.after, got {written!r}"
    )


def test_a_process_whose_fault_is_none_does_not_start():
    process = passing("kill everybody")
    assert process.communicate(timeout=60)[0] == ""
    assert process.returncode == 1


def test_where_none_is_named_there_is_none(monkeypatch):
    monkeypatch.delenv("FEDELTA_FAULT", raising=False)
    assert hooks._read(environment.fault()) is None


def test_every_moment_is_in_the_code_once_and_explained():
    code = "".join(path.read_text() for path in sorted((REPOSITORY / "tasks").glob("*.py")))
    assert sorted(re.findall(r'hooks\.reached\("([^"]+)"\)', code)) == sorted(hooks.MOMENTS)
    assert [line.split()[0] for line in hooks.__doc__.splitlines() if "." in line.split(" ")[0]] == [
        *("train.received", "train.taken", "train.trained", "train.stored", "evaluate.scored"),
        *("aggregate.draining", "commit.before", "commit.after"),
    ]
