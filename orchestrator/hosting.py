"""The host of a run on this machine, as the command line sees it: started, found, started again, ended."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from orchestrator import experiment, private_redis, runs
from orchestrator.runs import Run
from tasks import environment
from workers.errors import Unavailable
from workers.lazily import lazily

# Reads data sets, which only a trial with a table of its own needs here.
submission = lazily("orchestrator.submit")

START_SECONDS = 30.0


def launch(file: Path, launched: float) -> tuple[Run, subprocess.Popen[bytes]]:
    """Claim a folder for a run on this machine, and start its host.

    Raises:
        ExperimentError: the file is wrong; nothing was started.
        DataError: the table that it shares out is; nothing was started.
        Unavailable: there is no Redis server program; nothing was started.
    """
    written = experiment.read(file)
    private_redis.server_program()
    if written.data.file is not None:
        submission.check_table(written, file.parent.absolute())
    run = runs.claim(environment.runs_dir(), file, written.name, launched=launched, is_here=True)
    return run, start(run)


def start(run: Run, *, is_resumed: bool = False) -> subprocess.Popen[bytes]:
    """Start the run's host; it lives on without us."""
    command = [sys.executable, "-m", "orchestrator.embedded", str(run.folder.absolute())]
    if run.broker_url:
        private_redis.remove_remains(run.broker_url)
    run.remove_address()
    with (run.logs / "host.log").open("ab") as log:
        return subprocess.Popen(
            [*command, "--resume"] if is_resumed else command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def address(run: Run, host: subprocess.Popen[bytes]) -> str:
    """Wait until the host says where its Redis is: its URL.

    Raises:
        Unavailable: it ended, or did not say so in time.
    """
    deadline = time.monotonic() + START_SECONDS
    while (url := run.broker_url) is None:
        if host.poll() is not None or time.monotonic() > deadline:
            raise Unavailable(f"{run.name} could not be started: {last_words(run)}")
        time.sleep(0.02)
    return url


def is_alive(run: Run) -> bool:
    """Whether the run's host lives."""
    return run.host_pid is not None


def has_crashed(run: Run) -> bool:
    """Whether the run's host ended without tidying up: it removes its address at the end."""
    return run.broker_url is not None and not is_alive(run)


def end(run: Run) -> None:
    """Ask the run's host to end, and with it all that it started."""
    pid = run.host_pid
    if pid is not None:
        os.kill(pid, signal.SIGTERM)


def last_words(run: Run) -> str:
    """The last line of the host's log."""
    log = run.logs / "host.log"
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return (
        f"{lines[-1].removeprefix('fedelta: ')} (more in {log})" if lines else f"it said nothing (log: {log})"
    )
