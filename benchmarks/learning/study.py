"""Real runs of an experiment with several seeds, and the section of docs/results.md that they make."""

import csv
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from orchestrator import experiment
from workers import model_file
from workers.params import Params
from workers.spec import Experiment, Spec

SEEDS = (42, 43, 44, 45, 46)
RESULTS = Path(__file__).parents[2] / "docs" / "results.md"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of one run."""

    summary: Mapping[str, Any]
    curve: Sequence[tuple[float, float]]  # seconds, and the watched metric's mean over sites
    spec: Spec
    params: Mapping[str, Params]  # of the global model, and of the pooled one if there is one
    orders: Sequence[tuple[str, int]]  # of each update its site and base version, as they came in

    def at_sites(self, metric: str, model: str = "global") -> dict[str, float]:
        """By site, a metric of one of the models; a site where it is not defined is left out."""
        found = self.summary["metrics"] if model == "global" else self.summary["own_models"][model]
        measured = {site: metrics.get(metric) for site, metrics in found["sites"].items()}
        return {site: value for site, value in measured.items() if value is not None}

    def mean(self, metric: str, model: str = "global") -> float:
        """The plain mean over sites, as FLamby has it."""
        return float(np.mean(list(self.at_sites(metric, model).values())))

    def weighted_mean(self, metric: str, model: str = "global") -> float:
        """The mean over sites, weighted by what they hold out."""
        means = (
            self.summary["metrics"]["global"]
            if model == "global"
            else self.summary["own_models"][model]["mean"]
        )
        return float(means[metric])


def run(settings: Mapping[str, Any]) -> Outcome:
    """Run an experiment on this machine, to its end."""
    written = TypeAdapter(Experiment).validate_python(settings)
    with tempfile.TemporaryDirectory(prefix="fedelta-benchmark-") as folder:
        file = Path(folder) / "experiment.toml"
        file.write_text(experiment.text(written))
        done = subprocess.run(
            [sys.executable, "-m", "orchestrator", "run", str(file), "--json"],
            env={**os.environ, "FEDELTA_RUNS_DIR": folder},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"{written.name} failed: {done.stderr[-2000:]}")
        return _outcome(Path(folder) / written.name, json.loads(done.stdout))


def several(settings: Mapping[str, Any], seeds: Iterable[int] = SEEDS) -> list[Outcome]:
    """The same experiment with each seed."""
    outcomes = []
    for seed in seeds:
        outcomes.append(run({**settings, "seed": seed}))
        print(f"{settings['name']}, seed {seed}: {outcomes[-1].summary['seconds']:.1f} s", file=sys.stderr)
    return outcomes


def spread(values: Iterable[float], digits: int = 4) -> str:
    """Mean and standard deviation over seeds."""
    found = np.asarray(list(values), float)
    deviation = found.std(ddof=1) if len(found) > 1 else 0.0
    return f"{found.mean():.{digits}f} ± {deviation:.{digits}f}"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def publish(section: str, text: str) -> None:
    """Print the section, and put it in its place in docs/results.md."""
    print(text)
    begin, end = f"<!-- {section} -->", f"<!-- end of {section} -->"
    written = RESULTS.read_text("utf-8")
    before, _, rest = written.partition(begin)
    _, _, after = rest.partition(end)
    RESULTS.write_text(f"{before}{begin}\n{text.strip()}\n{end}{after}", "utf-8")


def _outcome(folder: Path, summary: Mapping[str, Any]) -> Outcome:
    spec, params = model_file.load(folder / "model.safetensors")
    models = {"global": params}
    if (pooled := folder / "pooled.safetensors").exists():
        models["pooled"] = model_file.load(pooled)[1]
    curve = _curve(folder / "evaluations.csv", summary)
    with (folder / "history.csv").open(newline="") as file:
        orders = [(row["site"], int(row["base_version"])) for row in csv.DictReader(file)]
    return Outcome(summary=summary, curve=curve, spec=spec, params=models, orders=orders)


def _curve(path: Path, summary: Mapping[str, Any]) -> list[tuple[float, float]]:
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["site"] == "global"]
    watched = summary["watched_metric"]
    return [(float(row["seconds"]), float(row[watched])) for row in rows if row[watched]]
