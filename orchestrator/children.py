"""Child processes: their command lines, and that none outlives its parent."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def worker(sites: Sequence[str]) -> list[str]:
    """Command line of a worker for these sites.

    Two threads for each: one trains, the other can score a version meanwhile.
    """
    queues = ",".join(f"site.{site}" for site in sites)
    return _celery("tasks.site_worker", queues, "threads", 2 * len(sites), f"{sites[0]}@%h")


def coordinator() -> list[str]:
    """Command line of the coordinator: one thread, so that turns follow one another."""
    return _celery("tasks.coordinator", "coordinator", "solo", 1, "coordinator@%h")


def beat() -> list[str]:
    """Command line of a clock apart from the coordinator's process."""
    scheduler = ("--scheduler", "tasks.beat:Clock", "--loglevel", "INFO")
    return [*_celery_app("tasks.app"), "beat", *scheduler]


def flower(address: str, port: int) -> list[str]:
    """Command line of Flower."""
    return [sys.executable, "-m", "tasks.dashboard", f"{address}:{port}"]


def start(command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a process that the terminal's Ctrl-C does not reach and that ends when this one does.

    The latter by Linux's parent death signal, which util-linux's `setpriv` sets; elsewhere it may live on.
    """
    with log.open("ab") as output:
        return subprocess.Popen(
            [*_mortal(), *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def end(processes: Sequence[subprocess.Popen[bytes]], grace_seconds: float) -> None:
    """Ask the processes to end; kill those that have not within the grace."""
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(grace_seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _mortal() -> list[str]:
    """What goes before a command, so that it ends when this process does.

    No signal comes for a parent that was dead before it was asked for, so the parent is looked at after.
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return []
    look = 'test "$PPID" = "$0" && exec "$@"'
    return [setpriv, "--pdeathsig", "TERM", "sh", "-c", look, str(os.getpid())]


def _celery(module: str, queues: str, pool: str, concurrency: int, hostname: str) -> list[str]:
    # Workers have nothing to tell each other (gossip), to ask of each other when they start (mingle), or to
    # say on a channel of Celery's (heartbeat): they announce themselves in the ledger.
    options = f"--pool {pool} --concurrency {concurrency} --loglevel INFO"
    options += " --without-gossip --without-mingle --without-heartbeat"
    return [
        *_celery_app(module),
        *("worker", "--queues", queues, "--hostname", hostname),
        *options.split(),
    ]


def _celery_app(module: str) -> list[str]:
    return [sys.executable, "-m", "celery", "--quiet", "--app", module]
