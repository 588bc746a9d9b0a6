"""Run folders: `runs/<name>/` holds what went into a run and what came out of it.

run.json             whether it runs on this machine, and when the command was given
experiment.toml      the file as it was submitted
address.json         while a run on this machine lives: where its Redis is, and who hosts it
redis/               its private Redis's data; gone when the run has completed
logs/                what its processes say
table.json           of a trial whose sites are those of its table: how many that has
summary.json, history.csv, evaluations.csv, events.csv, model.safetensors, report.html, *.png   results
"""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workers.errors import NotFound, Unavailable


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run's folder."""

    folder: Path

    @property
    def name(self) -> str:
        """The run's name: that of its folder, and of its experiment in the ledger."""
        return self.folder.name

    @property
    def experiment_file(self) -> Path:
        """The file as it was submitted."""
        return self.folder / "experiment.toml"

    @property
    def redis_folder(self) -> Path:
        """The private Redis's data."""
        return self.folder / "redis"

    @property
    def logs(self) -> Path:
        """What the run's processes say."""
        return self.folder / "logs"

    @property
    def summary(self) -> dict[str, Any] | None:
        """The results in short, once they are written."""
        return _read(self.folder / "summary.json")

    @property
    def pooled(self) -> dict[str, Any] | None:
        """By site, the metrics of the pooled baseline, if it was asked for."""
        return _read(self.folder / "pooled.json")

    @property
    def num_hospitals(self) -> int | None:
        """How many a trial's table has, where all with enough examples take part."""
        return (_read(self.folder / "table.json") or {}).get("hospitals")

    def note_hospitals(self, number: int) -> None:
        """Keep how many a trial's table has."""
        (self.folder / "table.json").write_text(json.dumps({"hospitals": number}))

    @property
    def launched(self) -> float | None:
        """When the command was given, in seconds since 1970."""
        return (_read(self.folder / "run.json") or {}).get("launched")

    @property
    def origin(self) -> Path:
        """The folder of the experiment file that was given: names of files in it start from there."""
        return Path((_read(self.folder / "run.json") or {}).get("origin") or ".")

    @property
    def is_here(self) -> bool:
        """Whether its processes are this machine's own, rather than those of a broker's sites."""
        return bool((_read(self.folder / "run.json") or {}).get("is_here"))

    @property
    def broker_url(self) -> str | None:
        """Where the private Redis is, while the run lives on this machine."""
        return (_read(self.folder / "address.json") or {}).get("broker_url")

    @property
    def host_pid(self) -> int | None:
        """The process that hosts the run on this machine, while it lives."""
        address = _read(self.folder / "address.json") or {}
        pid: int | None = address.get("pid")
        birth = _birth(pid) if pid else None
        return pid if birth is not None and birth == address.get("born") else None

    def write_address(self, broker_url: str) -> None:
        """Say where the private Redis is, to whoever may read the owner's files."""
        pid = os.getpid()
        address = {"broker_url": broker_url, "pid": pid, "born": _birth(pid)}
        unfinished = self.folder / ".address.json.unfinished"  # a reader never sees half of it
        with open(os.open(unfinished, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as file:
            json.dump(address, file)
        unfinished.replace(self.folder / "address.json")

    def remove_address(self) -> None:
        """Say that the run does not live on this machine any more."""
        (self.folder / "address.json").unlink(missing_ok=True)


def claim(
    runs_dir: Path,
    experiment_file: Path,
    name: str,
    *,
    launched: float,
    is_here: bool,
    is_taken: Callable[[str], bool] = lambda _: False,
) -> Run:
    """A new run's folder, with the experiment file in it; nothing that is there is touched.

    It is called `name`, or the first of `name-2`, `name-3`, ... that is free.
    """
    runs_dir.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        folder = runs_dir / (name if number == 1 else f"{name}-{number}")
        number += 1
        if is_taken(folder.name):
            continue
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        run = Run(folder=folder)
        shutil.copyfile(experiment_file, run.experiment_file)
        run.logs.mkdir()
        origin = str(experiment_file.parent.absolute())
        about = {"is_here": is_here, "launched": launched, "origin": origin}
        (folder / "run.json").write_text(json.dumps(about))
        return run


def adopt(runs_dir: Path, name: str) -> Run:
    """A folder for the results of an experiment that was submitted elsewhere."""
    run = Run(folder=runs_dir / name)
    run.folder.mkdir(parents=True)
    (run.folder / "run.json").write_text(json.dumps({"is_here": False, "launched": None}))
    return run


def find(runs_dir: Path, name: str) -> Run:
    """The run of that name.

    Raises:
        NotFound: there is no such folder.
    """
    run = Run(folder=runs_dir / name)
    if not (run.folder / "run.json").exists():
        known = ", ".join(found.name for found in every(runs_dir)) or "none"
        raise NotFound(f"no run {name!r} in {runs_dir}/; there: {known}")
    return run


def every(runs_dir: Path) -> list[Run]:
    """All runs of this folder."""
    return [Run(folder=path.parent) for path in sorted(runs_dir.glob("*/run.json"))]


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise Unavailable(f"{path}: cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise Unavailable(f"{path}: expected a JSON object")
    return found


def _birth(pid: int) -> str | None:
    """When the process with this id was started, so that another of the same id is not taken for it.

    None if there is none, or one that has ended and was not waited for; "" where there is no /proc to ask.
    """
    try:
        facts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None if Path("/proc/self/stat").exists() or not _answers_to_signals(pid) else ""
    return None if facts[0] == "Z" else facts[19]


def _answers_to_signals(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
