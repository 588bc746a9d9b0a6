"""Time per update against the number of sites, all in one worker process, with a small model.

    python -m benchmarks.growth [--json FILE] [--publish]

Beside each there is a trial of four sites; the two take turns, and a ratio is the median over turns.
"""

import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks import report, trial
from benchmarks.learning import study
from benchmarks.trial import SIZES, Window

FEW = 4  # sites, with which the others are compared


@dataclass(frozen=True, kw_only=True)
class Row:
    """One number of sites, turn by turn."""

    num_sites: int
    few: list[Window] = field(default_factory=list)
    many: list[Window] = field(default_factory=list)

    def ratio(self, of: Callable[[Window], float]) -> float:
        """The median over turns of many over few."""
        return statistics.median(of(many) / of(few) for many, few in zip(self.many, self.few, strict=True))


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--strategy", default="fedasync", choices=("fedasync", "fedbuff"))
    parser.add_argument("--sites", nargs="+", type=int, default=[4, 16, 64, 200, 500])
    parser.add_argument("--seconds", type=float, default=4.0, help="of each turn of each")
    parser.add_argument("--turns", type=int, default=5)
    arguments = parser.parse_args()
    told, rows = report.Report("growth", arguments), []
    with trial.running(SIZES["1 k"], FEW, strategy={"kind": arguments.strategy}) as few:
        few.pause()
        for num_sites in arguments.sites:
            row = Row(num_sites=num_sites)
            with trial.running(SIZES["1 k"], num_sites, strategy={"kind": arguments.strategy}) as many:
                many.pause()
                for _ in range(arguments.turns):
                    row.few.append(few.window(arguments.seconds))
                    row.many.append(many.window(arguments.seconds))
            rows.append(row)
            print(*_shown(row), sep=", ", file=sys.stderr)
    columns = ("sites", "ms per update", f"of {FEW} sites", "updates per turn", f"CPU time, of {FEW} sites")
    told.write(study.table(columns, map(_shown, rows)), rows)


def _shown(row: Row) -> tuple[str, ...]:
    milliseconds = statistics.median(map(_seconds, row.many)) * 1000
    per_turn = statistics.median(window.updates_per_turn for window in row.many)
    ratios = (f"**{row.ratio(_seconds):.2f}**", f"{row.ratio(lambda window: sum(window.cpu.values())):.2f}")
    return (str(row.num_sites), f"{milliseconds:.1f}", ratios[0], f"{per_turn:.1f}", ratios[1])


def _seconds(measured: Window) -> float:
    return 1 / measured.updates_per_second


if __name__ == "__main__":
    main()
