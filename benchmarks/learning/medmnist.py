"""BreastMNIST and PneumoniaMNIST over eight hospitals with very unequal mixes of classes (Dirichlet 0.3).

The images are MedMNIST v2's (Yang et al. 2023, doi 10.1038/s41597-022-01721-8), 28x28 pixels.
"""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.learning import study
from benchmarks.learning.study import Outcome
from tasks import environment
from workers import datasets, inference, originals, scoring

HOSPITALS = [f"hospital-{number}" for number in range(1, 9)]
ORDERS = {"breastmnist": 320, "pneumoniamnist": 96}  # of all hospitals together
PUBLISHED = {"breastmnist": 0.90, "pneumoniamnist": 0.94}  # about: ResNet-18 at 28x28, on pooled data

STRATEGIES: dict[str, dict[str, Any]] = {
    "FedAsync": {"kind": "fedasync", "mixing_rate": 0.3},
    "FedBuff": {"kind": "fedbuff", "buffer_size": 8},
    "FedBuff, server rate 4": {
        "kind": "fedbuff",
        "buffer_size": 8,
        "server_optimizer": {"name": "sgd", "learning_rate": 4.0},
    },
}
# Of the sites' Adam; the last, with its server rate, by cross-validation within BreastMNIST's training part.
LEARNING_RATES = {"FedAsync": 0.001, "FedBuff": 0.001, "FedBuff, server rate 4": 0.003}

COLUMNS = (
    *("", "", "global, all images", "pooled, all images", "published"),
    *("global, at the hospitals", "personal", "alone"),
)


def settings(dataset: str, name: str, **more: Any) -> dict[str, Any]:
    """The experiment with the strategy of that name."""
    strategy = STRATEGIES[name]
    return {
        "name": f"{dataset}-{strategy['kind']}",
        "sites": HOSPITALS,
        "data": {
            "dataset": dataset,
            "holdout": "given",
            "partition": {"kind": "dirichlet", "alpha": 0.3, "min_examples": 20},
        },
        "model": {"kind": "cnn"},
        "training": {
            "optimizer": {"name": "adam", "learning_rate": LEARNING_RATES[name]},
            "batch_size": 16,
            "epochs": 1,
        },
        "strategy": strategy,
        "evaluation": {"every": 1000},
        "stop": {"updates": ORDERS[dataset]},
        **more,
    }


def test_auroc(run: Outcome, model: str) -> float:
    """AUROC on all of the official test images."""
    originals.use(environment.data_folders())
    dataset = datasets.load(run.spec.experiment.data.dataset or "", 0)
    features = run.spec.schema.prepared(dataset.features[dataset.is_test])
    outputs = inference.outputs(run.spec.model, run.params[model], features)
    return float(scoring.measure("binary", outputs, dataset.targets[dataset.is_test])["auroc"] or np.nan)


def main(datasets: Sequence[str]) -> None:
    """Run all of it, for these data sets."""
    rows = []
    for dataset in datasets:
        for name in STRATEGIES:
            more = {"baselines": ["alone", "pooled"], "personal": {"kind": "fine-tuning", "epochs": 2}}
            found = study.several(settings(dataset, name, **more))
            rows.append(
                (
                    dataset,
                    name,
                    study.spread(test_auroc(run, "global") for run in found),
                    study.spread(test_auroc(run, "pooled") for run in found),
                    f"{PUBLISHED[dataset]:.2f}",
                    *(
                        study.spread(run.weighted_mean("auroc", model) for run in found)
                        for model in ("global", "personal", "alone")
                    ),
                )
            )
            study.publish("medmnist", study.table(COLUMNS, rows))


if __name__ == "__main__":
    main(sys.argv[1:] or list(ORDERS))
