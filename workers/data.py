"""A site's examples: what it trains on and what it holds out, standardized."""

from dataclasses import dataclass

import numpy as np

from workers import datasets, partitions
from workers.datasets import Dataset
from workers.errors import DataError
from workers.spec import Experiment, Schema, Spec


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Features `(examples, num_features)` and targets `(examples,)`, float32."""

    features: np.ndarray
    targets: np.ndarray

    def __len__(self) -> int:
        """How many there are."""
        return len(self.targets)


@dataclass(frozen=True, kw_only=True)
class SiteData:
    """One site's examples; they never leave the process that loaded them."""

    train: Examples
    holdout: Examples


def describe(experiment: Experiment) -> Schema:
    """The schema of a trial's examples, standardization included.

    Mean and scale are those of all sites' training examples together, which the sum of every site's count,
    sum and sum of squares gives as well.

    Raises:
        DataError: the data set cannot be shared out as the experiment says.
    """
    dataset = datasets.load(experiment.data.dataset, experiment.seed)
    trained_on = np.concatenate([train for train, _ in _split(dataset, experiment)])
    features = dataset.features[trained_on]
    if experiment.data.standardize == "pooled":
        is_constant = np.ptp(features, axis=0) == 0  # its deviation need not be 0, by rounding
        mean, scale = features.mean(axis=0), np.where(is_constant, 1.0, features.std(axis=0))
    else:
        mean, scale = np.zeros(features.shape[1]), np.ones(features.shape[1])
    return Schema(
        features=dataset.feature_names,
        target=dataset.target_name,
        target_kind=experiment.target_kind,
        classes=dataset.classes,
        mean=tuple(mean.tolist()),
        scale=tuple(scale.tolist()),
    )


def load_site(spec: Spec, site: str) -> SiteData:
    """The examples of one site of a trial."""
    experiment = spec.experiment
    dataset = datasets.load(experiment.data.dataset, experiment.seed)
    train, held_out = _split(dataset, experiment)[experiment.sites.index(site)]
    return SiteData(
        train=_examples(dataset, train, spec.schema), holdout=_examples(dataset, held_out, spec.schema)
    )


def load_raw(experiment: Experiment, site: str) -> tuple[np.ndarray, np.ndarray]:
    """One site's features and targets of a trial as the data set has them, held-out ones included."""
    dataset = datasets.load(experiment.data.dataset, experiment.seed)
    chosen = np.concatenate(_split(dataset, experiment)[experiment.sites.index(site)])
    return dataset.features[chosen], dataset.targets[chosen]


def _split(dataset: Dataset, experiment: Experiment) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each site, indices to train on and to hold out."""
    seed, is_classes = experiment.seed, bool(dataset.classes)
    parts = partitions.split(dataset, experiment.data.partition, len(experiment.sites), seed)
    split = []
    for number, (site, part) in enumerate(zip(experiment.sites, parts, strict=True)):
        try:
            train, held_out = partitions.holdout(
                dataset.targets[part], experiment.data.holdout, is_classes=is_classes, seed=seed + 1 + number
            )
        except DataError as error:
            raise DataError(f"site {site}: {error}") from error
        split.append((part[train], part[held_out]))
    return split


def _examples(dataset: Dataset, chosen: np.ndarray, schema: Schema) -> Examples:
    features = schema.standardized(dataset.features[chosen])
    return Examples(features=features, targets=dataset.targets[chosen].astype(np.float32))
