"""A site's examples: what it trains on and what it holds out, as the model wants them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

import numpy as np
from pydantic import TypeAdapter

from workers import datasets, description, partitions, sources
from workers.data_settings import GROUPED, Data, Iid, Natural
from workers.datasets import Dataset
from workers.description import Description
from workers.errors import DataError
from workers.schema import Schema
from workers.sources import Source
from workers.spec import Experiment, Spec
from workers.standardization import Preprocessing

Sources: TypeAlias = Mapping[str, Source]  # a site's own data sets, by the names in its site.toml


@dataclass(frozen=True, kw_only=True, eq=False)
class Examples:
    """Features `(examples, *input_shape)` and targets `(examples,)` or `(examples, 2)`, float32.

    Nobody writes to them: training keeps a copy on its device for as long as this object is there.
    """

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


def schema_of(data: Data) -> Schema:
    """What the examples of these settings look like; the preprocessing is still to be found.

    Raises:
        DataError: one of fedelta's data sets cannot be had.
    """
    layout = data.layout
    if layout is None:
        dataset = _whole(data, seed=0)
        return Schema(
            features=dataset.feature_names,
            categories=dict(dataset.categories),
            drop_first=dataset.drop_first,
            size=dataset.features.shape[1:3] if dataset.features.ndim == 4 else None,
            target=dataset.target_name,
            target_kind=data.target_kind,
            classes=dataset.classes,
        )
    image = layout.image
    return Schema(
        features=layout.feature_names,
        categories=layout.categories,
        drop_first=layout.drop_first,
        size=(image.height, image.width) if image else None,
        target=layout.target.name,
        target_kind=layout.target.kind,
        classes=layout.classes,
    )


def describe(experiment: Experiment) -> Schema:
    """The schema of a trial's examples, with its preprocessing.

    Raises:
        DataError: the examples cannot be shared out as the experiment says.
    """
    schema = schema_of(experiment.data)
    told = [
        description.describe(schema, parts(experiment, site)[0].features, min_count=1)
        for site in experiment.sites
    ]
    return description.combine(schema, experiment.data, told)


def describe_site(
    spec: Spec, site: str, own_sources: Sources, min_count: int = description.MIN_COUNT
) -> Description:
    """What a site tells of the examples that it has at home.

    Raises:
        DataError: they cannot be read, are not what the experiment asks for, or are too few.
    """
    train, _ = parts(spec.experiment, site, own_sources)
    return description.describe(spec.schema, train.features, min_count)


def load_site(spec: Spec, site: str, own_sources: Sources | None = None) -> SiteData:
    """The examples of one site, from its `own_sources` if the experiment leaves them there.

    Raises:
        DataError: they cannot be read, or are not what the experiment asks for.
    """
    schema = spec.schema
    train, held_out = parts(spec.experiment, site, own_sources)
    own = None if schema.preprocessing else schema.fitted(train.features)
    return SiteData(train=_examples(train, schema, own), holdout=_examples(held_out, schema, own))


def load_raw(experiment: Experiment, site: str) -> tuple[np.ndarray, np.ndarray]:
    """One site's features and targets of a trial as the data set has them, held-out ones included."""
    train, held_out = parts(experiment, site)
    return (
        np.concatenate([train.features, held_out.features]),
        np.concatenate([train.targets, held_out.targets]),
    )


def sites_of(data: Data) -> tuple[str, ...]:
    """Names of the sites in the file of a trial that have enough examples, sorted.

    Raises:
        DataError: it cannot be read, or no site has.
    """
    names, counts = np.unique(_groups(data), return_counts=True)
    found = tuple(names[counts >= data.min_examples].tolist())
    if not found:
        raise DataError(
            f"{data.file}: no site has {data.min_examples} examples; the largest has {counts.max()}"
        )
    return found


def num_sites_in(data: Data) -> int:
    """How many sites the file of a trial has, with however few examples.

    Raises:
        DataError: it cannot be read.
    """
    return len(np.unique(_groups(data)))


def parts(experiment: Experiment, site: str, own: Sources | None = None) -> tuple[Dataset, Dataset]:
    """The site's examples: those that it trains on, and those that it holds out."""
    part = _part(experiment, site, own)
    if experiment.data.holdout == "given":
        assert part.is_test is not None, "the settings allow it for data sets with a test set alone"
        train, held_out = np.flatnonzero(~part.is_test), np.flatnonzero(part.is_test)
        if not len(train) or not len(held_out):
            raise DataError(
                f"site {site}: expected examples to train on and to test on; "
                f"got {len(train)} and {len(held_out)}"
            )
        return part[train], part[held_out]
    is_survival = experiment.target_kind == "survival"
    try:
        train, held_out = partitions.holdout(
            part.targets[:, 1] if is_survival else part.targets,
            experiment.data.holdout,
            is_classes=is_survival or bool(part.classes),
            seed=experiment.seed + 1 + experiment.sites.index(site),
        )
    except DataError as error:
        raise DataError(f"site {site}: {error}") from error
    return part[train], part[held_out]


def _part(experiment: Experiment, site: str, own: Sources | None) -> Dataset:
    """All of the site's examples."""
    data = experiment.data
    if data.is_at_sites:
        assert data.dataset is not None and data.layout is not None
        source = (own or {}).get(data.dataset)
        if source is None:
            known = f"; it has {', '.join(own)}" if own else ""
            raise DataError(f"site {site}: its site.toml has no data set {data.dataset!r}{known}")
        return sources.read(source, data.layout)
    if own is not None and (own or data.file is not None):  # what the centre names is never opened here
        raise DataError(f"site {site}: expected a data set of its site.toml, got {data.dataset or data.file}")
    whole = _whole(data, experiment.seed)
    if data.file is not None:
        here = np.flatnonzero(whole.groups == site)
        if not len(here):
            raise DataError(
                f"site {site}: {data.file} has none of that name in its column {data.site_column}"
            )
        return whole[here]
    partition = data.partition or (Natural() if data.dataset in GROUPED else Iid())
    chosen = partitions.split(whole, partition, len(experiment.sites), experiment.seed)
    is_named = isinstance(partition, Natural) and set(whole.group_names) == set(experiment.sites)
    order = whole.group_names if is_named else experiment.sites
    return whole[chosen[order.index(site)]]


def _whole(data: Data, seed: int) -> Dataset:
    """What a trial shares out; read once, however many sites are hosted here."""
    return _whole_of(TypeAdapter(Data).dump_json(data), seed if data.dataset == "two-hospitals" else 0)


def _groups(data: Data) -> np.ndarray:
    """The site of each example in the file of a trial, `(examples,)`."""
    groups = _whole(data, seed=0).groups
    assert groups is not None, "a file with a column of sites has them"
    return groups


@lru_cache(maxsize=2)
def _whole_of(settings: bytes, seed: int) -> Dataset:
    data = TypeAdapter(Data).validate_json(settings)
    if data.file is None:
        assert data.dataset is not None
        return datasets.load(data.dataset, seed)
    assert data.layout is not None and data.site_column is not None
    return sources.read(sources.of_file(Path(data.file)), data.layout, data.site_column)


def _examples(raw: Dataset, schema: Schema, own: Preprocessing | None) -> Examples:
    return Examples(features=schema.prepared(raw.features, own), targets=raw.targets.astype(np.float32))
