"""Updates per second of the real thing, beside the limit that moving their bytes through Redis sets.

    python -m benchmarks.throughput [--strategy fedbuff] [--json FILE] [--publish]

Real are a Redis, a coordinator and one worker for all sites, as `fedelta run` has them, which move orders,
models and deltas; only the training is an echo (`echo_worker`). The limit is `bare`: SET and GET of each
delta and model by redis-py and one axpy per update, one after another in one process. As the real thing has
two processes, there is the same with one that plays the sites and one that plays the coordinator, too.

They take turns while the others stand still, and a ratio is the median over turns.
"""

import statistics
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from benchmarks import bare, report, trial
from benchmarks.bare import Rate
from benchmarks.learning import study
from benchmarks.trial import SIZES, Window

# Updates per second at 1 k, 1 M and 10 M parameters, on such a machine.
PEERS = {
    "flwr 1.4x, as deployed": ("0.6-0.9", "0.6-0.9", "0.5-0.6"),
    "flwr 1.4x, Ray simulation": ("35-76", "20-36", "4.3-4.8"),
    "NVFLARE 2.9, simulator": ("1.6-3.9", "1.5-3.7", "1.3-2.5"),
    "NVFLARE 2.9, as deployed (POC)": ("1.6", "1.5", "1.1"),
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model size and number of sites, turn by turn."""

    strategy: str
    size: str
    num_sites: int
    limit: list[Rate] = field(default_factory=list)
    two_processes: list[Rate] = field(default_factory=list)
    real: list[Window] = field(default_factory=list)

    @property
    def of_limit(self) -> float:
        """Real updates per second over those of the limit."""
        return _ratio(self.real, self.limit)

    @property
    def of_two_processes(self) -> float:
        """The same, over those of two bare processes."""
        return _ratio(self.real, self.two_processes)

    def median(self, of: Callable[[Window], float]) -> float:
        """The median over turns."""
        return statistics.median(map(of, self.real))


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--strategy", default="fedasync", choices=("fedasync", "fedbuff"))
    parser.add_argument("--sizes", nargs="+", default=["1 k", "1 M", "10 M"], choices=list(SIZES))
    parser.add_argument("--sites", nargs="+", type=int, default=[4, 10])
    parser.add_argument("--seconds", type=float, default=3.0, help="of each turn of each")
    parser.add_argument("--turns", type=int, default=5)
    arguments = parser.parse_args()
    told, rows = report.Report(f"throughput of {arguments.strategy}", arguments), []
    for size in arguments.sizes:
        for num_sites in arguments.sites:
            row = Row(strategy=arguments.strategy, size=size, num_sites=num_sites)
            measure(row, arguments.seconds, arguments.turns)
            rows.append(row)
            print(*_shown(row), sep=", ", file=sys.stderr)
    told.write(f"{table(rows)}\n\n{beside_peers(rows)}", rows)


def measure(row: Row, seconds: float, turns: int) -> None:
    """Let bare clients and the real thing take turns."""
    num_params = SIZES[row.size]
    with trial.running(num_params, row.num_sites, strategy={"kind": row.strategy}) as real:
        real.pause()
        for _ in range(turns):
            row.limit.append(bare.one_process(real, num_params, seconds / 2))
            row.two_processes.append(bare.two_processes(real, num_params, seconds / 2))
            row.real.append(real.window(seconds))


def table(rows: Iterable[Row]) -> str:
    """What was measured."""
    columns = (
        *("parameters", "sites", "updates/s", "limit", "of limit", "limit, two processes", "of it"),
        *("updates per turn", "CPU ms per update: coordinator, worker, Redis", "of the limit"),
    )
    return study.table(columns, map(_shown, rows))


def beside_peers(rows: Iterable[Row]) -> str:
    """The most sites' updates per second, and others'."""
    ours = {row.size: f"{row.median(_rate):.3g}" for row in rows}
    found = [(name, *numbers) for name, numbers in PEERS.items()]
    mine = ("fedelta", *(ours.get(size, "") for size in ("1 k", "1 M", "10 M")))
    return study.table(("updates/s", "1 k", "1 M", "10 M"), [mine, *found])


def _shown(row: Row) -> tuple[str, ...]:
    by_process = [row.median(lambda window, name=name: window.cpu[name]) for name in trial.PROCESSES]
    return (
        *(row.size, str(row.num_sites), f"{row.median(_rate):.3g}"),
        *(f"{_median(row.limit):.3g}", f"**{row.of_limit:.2f}**"),
        *(f"{_median(row.two_processes):.3g}", f"{row.of_two_processes:.2f}"),
        f"{row.median(lambda window: window.updates_per_turn):.1f}",
        ", ".join(f"{spent:.1f}" for spent in by_process),
        f"{statistics.median(rate.cpu for rate in row.limit):.1f}",
    )


def _rate(measured: Window | Rate) -> float:
    return measured.updates_per_second


def _median(rates: Iterable[Rate]) -> float:
    return statistics.median(map(_rate, rates))


def _ratio(real: list[Window], bare: list[Rate]) -> float:
    return statistics.median(_rate(ours) / _rate(theirs) for ours, theirs in zip(real, bare, strict=True))


if __name__ == "__main__":
    main()
