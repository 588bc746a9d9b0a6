"""Asynchrony pays: the time to the same AUROC with one hospital ten times slower than the seven others.

The eight largest hospitals of the International Stroke Trial. An order takes 0.2 s in the mean, half-normal;
at the slow one, the largest, 2 s. Steps of an order and learning rate are the same for all strategies.
"""

from typing import Any

import numpy as np

from benchmarks.learning import stroke, study
from benchmarks.learning.study import Outcome

MIN_PATIENTS = 247  # eight hospitals have as many
SLOWEST = "134"
SECONDS = 0.2
ROUNDS = 15  # of FedAvg, whose best AUROC is the one to be reached

STRATEGIES: dict[str, dict[str, Any]] = {
    "FedAvg": {"kind": "fedavg"},
    "FedAsync": {"kind": "fedasync", "mixing_rate": 0.3},
    "FedBuff": {"kind": "fedbuff", "buffer_size": 4},
}

COLUMNS = ("hospitals", "", "seconds to FedAvg's best AUROC", "times as fast (median)", "AUROC at the end")


def settings(strategy: dict[str, Any], straggling: float) -> dict[str, Any]:
    """The experiment; it lasts as long as FedAvg needs for its rounds."""
    delay = {"distribution": "half-normal", "mean": SECONDS}
    slow = {"distribution": "half-normal", "mean": SECONDS * straggling}
    found = stroke.settings(strategy, MIN_PATIENTS)
    return {
        **found,
        "name": f"straggler-{strategy['kind']}",
        "training": {"optimizer": {"name": "sgd", "learning_rate": 0.003}, "batch_size": 16, "steps": 5},
        "evaluation": {"every": 1 if strategy["kind"] == "fedavg" else 8},
        "stop": {"versions": ROUNDS} if strategy["kind"] == "fedavg" else {"seconds": 30.0},
        "seconds_per_order": {"default": delay, SLOWEST: slow},
    }


def seconds_to(run: Outcome, auroc: float) -> float:
    """When the mean AUROC was first as high; infinity if never."""
    return next((seconds for seconds, value in run.curve if value >= auroc), float("inf"))


def main() -> None:
    """Run all of it."""
    rows = []
    for straggling in (10.0, 1.0):
        runs = {name: study.several(settings(strategy, straggling)) for name, strategy in STRATEGIES.items()}
        goals = [max(value for _, value in run.curve) for run in runs["FedAvg"]]
        needed = {
            name: [seconds_to(run, goal) for run, goal in zip(found, goals, strict=True)]
            for name, found in runs.items()
        }
        for name, found in runs.items():
            ratios = np.asarray(needed["FedAvg"]) / np.asarray(needed[name])
            rows.append(
                (
                    "one ten times slower" if straggling > 1 else "all alike",
                    name,
                    study.spread(needed[name], 1),
                    f"{np.median(ratios):.1f}",
                    study.spread(run.curve[-1][1] for run in found),
                )
            )
    columns = (
        "hospitals",
        "",
        "seconds to FedAvg's best AUROC",
        "times as fast (median)",
        "AUROC at the end",
    )
    study.publish("straggler", study.table(columns, rows))


if __name__ == "__main__":
    main()
