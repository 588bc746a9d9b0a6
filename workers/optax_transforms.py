"""Optimizer settings to optax's gradient transformations. Importing this imports JAX."""

import dataclasses

import optax

from workers.optimizers import Optimizer


def build(optimizer: Optimizer) -> optax.GradientTransformation:
    """Build the transformation of that name, with those options."""
    options = dataclasses.asdict(optimizer)
    transform: optax.GradientTransformation = getattr(optax, options.pop("name"))(**options)
    return transform
