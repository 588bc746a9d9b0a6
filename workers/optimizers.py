"""Optimizers by name, with the options each one has; `optax_transforms` builds them.

The names and options are optax's own. They are declared apart from optax so that a wrong experiment file
is answered without importing JAX.
"""

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, Strict

from workers.settings import NonNegativeFloat, PositiveFloat, settings

Decay: TypeAlias = Annotated[float, Strict(), Field(ge=0, lt=1)]


@settings
class Sgd:
    """Stochastic gradient descent, with momentum when it is given."""

    name: Literal["sgd"] = "sgd"
    learning_rate: PositiveFloat
    momentum: Decay | None = None
    nesterov: bool = False


@settings
class Adam:
    """Kingma and Ba 2015, arXiv 1412.6980."""

    name: Literal["adam"] = "adam"
    learning_rate: PositiveFloat
    b1: Decay = 0.9
    b2: Decay = 0.999
    eps: PositiveFloat = 1e-8


@settings
class AdamW:
    """Adam with decoupled weight decay: Loshchilov and Hutter 2019, arXiv 1711.05101."""

    name: Literal["adamw"] = "adamw"
    learning_rate: PositiveFloat
    b1: Decay = 0.9
    b2: Decay = 0.999
    eps: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 1e-4


@settings
class Adagrad:
    """Duchi et al. 2011."""

    name: Literal["adagrad"] = "adagrad"
    learning_rate: PositiveFloat
    initial_accumulator_value: NonNegativeFloat = 0.1
    eps: PositiveFloat = 1e-7


@settings
class Yogi:
    """Zaheer et al. 2018."""

    name: Literal["yogi"] = "yogi"
    learning_rate: PositiveFloat
    b1: Decay = 0.9
    b2: Decay = 0.999
    eps: PositiveFloat = 1e-3


@settings
class RmsProp:
    """Tieleman and Hinton 2012."""

    name: Literal["rmsprop"] = "rmsprop"
    learning_rate: PositiveFloat
    decay: Decay = 0.9
    eps: PositiveFloat = 1e-8
    momentum: Decay | None = None


Optimizer: TypeAlias = Annotated[Sgd | Adam | AdamW | Adagrad | Yogi | RmsProp, Field(discriminator="name")]
