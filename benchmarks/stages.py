"""Where the time of an update goes: each stage's median and share, as a table and a picture.

    python -m benchmarks.stages [--picture FILE.png] [--json FILE] [--publish]

One site has an update at a time, so its stages are the work; of several sites each also waits for the others.
"""

import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib import colormaps
from matplotlib.figure import Figure

from benchmarks import moments, report, trial
from benchmarks.learning import study
from benchmarks.trial import SIZES

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "stages.png"


@dataclass(frozen=True, kw_only=True)
class Row:
    """The stages of one model size and number of sites."""

    size: str
    num_sites: int
    num_updates: int
    median_seconds: Mapping[str, float]
    share: Mapping[str, float]  # of the time of all updates

    @property
    def name(self) -> str:
        """Whose they are."""
        return f"{self.size}, {self.num_sites} site{'s' if self.num_sites > 1 else ''}"


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--strategy", default="fedasync", choices=("fedasync", "fedbuff"))
    parser.add_argument("--sizes", nargs="+", default=["1 k", "1 M", "10 M"], choices=list(SIZES))
    parser.add_argument("--sites", nargs="+", type=int, default=[1, 10])
    parser.add_argument("--seconds", type=float, default=5.0, help="of each, after every site's first update")
    parser.add_argument("--picture", type=Path, help="write the picture there; --publish has its place")
    arguments = parser.parse_args()
    told, rows = report.Report("stages", arguments), []
    for num_sites in arguments.sites:
        for size in arguments.sizes:
            rows.append(measure(arguments.strategy, size, num_sites, arguments.seconds))
            print(f"{rows[-1].name}: {rows[-1].num_updates} updates", file=sys.stderr)
    told.write(table(rows), rows)
    if picture := arguments.picture or (PICTURE if arguments.publish else None):
        draw(rows, picture)


def measure(strategy: str, size: str, num_sites: int, seconds: float) -> Row:
    """Note the moments of updates for so long."""
    with trial.trial(SIZES[size], num_sites, strategy={"kind": strategy}) as real:
        file = real.run.folder / "moments"
        os.environ[moments.FILE] = str(file)
        real.start_coordinator("benchmarks.watched_coordinator")
        real.start_worker("benchmarks.watched_worker")
        real.submit()
        real.warm_up()
        before = real.applied()
        file.write_text("")  # what was before is not looked at
        time.sleep(seconds)
        enough = trial.MIN_UPDATES + num_sites
        real.wait(lambda: real.applied() >= before + enough, f"{enough} updates")
        real.pause()
        lives = list(moments.lives(file))
    total = sum(sum(life.values()) for life in lives)
    return Row(
        size=size,
        num_sites=num_sites,
        num_updates=len(lives),
        median_seconds={stage: statistics.median(life[stage] for life in lives) for stage in moments.STAGES},
        share={stage: sum(life[stage] for life in lives) / total for stage in moments.STAGES},
    )


def table(rows: Sequence[Row]) -> str:
    """Each stage's median in ms, and its share."""
    cells = (
        (stage, *(f"{1000 * row.median_seconds[stage]:.1f} ({100 * row.share[stage]:.0f} %)" for row in rows))
        for stage in moments.STAGES
    )
    return study.table(("median ms (share)", *(row.name for row in rows)), cells)


def draw(rows: Sequence[Row], path: Path) -> None:
    """The shares as stacked bars."""
    figure = Figure(figsize=(8, 0.6 * len(rows) + 1.6), layout="constrained")
    axes = figure.subplots()
    names, left = [row.name for row in rows], [0.0] * len(rows)
    for number, stage in enumerate(moments.STAGES):
        widths = [100 * row.share[stage] for row in rows]
        axes.barh(names, widths, left=left, label=stage, color=colormaps["tab20"](number))
        left = [begin + width for begin, width in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("share of an update's time, %")
    figure.legend(loc="outside upper center", ncols=7, fontsize="small")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
