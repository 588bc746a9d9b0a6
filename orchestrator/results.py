"""A run's results, from the ledger into its folder."""

import csv
import dataclasses
import json
import logging
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import redis

from orchestrator import summary
from orchestrator.clock import Clock
from orchestrator.runs import Run
from tasks import progress
from tasks.progress import Progress
from workers import model_file
from workers.errors import NotFound, Unavailable
from workers.metrics import METRICS

logger = logging.getLogger(__name__)


def write(client: redis.Redis, run: Run) -> str:
    """Write tables, model and summary of the run, whatever state it is in; returns its outcome.

    Every file is written beside its place and then put there, so a reader never sees half of one; the summary
    comes last.
    """
    found = progress.read(client, run.name)
    events = list(progress.events(client, run.name))
    clock = Clock.of(found.head, events)
    history = [_history_row(clock, dataclasses.asdict(row)) for row in progress.history(client, run.name)]
    _write_csv(run.folder / "history.csv", HISTORY_COLUMNS, history)
    names = METRICS[found.spec.schema.target_kind]
    own = [
        f"{model} {name}" for model in found.spec.experiment.compared if model != "pooled" for name in names
    ]
    columns = ("seconds", "version", "applied", "site", "num_examples", *names, *own)
    _write_csv(run.folder / "evaluations.csv", columns, _evaluation_rows(client, found, clock))
    shown = [_timed(clock, dataclasses.asdict(event)) for event in events]
    _write_csv(run.folder / "events.csv", ("seconds", "kind", "site", "order", "detail"), shown)
    params = progress.model(client, run.name, found.head.version)
    model_file.save(run.folder / "model.safetensors", found.spec, params, found.head.version)
    if "pooled" in found.spec.experiment.baselines and found.head.outcome == "completed":
        _compare_with_pooled(run)
    text = json.dumps(summary.of(client, run, found), indent=2) + "\n"
    _replace(run.folder / "summary.json", lambda path: path.write_text(text))
    return found.head.outcome


def _compare_with_pooled(run: Run) -> None:
    """Train the baseline, once; if that fails, the run has its other results all the same."""
    if run.pooled is not None:
        return
    command = [sys.executable, "-m", "orchestrator.pooled", str(run.folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        logger.error("%s: the pooled baseline could not be trained: %s", run.name, done.stderr.strip())


def report(run: Run) -> None:
    """Make the report and its pictures from the tables, in a process of its own: matplotlib is large.

    Raises:
        NotFound: the run has no results yet.
        Unavailable: it failed.
    """
    if run.summary is None:
        raise NotFound(f"{run.name} has no results yet")
    command = [sys.executable, "-m", "orchestrator.report", str(run.folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"the report of {run.name} could not be made: {done.stderr.strip()}")


HISTORY_COLUMNS = (
    *("seconds", "site", "order", "base_version", "version", "staleness", "weight", "num_examples", "loss"),
    *("bytes_up", "bytes_down", "started", "training_seconds"),
)


def _history_row(clock: Clock, row: dict[str, Any]) -> dict[str, Any]:
    training_seconds = round(row.pop("seconds"), 6)
    started = clock(row.pop("started"))
    return {**_timed(clock, row), "started": started, "training_seconds": training_seconds}


def _timed(clock: Clock, row: dict[str, Any]) -> dict[str, Any]:
    """The row with its time in seconds since the experiment began."""
    return {"seconds": clock(row.pop("time")), **row}


def _evaluation_rows(client: redis.Redis, found: Progress, clock: Clock) -> Iterable[dict[str, Any]]:
    for mean in progress.metrics(client, found.name):
        row = _timed(clock, dataclasses.asdict(mean))
        del row["num_sites"]
        yield {**row.pop("metrics"), "site": "global", **row}
    for site in found.sites:
        for score in progress.evaluations(client, found.name, site.name):
            row = _timed(clock, dataclasses.asdict(score))
            yield {**row.pop("metrics"), "site": site.name, **row}


def _write_csv(path: Path, columns: tuple[str, ...], rows: Iterable[Mapping[str, Any]]) -> None:
    def write_rows(unfinished: Path) -> None:
        with unfinished.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns, extrasaction="ignore")  # a site may score more
            writer.writeheader()
            writer.writerows(rows)

    _replace(path, write_rows)


def _replace(path: Path, write_to: Any) -> None:
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        write_to(unfinished)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
