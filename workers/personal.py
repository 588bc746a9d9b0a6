"""A site's own model: how it comes of the global one, and what it is compared with. It imports JAX.

A personal model stays at its site; only its metrics travel.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from workers import batches, client_update
from workers.data import Examples
from workers.params import Array, Params
from workers.personal_settings import Ditto, FineTuning, LocalLayers
from workers.spec import LocalTraining, Spec


class Trained(NamedTuple):
    """What came of an order."""

    delta: Params  # travels
    own: Params  # stays: what the site's own model is made of
    loss: Array  # as `client_update` says


def carry_out(spec: Spec, base: Params, own: Params, examples: Examples, seed: int) -> Trained:
    """Train an order's base model, and along with it what is the site's own.

    The delta of its own layers is 0 (FedPer: Arivazhagan et al. 2019, arXiv 1912.00818, algorithm 1). Ditto's
    model is trained after, towards the base model (Li et al. 2021, arXiv 2012.04221, algorithm 1).
    """
    method, training = spec.experiment.personal, spec.experiment.training
    if isinstance(method, LocalLayers):
        start = {**base, **own}
        trained = _train(spec, start, examples, training, seed)
        kept = {path: start[path] + trained.delta[path] for path in base if method.keeps(path)}
        delta = {path: np.zeros_like(leaf) if path in kept else leaf for path, leaf in trained.delta.items()}
        return Trained(delta=delta, own=kept, loss=trained.loss)
    trained = _train(spec, base, examples, training, seed)
    if isinstance(method, Ditto):
        own = _step(spec, own or base, examples, _towards(training, method.penalty), seed, anchor=base)
    return Trained(delta=trained.delta, own=own, loss=trained.loss)


def finish(spec: Spec, last: Params, own: Params, examples: Examples, seed: int) -> Params:
    """The site's own model, given the last global one."""
    method, training = spec.experiment.personal, spec.experiment.training
    match method:
        case FineTuning():
            tuning = dataclasses.replace(
                training, epochs=method.epochs, steps=None, optimizer=method.optimizer or training.optimizer
            )
            return _step(spec, last, examples, tuning, seed)
        case LocalLayers():
            return {**last, **own}
        case Ditto() if own:
            return own
        case Ditto():  # it was lost, or the site has carried out no order
            return _step(spec, last, examples, _towards(training, method.penalty), seed, anchor=last)
    raise AssertionError(f"{method} is not one of the methods")


def alone(spec: Spec, examples: Examples, num_orders: int, seed: int) -> Params:
    """The model that the site comes to without the others, by as many orders."""
    params, training = _initial(spec), _without_others(spec.experiment.training)
    for number in range(num_orders):
        params = _step(spec, params, examples, training, seed + number)
    return params


def pooled(spec: Spec, examples: Mapping[str, Examples], orders: Mapping[str, int]) -> Params:
    """The model that one training comes to on all sites' examples together.

    It takes as many steps as the sites took in so many orders each, and sees as many examples.
    """
    params, training = _initial(spec), _without_others(spec.experiment.training)
    together = Examples(
        features=np.concatenate([part.features for part in examples.values()]),
        targets=np.concatenate([part.targets for part in examples.values()]),
    )
    steps = sum(orders[site] * batches.num_steps(training, len(part)) for site, part in examples.items())
    if not steps:
        return params
    training = dataclasses.replace(training, epochs=None, steps=steps)
    return _step(spec, params, together, training, spec.experiment.seed)


def _initial(spec: Spec) -> Params:
    """The model that the experiment began with."""
    rng = np.random.default_rng(spec.experiment.seed)
    return spec.model.init(rng, spec.schema.input_shape, spec.schema.num_outputs)


def _without_others(training: LocalTraining) -> LocalTraining:
    """The same without FedProx's term, which draws to the model of all."""
    return dataclasses.replace(training, proximal=0.0)


def _towards(training: LocalTraining, penalty: float) -> LocalTraining:
    return dataclasses.replace(training, proximal=penalty)


def _step(
    spec: Spec,
    start: Params,
    examples: Examples,
    training: LocalTraining,
    seed: int,
    anchor: Params | None = None,
) -> Params:
    trained = _train(spec, start, examples, training, seed, anchor)
    return {path: leaf + trained.delta[path] for path, leaf in start.items()}


def _train(
    spec: Spec,
    start: Params,
    examples: Examples,
    training: LocalTraining,
    seed: int,
    anchor: Params | None = None,
) -> client_update.Trained:
    return client_update.train(
        start,
        examples,
        model=spec.model,
        target_kind=spec.schema.target_kind,
        training=training,
        seed=seed,
        anchor=anchor,
    )
