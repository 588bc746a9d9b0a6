"""What a speed benchmark prints, writes as JSON, and puts into its place in docs/performance.md."""

import argparse
import json
import os
import platform
import signal
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

PERFORMANCE = Path(__file__).parents[1] / "docs" / "performance.md"


class Report:
    """One benchmark's."""

    def __init__(self, section: str, arguments: argparse.Namespace) -> None:
        """Look at the machine as it is before."""
        self._section, self._arguments = section, arguments
        self._load = os.getloadavg()[0]

    def write(self, text: str, rows: Iterable[Any]) -> None:
        """Print the text; write the rows, which are dataclasses, and publish if that was asked for."""
        machine = {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "load_before": self._load,
            "load_after": os.getloadavg()[0],
        }
        told = (
            f"{text}\n\n{machine['cores']} cores of an {machine['processor']}; load average "
            f"{machine['load_before']:.1f} before, {machine['load_after']:.1f} after."
        )
        print(told)
        if self._arguments.json:
            found = {"machine": machine, "rows": [asdict(row) for row in rows]}
            self._arguments.json.write_text(json.dumps(found, indent=2) + "\n")
        if self._arguments.publish:
            publish(self._section, told)


def parser(module: str | None) -> argparse.ArgumentParser:
    """What every benchmark can be asked; one that is told to end ends what it has started."""
    signal.signal(signal.SIGTERM, _end)
    found = argparse.ArgumentParser(description=(module or "").partition("\n")[0])
    found.add_argument("--json", type=Path, help="write the numbers there, too")
    found.add_argument("--publish", action="store_true", help="put the table into docs/performance.md")
    return found


def publish(section: str, text: str) -> None:
    """Put the text into its place in docs/performance.md.

    Raises:
        SystemExit: it has no such place.
    """
    begin, end = f"<!-- {section} -->", f"<!-- end of {section} -->"
    before, found, rest = PERFORMANCE.read_text("utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"{PERFORMANCE}: expected the lines {begin} and {end}")
    PERFORMANCE.write_text(f"{before}{begin}\n{text.strip()}\n{end}{after}", "utf-8")


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _end(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit("the benchmark was asked to end")
