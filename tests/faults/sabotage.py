"""`python -m tests.faults.sabotage`: breaks the protocol on purpose, and sees how soon the driver notices.

Each break is a change of a copy of the tree, by exact text; the last is none, and nothing may be found.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import REPOSITORY

MINUTES = 6.0  # in which a break must be found
LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "runs", "*.egg-info", "docs")


@dataclass(frozen=True)
class Change:
    """In this file, every match of the pattern becomes the replacement; there must be one."""

    file: str
    pattern: str
    replacement: str


BREAKS: Mapping[str, Sequence[Change]] = {
    "commit without the watch": [
        Change("tasks/ledger.py", r"pipe\.watch\(keys\.head\(name\)\)", "pipe.watch(keys.EXPERIMENTS)")
    ],
    "a lease that never ends": [
        Change(
            "tasks/site_ledger.py",
            r"pipe\.set\((lease_key, value|lease\.key, lease\.value), ex=LEASE\)",
            r"pipe.set(\1)",
        )
    ],
    "no test that the order is unfinished": [
        Change("tasks/site_ledger.py", r"if stored is None or not _asks_for\(.*?\):", "if False:"),
        Change(
            "tasks/turn.py",
            r"return \(submission, len\(stored\)\) if is_asked else None",
            "return submission, len(stored)",
        ),
    ],
    "nothing": [],
}


def main() -> int:
    """Try each break; the exit code says whether all were found, and nothing where there is nothing."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.sabotage")
    parser.add_argument("--only", choices=list(BREAKS))
    parser.add_argument("--minutes", type=float, default=MINUTES)
    arguments = parser.parse_args()
    is_well = True
    for name in [arguments.only] if arguments.only else BREAKS:
        found, seconds, said = try_break(name, arguments.minutes)
        is_well &= found == bool(BREAKS[name])
        print(
            f"{name}: {'found' if found else 'nothing found'} after {seconds:.0f} s\n    {said}", flush=True
        )
    return 0 if is_well else 1


def try_break(name: str, minutes: float) -> tuple[bool, float, str]:
    """Whether the driver finds the break, after how many seconds, and what it says."""
    with tempfile.TemporaryDirectory(prefix="fedelta-sabotage-") as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(REPOSITORY, tree, ignore=LEFT_OUT)
        for change in BREAKS[name]:
            apply(tree, change)
        begun = time.monotonic()
        command = [sys.executable, "-m", "tests.faults", "--minutes", str(minutes), "--until-failure"]
        environment = {**os.environ, "PYTHONPATH": str(tree)}
        done = subprocess.run(
            [*command, "--folder", f"{folder}/logs"],
            cwd=tree,
            env=environment,
            capture_output=True,
            text=True,
        )
        verdicts = [line for line in done.stdout.splitlines() if line.startswith("seed ")]
        return done.returncode != 0, time.monotonic() - begun, (verdicts or [done.stderr])[-1][:400]


def apply(tree: Path, change: Change) -> None:
    """Make the change, which must be one."""
    path = tree / change.file
    text, number = re.subn(change.pattern, change.replacement, path.read_text())
    if number == 0:
        raise SystemExit(f"{change.file} has nothing like {change.pattern}: write the break anew")
    path.write_text(text)


if __name__ == "__main__":
    sys.exit(main())
