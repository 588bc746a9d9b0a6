"""The host of a run on one machine: a private Redis, a coordinator, and one worker for all sites.

    python -m orchestrator.embedded runs/<name>

It starts them, starts again what dies, and when the experiment is finished writes the results and ends them.
It lives on without the terminal that started it; its children do not live on without it. Started again on the
same folder, it goes on from the data of its Redis.
"""

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from orchestrator import children
from orchestrator.private_redis import PrivateRedis
from orchestrator.runs import Run
from tasks import environment
from workers.errors import FedeltaError, Unavailable
from workers.lazily import lazily

# Loaded when the processes have been started.
outcome = lazily("orchestrator.outcome")
submission = lazily("orchestrator.submit")

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.1
KILLED = (-signal.SIGKILL, -signal.SIGTERM)  # somebody else's doing, however often
QUICK_DEATHS = 5  # in a row, each within `QUICK_SECONDS` of its start, before the host gives up
QUICK_SECONDS = 10.0
SUBMIT_SECONDS = 20.0  # for the command that started the host to submit the experiment
GRACE_SECONDS = 3.0  # for a process to end by itself


class Child:
    """A process that is started again when it dies."""

    def __init__(self, name: str, start: Callable[[], subprocess.Popen[bytes]]) -> None:
        """Start it."""
        self.name = name
        self._start = start
        self._quick_deaths = 0
        self._begun = time.monotonic()
        self.process = start()

    def revive(self) -> None:
        """Start it again if it is dead.

        Raises:
            Unavailable: it died too often right after its start.
        """
        status = self.process.poll()
        if status is None:
            return
        lived = time.monotonic() - self._begun
        is_quick = lived < QUICK_SECONDS and status not in KILLED
        self._quick_deaths = self._quick_deaths + 1 if is_quick else 0
        if self._quick_deaths >= QUICK_DEATHS:
            raise Unavailable(f"the {self.name} ended {QUICK_DEATHS} times right after its start")
        logger.warning("the %s ended with status %s after %.1f s: started again", self.name, status, lived)
        self._begun = time.monotonic()
        self.process = self._start()


def host(run: Run, *, is_resumed: bool) -> None:
    """Host the run until its experiment is finished.

    The command line submits it, having loaded its data meanwhile; if it dies before, we do.

    Raises:
        FedeltaError: the experiment cannot be submitted, or a process does not live.
    """
    private = PrivateRedis(run.redis_folder, run.logs / "redis.log")
    # The file was checked before we were started; without sites, a trial's table has them.
    sites = (
        tomllib.loads(run.experiment_file.read_text("utf-8")).get("sites") or submission.complete(run).sites
    )
    living: list[Child] = []
    try:
        living.append(Child("private Redis", private.start))
        environment.set_broker(private.broker_url)
        environment.set_personal_dir(run.folder / "personal")
        run.write_address(private.broker_url)
        for name, command in (
            ("coordinator", children.coordinator()),
            ("worker", children.worker(sites)),
        ):
            living.append(Child(name, _starting(command, run.logs / f"{name}.log")))
        if is_resumed:
            outcome.resume(run)
        launcher, deadline = os.getppid(), time.monotonic() + SUBMIT_SECONDS
        while (phase := outcome.phase(run)) != "finished":
            if phase == "" and (os.getppid() != launcher or time.monotonic() > deadline):
                submission.submit(run)
            for child in living:
                child.revive()
            time.sleep(POLL_SECONDS)
        children.end([child.process for child in living[:0:-1]], GRACE_SECONDS)
        is_complete = outcome.write(run)
    finally:
        children.end([child.process for child in reversed(living)], GRACE_SECONDS)
        private.remove_home()
    if is_complete:
        shutil.rmtree(run.redis_folder, ignore_errors=True)  # one that was stopped can be resumed
    outcome.report(run)


def _starting(command: list[str], log: Path) -> Callable[[], subprocess.Popen[bytes]]:
    return lambda: children.start(command, log)


def _end(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit("the host was asked to end")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    signal.signal(signal.SIGTERM, _end)
    hosted = Run(folder=Path(sys.argv[1]))
    try:
        host(hosted, is_resumed="--resume" in sys.argv[2:])
    except FedeltaError as error:
        sys.exit(f"fedelta: {error}")
    finally:
        hosted.remove_address()  # last, so that whoever waits for its going finds everything written
