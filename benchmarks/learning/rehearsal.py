"""Choosing settings without the test set: cross-validation within the training examples, in virtual time.

The strategies and the local training are the real ones; processes, queues and the clock are not. What is
chosen here is then run for real.
"""

import heapq
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from pydantic import TypeAdapter
from sklearn.model_selection import StratifiedKFold

from tasks import environment
from workers import client_update, data, description, inference, originals, scoring
from workers.data import Examples, SiteData
from workers.datasets import Dataset
from workers.params import Params
from workers.schema import Schema
from workers.spec import Experiment
from workers.strategies import Server, Update

FOLDS = 4
Key = TypeVar("Key")


def cross_validated(settings: Mapping[str, Any], metric: str, seeds: tuple[int, ...] = (0, 1)) -> float:
    """Mean over folds and seeds of a metric, with only the examples that sites train on."""
    originals.use(environment.data_folders())
    experiment = TypeAdapter(Experiment).validate_python(settings)
    schema = data.schema_of(experiment.data)
    found = []
    for seed in seeds:
        for fold in _folds(experiment, schema, seed):
            params = rehearse(experiment, schema, fold, seed)
            found.append(_measured_together(experiment, params, list(fold.values()))[metric])
    return float(np.mean(found))


def best(candidates: Mapping[Key, Mapping[str, Any]], metric: str) -> tuple[Key, dict[Key, float]]:
    """The candidate with the highest metric, and all their metrics."""
    scores = {key: cross_validated(settings, metric) for key, settings in candidates.items()}
    return max(scores, key=lambda key: scores[key]), scores


def rehearse(experiment: Experiment, schema: Schema, sites: Mapping[str, SiteData], seed: int) -> Params:
    """The model after `stop.updates` updates, with the delays of `seconds_per_order`."""
    strategy, rng = experiment.strategy, np.random.default_rng(seed)
    params = experiment.model.init(rng, schema.input_shape, schema.num_outputs)
    server = Server(params=params, version=0, memory=strategy.init(params))
    due: list[tuple[float, str, int, Params]] = []  # when, who, from which version, from which model
    waiting = list(sites)
    applied, now = 0, 0.0
    while applied < (experiment.stop.updates or 0):
        if not strategy.is_synchronous or not due:
            for site in waiting:
                seconds = max(experiment.delay(site, int(rng.integers(2**31))), 1e-3) * rng.uniform(
                    0.95, 1.05
                )
                heapq.heappush(due, (now + seconds, site, server.version, server.params))
            waiting = []
        now, site, version, base = heapq.heappop(due)
        trained = client_update.train(
            base,
            sites[site].train,
            model=experiment.model,
            target_kind=experiment.target_kind,
            training=experiment.training,
            seed=int(rng.integers(2**31)),
        )
        update = Update(
            delta=trained.delta,
            base=base,
            num_examples=len(sites[site].train),
            staleness=server.version - version,
        )
        applied += 1
        waiting.append(site)
        server = strategy.close(strategy.fold(server, update), len(due), len(sites))
    return server.params


def _measured_together(
    experiment: Experiment, params: Params, parts: Sequence[SiteData]
) -> Mapping[str, float | None]:
    """Metrics on what all sites hold out together: a fold of one site has too few events for them."""
    outputs = [inference.outputs(experiment.model, params, part.holdout.features) for part in parts]
    targets = [part.holdout.targets for part in parts]
    return scoring.measure(experiment.target_kind, np.concatenate(outputs), np.concatenate(targets))


def _folds(experiment: Experiment, schema: Schema, seed: int) -> Iterator[dict[str, SiteData]]:
    """The sites' training examples, a part of them held out in turn."""
    trained = {site: data.parts(experiment, site)[0] for site in experiment.sites}
    splits = {site: list(_split(part, seed)) for site, part in trained.items()}
    for number in range(FOLDS):
        chosen = {
            site: (part[splits[site][number][0]], part[splits[site][number][1]])
            for site, part in trained.items()
        }
        told = [description.describe(schema, train.features, 1) for train, _ in chosen.values()]
        complete = description.combine(schema, experiment.data, told)
        yield {site: _prepared(complete, *both) for site, both in chosen.items()}


def _split(part: Dataset, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    strata = part.targets[:, 1] if part.targets.ndim == 2 else part.targets
    return StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(part.features, strata)


def _prepared(schema: Schema, train: Dataset, held_out: Dataset) -> SiteData:
    own = None if schema.preprocessing else schema.fitted(train.features)

    def examples(raw: Dataset) -> Examples:
        return Examples(features=schema.prepared(raw.features, own), targets=raw.targets.astype(np.float32))

    return SiteData(train=examples(train), holdout=examples(held_out))
