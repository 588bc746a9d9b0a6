"""Peak memory of the coordinator and of the worker, against the model's size and how many deltas wait.

    python -m benchmarks.memory [--json FILE] [--publish]

The coordinator starts when a delta of every site lies in Redis, and takes in all of them; then it goes on for
a few updates of each site, so that FedAsync's deltas have several base models. Peaks are Linux's `VmHWM`.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks import report, trial
from benchmarks.learning import study
from benchmarks.trial import Trial

SIZES = {**trial.SIZES, "200 M": 200_000_000}  # parameters
ALLOWED_MODELS, ALLOWED_MB = 3, 150  # the coordinator's goal: so many models and so much more
MB = 1e6


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model size and number of deltas that wait; MB are 10^6 bytes."""

    size: str
    num_waiting: int
    model_mb: float
    coordinator_mb: float
    worker_mb: float

    @property
    def of_allowed(self) -> float:
        """The coordinator's peak over its goal."""
        return self.coordinator_mb / (ALLOWED_MODELS * self.model_mb + ALLOWED_MB)


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--strategy", default="fedasync", choices=("fedasync", "fedbuff"))
    parser.add_argument("--sizes", nargs="+", default=list(trial.SIZES), choices=list(SIZES))
    parser.add_argument("--waiting", nargs="+", type=int, default=[1, 4, 16])
    parser.add_argument("--rounds", type=int, default=3, help="updates of each site, the first included")
    arguments = parser.parse_args()
    told, rows = report.Report("memory", arguments), []
    for size in arguments.sizes:
        for num_waiting in arguments.waiting:
            rows.append(measure(arguments.strategy, size, num_waiting, arguments.rounds))
            print(*_shown(rows[-1]), sep=", ", file=sys.stderr)
    columns = (
        *("parameters", "deltas waiting", "model, MB", "coordinator's peak, MB"),
        *(f"of {ALLOWED_MODELS} models + {ALLOWED_MB} MB", "worker's peak, MB"),
    )
    told.write(study.table(columns, map(_shown, rows)), rows)


def measure(strategy: str, size: str, num_waiting: int, rounds: int) -> Row:
    """Let so many deltas wait for the coordinator's start, and so many updates a site follow."""
    with trial.trial(SIZES[size], num_waiting, strategy={"kind": strategy}) as real:
        real.start_worker()
        real.submit()
        real.wait(lambda: real.num_waiting() == num_waiting, f"{num_waiting} deltas wait")
        real.start_coordinator()
        real.wait(lambda: real.applied() >= rounds * num_waiting, f"{rounds} updates of each")
        return Row(
            size=size,
            num_waiting=num_waiting,
            model_mb=4 * SIZES[size] / MB,
            coordinator_mb=peak_mb(real, "coordinator"),
            worker_mb=peak_mb(real, "worker"),
        )


def peak_mb(real: Trial, process: str) -> float:
    """The most memory that the process has had."""
    status = Path(f"/proc/{real.processes[process].pid}/status").read_text().splitlines()
    (line,) = (line for line in status if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024 / MB


def _shown(row: Row) -> tuple[str, ...]:
    numbers = (f"{row.model_mb:.3g}", f"{row.coordinator_mb:.0f}", f"**{row.of_allowed:.2f}**")
    return (row.size, str(row.num_waiting), *numbers, f"{row.worker_mb:.0f}")


if __name__ == "__main__":
    main()
