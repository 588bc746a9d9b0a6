import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from orchestrator import children
from tests.machine import wait_until

DEADLINE = 20.0  # seconds


def has_ended(pid):
    """Whether a process, which need not be ours, is gone or only waits to be collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def python(code, *arguments, **options):
    return subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, **options)


def test_the_command_line_of_a_worker_names_its_queues_and_has_two_threads_for_each_site():
    assert children.worker(["north", "south-2"]) == [
        *(sys.executable, "-m", "celery", "--quiet", "--app", "tasks.site_worker", "worker"),
        *("--queues", "site.north,site.south-2", "--hostname", "north@%h"),
        *("--pool", "threads", "--concurrency", "4"),
        *("--loglevel", "INFO", "--without-gossip", "--without-mingle", "--without-heartbeat"),
    ]


def test_the_command_line_of_the_coordinator_has_one_thread():
    assert children.coordinator() == [
        *(sys.executable, "-m", "celery", "--quiet", "--app", "tasks.coordinator", "worker"),
        *("--queues", "coordinator", "--hostname", "coordinator@%h"),
        *("--pool", "solo", "--concurrency", "1"),
        *("--loglevel", "INFO", "--without-gossip", "--without-mingle", "--without-heartbeat"),
    ]


def test_the_command_line_of_a_clock_of_its_own_names_the_schedule_that_says_that_it_lives():
    assert children.beat() == [
        *(sys.executable, "-m", "celery", "--quiet", "--app", "tasks.app", "beat"),
        *("--scheduler", "tasks.beat:Clock", "--loglevel", "INFO"),
    ]


def test_what_a_child_says_is_added_to_its_log(tmp_path):
    log = tmp_path / "log"
    for word in ("one", "two"):
        children.start(["sh", "-c", f"echo {word}; echo {word} too >&2"], log).wait(DEADLINE)
    assert log.read_text() == "one\none too\ntwo\ntwo too\n"


def test_a_child_has_no_input_and_a_session_of_its_own_out_of_reach_of_the_terminal(tmp_path):
    code = "import os, sys; print(os.getsid(0) == os.getpid(), repr(sys.stdin.read()))"
    children.start([sys.executable, "-c", code], tmp_path / "log").wait(DEADLINE)
    assert (tmp_path / "log").read_text() == "True ''\n"


def test_a_child_ends_when_its_parent_is_killed(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from orchestrator import children\n"
        "print(children.start(['sleep', '60'], Path(sys.argv[1])).pid, flush=True); time.sleep(60)"
    )
    with python(code, str(tmp_path / "log")) as parent:
        child = int(parent.stdout.readline())
        try:
            assert not has_ended(child)
            parent.kill()
            parent.wait(DEADLINE)
            wait_until(lambda: has_ended(child))
        finally:
            if not has_ended(child):
                os.kill(child, signal.SIGKILL)


def test_end_asks_first_and_kills_who_does_not_end_within_the_grace():
    ignores = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    tidies = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))"
    code = "import signal, sys, time; {}; print(flush=True); time.sleep(60)"
    with (
        python(code.format(ignores)) as stubborn,
        python(code.format(tidies)) as polite,
        python("") as already_gone,
    ):
        try:
            already_gone.wait(DEADLINE)
            stubborn.stdout.readline(), polite.stdout.readline()
            begun = time.monotonic()
            children.end([stubborn, polite, already_gone], grace_seconds=0.5)
            assert time.monotonic() - begun >= 0.5
            assert (stubborn.poll(), polite.poll(), already_gone.poll()) == (-signal.SIGKILL, 7, 0)
        finally:
            stubborn.kill(), polite.kill()
