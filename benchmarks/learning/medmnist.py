"""BreastMNIST and PneumoniaMNIST over eight hospitals with very unequal mixes of classes (Dirichlet 0.3).

The images are MedMNIST v2's (Yang et al. 2023, doi 10.1038/s41597-022-01721-8), 28x28 pixels.
"""

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.learning import study
from benchmarks.learning.study import Outcome
from tasks import environment
from workers import client_update, data, datasets, inference, metrics, originals, scoring
from workers.data import Examples
from workers.optimizers import Adam
from workers.params import Params
from workers.spec import LocalTraining

HOSPITALS = [f"hospital-{number}" for number in range(1, 9)]
EPOCHS = {"breastmnist": 160, "pneumoniamnist": 12}  # of all examples, in orders of one batch each
NUM_EXAMPLES = {"breastmnist": 546, "pneumoniamnist": 4708}
BATCH_SIZE = 4
PUBLISHED = {"breastmnist": 0.90, "pneumoniamnist": 0.94}  # about: ResNet-18 at 28x28, on pooled data

# Hospitals have one class each, nearly: an order of one batch cannot drift towards it.
STRATEGIES: dict[str, dict[str, Any]] = {
    "FedBuff, Adam at the server": {
        "kind": "fedbuff",
        "buffer_size": 8,
        "weighting": "examples",
        "server_optimizer": {"name": "adam", "learning_rate": 0.003},
    },
}
LEARNING_RATE = 0.1  # of the sites' SGD
# How a model is trained where the examples lie, for all of them or one hospital's.
AT_HOME = LocalTraining(optimizer=Adam(learning_rate=0.003), batch_size=16, steps=1)

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
            "optimizer": {"name": "sgd", "learning_rate": LEARNING_RATE},
            "batch_size": BATCH_SIZE,
            "steps": 1,
        },
        "strategy": strategy,
        "evaluation": {"every": 100_000},
        "stop": {"updates": NUM_EXAMPLES[dataset] * EPOCHS[dataset] // BATCH_SIZE},
        **more,
    }


@dataclass(frozen=True, kw_only=True)
class Compared:
    """AUROCs of one run, and of models that were trained without messages on as many examples."""

    everywhere: float  # of the global model, on all of the official test images
    pooled: float  # likewise
    alone: float  # at the hospitals: mean, weighted by their part of the test images


def compared(run: Outcome) -> Compared:
    """Train on pooled data, and at each hospital alone, as many examples as the run has seen; measure all."""
    experiment, seed = run.spec.experiment, run.spec.experiment.seed
    originals.use(environment.data_folders())
    dataset = datasets.load(experiment.data.dataset or "", 0)
    images = run.spec.schema.prepared(dataset.features[dataset.is_test])
    targets = dataset.targets[dataset.is_test]
    sites = {site: data.load_site(run.spec, site) for site in experiment.sites}
    together = Examples(
        features=np.concatenate([part.train.features for part in sites.values()]),
        targets=np.concatenate([part.train.targets for part in sites.values()]),
    )
    seen = {site: found["updates"] * BATCH_SIZE for site, found in run.summary["sites"].items()}
    pooled = trained(run, together, sum(seen.values()), seed)
    alone = {site: trained(run, part.train, seen[site], seed) for site, part in sites.items()}
    mean = metrics.weighted_mean(
        (len(part.holdout), measured(run, alone[site], part.holdout.features, part.holdout.targets))
        for site, part in sites.items()
    )
    return Compared(
        everywhere=float(measured(run, run.params["global"], images, targets)["auroc"] or np.nan),
        pooled=float(measured(run, pooled, images, targets)["auroc"] or np.nan),
        alone=float(mean["auroc"] or np.nan),
    )


def trained(run: Outcome, examples: Examples, num_seen: int, seed: int) -> Params:
    """The model that training on these examples comes to, from the run's own beginning."""
    spec = run.spec
    shape, num_outputs = spec.schema.input_shape, spec.schema.num_outputs
    start = spec.model.init(np.random.default_rng(seed), shape, num_outputs)
    training = dataclasses.replace(AT_HOME, steps=max(1, num_seen // AT_HOME.batch_size))
    found = client_update.train(
        start,
        examples,
        model=spec.model,
        target_kind=spec.schema.target_kind,
        training=training,
        seed=seed,
    )
    return {path: leaf + found.delta[path] for path, leaf in start.items()}


def measured(run: Outcome, params: Params, features: np.ndarray, targets: np.ndarray) -> metrics.Metrics:
    """The model's metrics on these examples."""
    outputs = inference.outputs(run.spec.model, params, features)
    return scoring.measure(run.spec.schema.target_kind, outputs, targets)


def main(datasets: Sequence[str]) -> None:
    """Run all of it, for these data sets."""
    rows = []
    for dataset in datasets:
        for name in STRATEGIES:
            tuning = {"name": "adam", "learning_rate": 0.001}
            personal = {"kind": "fine-tuning", "epochs": 2, "optimizer": tuning}
            found = study.several(settings(dataset, name, personal=personal))
            beside = [compared(run) for run in found]
            rows.append(
                (
                    dataset,
                    name,
                    study.spread(one.everywhere for one in beside),
                    study.spread(one.pooled for one in beside),
                    f"{PUBLISHED[dataset]:.2f}",
                    study.spread(run.weighted_mean("auroc") for run in found),
                    study.spread(run.weighted_mean("auroc", "personal") for run in found),
                    study.spread(one.alone for one in beside),
                )
            )
            study.publish("medmnist", study.table(COLUMNS, rows))


if __name__ == "__main__":
    main(sys.argv[1:] or list(EPOCHS))
