"""Moving an experiment: from a ledger into a file, and from the file into another ledger, or a run's folder.

Neither changes what was there: an export reads, and an import refuses a name that is taken.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from orchestrator import archive, children, hosting, private_redis, results, runs
from orchestrator.archive import Archive
from orchestrator.private_redis import PrivateRedis
from orchestrator.runs import Run
from tasks import environment, snapshot
from tasks.app import connect, connect_to
from tasks.snapshot import Snapshot
from workers.errors import ExperimentError, NotFound, Unavailable


def export(run: Run, file: Path) -> Snapshot:
    """Write the run's experiment, as it is now, into a file; returns what is in it.

    Raises:
        ExperimentError: the file is there already, or cannot be written; or nobody has begun to train.
        NotFound: the run has no state any more.
        Unavailable: its Redis does not answer.
    """
    with _ledger_of(run) as client, _answering():
        found = snapshot.take(client, run.name)
        if not found.state.head.is_described:
            raise ExperimentError(
                f"{run.name} cannot be exported yet: it has not begun to train, since its sites are still to "
                "describe their examples"
            )
        archive.write(file, found, _experiment_text(run))
    return found


def import_(file: Path) -> Snapshot:
    """Put the file's experiment, at rest, into the broker's ledger, or without one into a run's folder.

    The folder is made beside its place and put there last: a second try finds nothing of one that broke off.

    Raises:
        ExperimentError: the file is not an experiment's, or its name is taken.
        Unavailable: Redis does not answer.
    """
    is_here = not environment.has_broker()
    with archive.opened(file) as found:
        folder = environment.runs_dir() / found.snapshot.name
        if os.path.lexists(folder):
            raise ExperimentError(f"{folder}: is there already; nothing was imported")
        if is_here:
            private_redis.server_program()
        else:
            connect()
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".import-", dir=folder.parent) as place, _answering():
            run = _claim(Path(place), found, is_here=is_here)
            if is_here:
                _fill(run, found.snapshot)
            else:
                _put(connect(), found.snapshot)
            run.folder.rename(folder)
    return found.snapshot


def _fill(run: Run, found: Snapshot) -> None:
    """Put the experiment into the data of the run's private Redis, and write its results so far."""
    with _served(run.redis_folder, run.logs / "redis.log") as client:
        _put(client, found)
        is_complete = results.write(client, run) == "completed"
    if is_complete:
        shutil.rmtree(run.redis_folder)  # as when a run has completed: there is nothing to go on with


def _put(client: redis.Redis, found: Snapshot) -> None:
    if not snapshot.put(client, found):
        raise ExperimentError(f"the ledger has an experiment {found.name!r} already; nothing was imported")


def _claim(place: Path, found: Archive, *, is_here: bool) -> Run:
    """A new run's folder in this place."""
    file = place / "experiment.toml"
    file.write_text(found.experiment_text, "utf-8")
    launched = found.snapshot.state.head.started
    return runs.claim(place, file, found.snapshot.name, launched=launched, is_here=is_here)


def _experiment_text(run: Run) -> str:
    """The run's experiment file; nothing if it is not known here."""
    try:
        return run.experiment_file.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


@contextmanager
def _ledger_of(run: Run) -> Iterator[redis.Redis]:
    """Where the run's experiment is: its Redis while it lives, else one on a copy of its data.

    A copy, because another command may start the run's own Redis at any moment, and two must not write to the
    same data.
    """
    if not run.is_here or hosting.is_alive(run):
        yield connect()
        return
    if not run.redis_folder.exists():
        raise NotFound(
            f"{run.name} has no state to export: a run on this machine keeps it until it is complete; its "
            f"results are in {run.folder}/"
        )
    if run.broker_url:
        private_redis.remove_remains(run.broker_url)
    with tempfile.TemporaryDirectory(prefix="fedelta-export-") as place:
        copy = shutil.copytree(run.redis_folder, Path(place) / "redis")
        with _served(copy, run.logs / "redis.log") as client:
            yield client


@contextmanager
def _served(folder: Path, log: Path) -> Iterator[redis.Redis]:
    """A private Redis on the data in this folder, for the moment; at its end everything is on disk."""
    private = PrivateRedis(folder, log)
    try:
        process = private.start()
        try:
            yield connect_to(environment.as_ledger_url(private.broker_url))
        finally:
            children.end([process], private_redis.END_SECONDS)
    finally:
        private.remove_home()
    if process.returncode:
        raise Unavailable(f"the private Redis ended with status {process.returncode}; its log: {log}")


@contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except redis.RedisError as error:
        raise Unavailable(f"Redis does not answer as it should: {error}") from error
