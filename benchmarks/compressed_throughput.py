"""Updates per second with compressed deltas and models, beside the same experiment without compression.

    python -m benchmarks.compressed_throughput [--size "10 M"] [--json FILE] [--publish]

The real thing, as in `throughput`. All kinds take turns, while the others stand still.
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from benchmarks import report, trial
from benchmarks.learning import study
from benchmarks.trial import SIZES, Trial, Window

# By name, the experiment's table of compression.
KINDS: Mapping[str, Mapping[str, Mapping[str, str]]] = {
    "none": {},
    "bfloat16 up": {"up": {"kind": "bfloat16"}},
    "int8 up": {"up": {"kind": "int8"}},
    "int4 up": {"up": {"kind": "int4"}},
    "top-k up": {"up": {"kind": "top-k"}},
    "int8 up and down": {"up": {"kind": "int8"}, "down": {"kind": "int8"}},
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One kind of compression, turn by turn."""

    kind: str
    windows: list[Window] = field(default_factory=list)
    bytes_per_update: list[float] = field(default_factory=list)  # from a site, over all turns: one number

    def median(self, of: Callable[[Window], float]) -> float:
        """The median over turns."""
        return statistics.median(map(of, self.windows))


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--strategy", default="fedasync", choices=("fedasync", "fedbuff"))
    parser.add_argument("--size", default="10 M", choices=list(SIZES))
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--sites", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each turn of each")
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    told = report.Report(f"compressed throughput of {arguments.strategy}", arguments)
    rows = [Row(kind=kind) for kind in arguments.kinds]
    with ExitStack() as stack:
        trials = [stack.enter_context(_paused(row.kind, arguments)) for row in rows]
        for _ in range(arguments.turns):
            for row, real in zip(rows, trials, strict=True):
                row.windows.append(real.window(arguments.seconds))
                print(row.kind, row.windows[-1], file=sys.stderr)
        for row, real in zip(rows, trials, strict=True):
            row.bytes_per_update.append(real.bytes_up() / real.applied())
    told.write(table(rows), rows)


@contextmanager
def _paused(kind: str, arguments: argparse.Namespace) -> Iterator[Trial]:
    """A trial that stands still, where every site has had an update."""
    tables = {"strategy": {"kind": arguments.strategy}, "compression": KINDS[kind]}
    with trial.running(SIZES[arguments.size], arguments.sites, **tables) as real:
        real.pause()
        yield real


def table(rows: Sequence[Row]) -> str:
    """What was measured, beside the first row."""
    columns = (
        *("compression", "MB up per update", "updates/s", f"of {rows[0].kind}", "updates per turn"),
        "CPU ms per update: coordinator, worker, Redis",
    )
    return study.table(columns, (_shown(row, rows[0]) for row in rows))


def _shown(row: Row, first: Row) -> tuple[str, ...]:
    pairs = zip(row.windows, first.windows, strict=True)
    ratio = statistics.median(own.updates_per_second / other.updates_per_second for own, other in pairs)
    by_process = [row.median(lambda window, name=name: window.cpu[name]) for name in trial.PROCESSES]
    return (
        *(row.kind, f"{row.bytes_per_update[0] / 1e6:.3g}"),
        *(f"{row.median(lambda window: window.updates_per_second):.3g}", f"**{ratio:.2f}**"),
        f"{row.median(lambda window: window.updates_per_turn):.1f}",
        ", ".join(f"{spent:.1f}" for spent in by_process),
    )


if __name__ == "__main__":
    main()
