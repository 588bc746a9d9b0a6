"""Following an experiment until it is finished, wherever it runs."""

import logging
import subprocess
import time
from collections.abc import Callable

import redis

from orchestrator import hosting, results
from orchestrator.runs import Run
from tasks import progress
from tasks.app import connect, use_broker
from tasks.progress import Progress
from workers.errors import NotFound, Unavailable

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.25
HOST_STARTS = 3  # how often a host that crashed is started again, if each lived less than ...
HOST_SECONDS = 30.0
PATIENCE_SECONDS = 60.0  # how long a Redis elsewhere may be away

Show = Callable[[Progress], None]


def follow(run: Run, show: Show, host: subprocess.Popen[bytes] | None = None) -> None:
    """Follow a run to its end, when its results are written; `host` is the process if we started it."""
    if run.is_here:
        here(run, show, host)
    else:
        elsewhere(run, show)


def elsewhere(run: Run, show: Show) -> None:
    """Follow an experiment on the sites of a broker, and write its results.

    Raises:
        Unavailable: Redis was away for too long.
    """
    last_answer = time.monotonic()
    while True:
        try:
            found = progress.read(connect(), run.name)
            last_answer = time.monotonic()
            show(found)
            if found.head.phase == "finished":
                break
        except redis.RedisError as error:
            if time.monotonic() - last_answer > PATIENCE_SECONDS:
                raise Unavailable(f"Redis has not answered for {PATIENCE_SECONDS:.0f} s: {error}") from error
        time.sleep(POLL_SECONDS)
    results.write(connect(), run)
    results.report(run)


def here(run: Run, show: Show, host: subprocess.Popen[bytes] | None = None) -> None:
    """Follow a run on this machine until its host has written the results; start again a host that crashed.

    Raises:
        Unavailable: the host crashed too often, or could not go on.
    """
    starts, last_start = 0, time.monotonic()
    while True:
        _show_if_there(run, show)
        status = host.poll() if host else None
        if hosting.has_crashed(run):
            starts = starts + 1 if time.monotonic() < last_start + HOST_SECONDS else 1
            last_start = time.monotonic()
            logger.warning("the processes of %s are gone; they are started again and go on", run.name)
            if starts > HOST_STARTS:
                raise Unavailable(f"{run.name} cannot go on: {hosting.last_words(run)}")
            host = hosting.start(run)
            use_broker(hosting.address(run, host))
        elif status not in (None, 0):
            raise Unavailable(f"{run.name} cannot go on: {hosting.last_words(run)}")
        elif run.broker_url is None and (host is None or status == 0):
            return
        time.sleep(POLL_SECONDS)


def _show_if_there(run: Run, show: Show) -> None:
    """Show the progress, unless Redis is being started again, or is gone because the run is over."""
    try:
        found = progress.read(connect(), run.name)
    except (redis.RedisError, Unavailable, NotFound):
        return
    show(found)
