"""How long it takes from `fedelta run` to the first update, and what the processes import meanwhile.

    python -m benchmarks.start [--repeats N] [--json FILE]

Every run is a real one, of four updates: first with an empty cache of compiled functions (cold), then again
with what the first has left there (warm). The load, and the seconds of a fixed piece of work just before each
run, say what else the machine did.
"""

import argparse
import csv
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from benchmarks.learning import study
from orchestrator.runs import Run

EXPERIMENT = Path(__file__).parents[1] / "examples" / "breast-cancer.toml"
WORK = 5_000_000  # additions
IMPORTS = {
    "command line, --help": "orchestrator.cli",
    "command line, to start the host": "orchestrator.hosting",
    "command line, to submit": "orchestrator.submit",
    "host": "orchestrator.embedded",
    "coordinator": "tasks.coordinator",
    "worker": "tasks.site_worker",
}
NUM_PACKAGES = 5
IMPORT = re.compile(r"import time: +\d+ \| +(\d+) \| ( *)(\S+)")


@dataclass(frozen=True, kw_only=True)
class Start:
    """One run: seconds from the shell's command until ..."""

    cache: str  # cold or warm
    checked: float  # ... the file is read and the host started
    coordinator_ready: float
    submitted: float
    worker_ready: float
    first_update: float
    summary: float  # the same as `summary.json` has it, which counts from the command line's own first line
    work: float  # seconds of a fixed piece of work, before
    load: float  # processes that wanted to run, mean of the minute before


@dataclass(frozen=True, kw_only=True)
class Imports:
    """What a process imports before its first line of work."""

    process: str
    seconds: float
    packages: Mapping[str, float]  # seconds of the longest, with all that they import


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write all that was measured there, too")
    arguments = parser.parse_args()
    starts = [start for _ in range(arguments.repeats) for start in _cold_and_warm()]
    imports = [_imports(process, module) for process, module in IMPORTS.items()]
    numbers = [name for name in Start.__annotations__ if name != "cache"]
    rows = [
        (
            cache,
            *(_spread(getattr(start, name) for start in starts if start.cache == cache) for name in numbers),
        )
        for cache in ("cold", "warm")
    ]
    print(study.table(("cache", *(name.replace("_", " ") for name in numbers)), rows), end="\n\n")
    print(study.table(("process", "imports, s", "of these"), map(_shown, imports)))
    if arguments.json:
        found = {"starts": [asdict(start) for start in starts], "imports": [asdict(row) for row in imports]}
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


def _cold_and_warm() -> list[Start]:
    with tempfile.TemporaryDirectory(prefix="fedelta-start-") as folder:
        return [_start(Path(folder), cache) for cache in ("cold", "warm")]


def _start(folder: Path, cache: str) -> Start:
    file = folder / f"{cache}.toml"
    written = re.sub(r"(?m)^updates = .*", "updates = 4", EXPERIMENT.read_text())
    file.write_text(re.sub(r"(?m)^name = .*", f'name = "{cache}"', written))
    work, load = _seconds_of_work(), os.getloadavg()[0]
    begun = time.time()
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", "run", str(file), "--json"],
        env={**os.environ, "FEDELTA_RUNS_DIR": str(folder), "FEDELTA_CACHE_DIR": str(folder / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"the run failed: {done.stderr[-2000:]}")
    run = Run(folder=folder / cache)
    assert run.launched is not None, "every run has it"
    first = json.loads(done.stdout)["first_update_seconds"]
    first_update = run.launched - begun + first
    start = Start(
        cache=cache,
        checked=(run.folder / "run.json").stat().st_mtime - begun,
        coordinator_ready=_ready(run.logs / "coordinator.log") - begun,
        submitted=first_update - _seconds_of_first_row(run.folder / "history.csv"),
        worker_ready=_ready(run.logs / "worker.log") - begun,
        first_update=first_update,
        summary=first,
        work=work,
        load=load,
    )
    print(start, file=sys.stderr)
    return start


def _seconds_of_first_row(history: Path) -> float:
    """From the experiment's submission to its first update."""
    with history.open(newline="") as file:
        return float(next(csv.DictReader(file))["seconds"])


def _ready(log: Path) -> float:
    """When the process said that it is ready, in seconds since 1970."""
    said = re.search(r"(?m)^(\S+ \S+) INFO .* ready\.$", log.read_text())
    assert said, f"{log} has no such line"
    return datetime.strptime(said[1], "%Y-%m-%d %H:%M:%S,%f").timestamp()


def _seconds_of_work() -> float:
    begun = time.perf_counter()
    sum(range(WORK))
    return time.perf_counter() - begun


def _imports(process: str, module: str) -> Imports:
    """By Python's own account, which makes imports slower by a tenth or so."""
    command = [sys.executable, "-X", "importtime", "-c", f"import {module}"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    found = [(name, int(spent) / 1e6, len(depth)) for spent, depth, name in IMPORT.findall(told)]
    packages = {
        name: spent for name, spent, _ in found if "." not in name and name not in sys.stdlib_module_names
    }
    longest = sorted(packages.items(), key=lambda item: item[1], reverse=True)[:NUM_PACKAGES]
    # Those that nobody else has imported; Python's own start is not among them.
    after = [
        spent for name, spent, depth in found if depth == 0 and name.startswith(module.partition(".")[0])
    ]
    return Imports(process=process, seconds=sum(after), packages=dict(longest))


def _spread(values: Iterable[float]) -> str:
    found = list(values)
    return f"{statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})"


def _shown(imports: Imports) -> tuple[str, ...]:
    packages = ", ".join(f"{name} {seconds:.2f}" for name, seconds in imports.packages.items())
    return (imports.process, f"{imports.seconds:.2f}", packages)


if __name__ == "__main__":
    main()
