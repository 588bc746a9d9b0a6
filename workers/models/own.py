"""A user's own model: a function that is installed where the model trains, and that the site allows.

The function, `package.module:name`, is called with the shape of one example and the number of outputs, and
returns the pair `init(rng)`, with NumPy's generator, and `apply(params, features)`, as in `workers.models`.
Both must be pure, and `apply` must run under `jax.jit`. The kind of target chooses the objective.

An experiment's author names the function, and a site's process would run it: so a process refuses, until it
is told what is allowed.
"""

import importlib
import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import ClassVar, Literal, TypeAlias

import numpy as np
from pydantic import Field, model_validator

from workers.errors import ExperimentError, SettingsError
from workers.models.targets import EVERY_KIND, Shape, TargetKind
from workers.params import Array, Params
from workers.settings import PositiveInt, settings

Init: TypeAlias = Callable[[np.random.Generator], Params]
Apply: TypeAlias = Callable[[Params, Array], Array]

WRITTEN = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)

_allowed: set[str] = set()  # functions that this process may call
_is_anything_allowed = False


def allow(functions: Iterable[str]) -> None:
    """Let this process call these functions, too: `package.module:name`."""
    _allowed.update(functions)


def allow_anything() -> None:
    """Let this process call whatever an experiment names: in trials, where one person has all of it."""
    global _is_anything_allowed
    _is_anything_allowed = True


@settings
class OwnModel:
    """What the function returns."""

    kind: Literal["own"] = "own"
    function: str = Field(max_length=200)
    num_outputs: PositiveInt | None = None  # as the target needs; `Spec.model` says it
    targets: ClassVar[tuple[TargetKind, ...]] = EVERY_KIND

    @model_validator(mode="after")
    def _names_a_function(self) -> "OwnModel":
        if not WRITTEN.fullmatch(self.function):
            raise ValueError(f"function: expected package.module:name, got {self.function!r}")
        return self

    def init(self, rng: np.random.Generator, shape: Shape, num_outputs: int) -> Params:
        """The function's first parameters.

        Raises:
            SettingsError: the function is not allowed here, or not installed.
            ExperimentError: it, or its `init`, does not return what it should.
        """
        init, _ = _pair(self.function, shape, num_outputs)
        return _checked(init(rng), f"init of {self.function}")

    def apply(self, params: Params, features: Array) -> Array:
        """The function's outputs, `(batch, num_outputs)`.

        Raises:
            SettingsError: the function is not allowed here, or not installed.
            ExperimentError: it does not return what it should, or its outputs have another shape.
        """
        assert self.num_outputs is not None, "Spec.model says it"
        _, apply = _pair(self.function, features.shape[1:], self.num_outputs)
        outputs = apply(params, features)
        expected, found = (len(features), self.num_outputs), getattr(outputs, "shape", None)
        if found != expected:
            shown = f"an array {found}" if found is not None else type(outputs).__name__
            raise ExperimentError(f"apply of {self.function}: expected outputs {expected}, got {shown}")
        return outputs


def _pair(function: str, shape: Shape, num_outputs: int) -> tuple[Init, Apply]:
    if not _is_anything_allowed and function not in _allowed:
        raise SettingsError(
            f"model.function: {function} is not allowed here. A site allows it by the line "
            f'models = ["{function}"] in its site.toml, and fedelta predict by --allow-model {function}'
        )
    return _made(function, shape, num_outputs)


@lru_cache(maxsize=64)
def _made(function: str, shape: Shape, num_outputs: int) -> tuple[Init, Apply]:
    """The pair that the function returns; it is called once for each shape."""
    made = _found(function)(shape, num_outputs)
    if not isinstance(made, tuple) or len(made) != 2 or not all(callable(part) for part in made):
        raise ExperimentError(f"{function}: expected a pair of functions (init, apply), got {_shown(made)}")
    return made


def _found(function: str) -> Callable[[Shape, int], object]:
    module_name, _, name = function.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), name)
    except ImportError as error:
        raise SettingsError(f"model.function: {function} is not installed here: {error}") from error
    except AttributeError as error:
        raise SettingsError(f"model.function: {module_name} is installed here, and has no {name}") from error
    if not callable(found):
        raise SettingsError(f"model.function: {function} is no function, but {_shown(found)}")
    return found  # type: ignore[no-any-return]


def _checked(params: object, where: str) -> Params:
    """The parameters as NumPy arrays."""
    if (
        not isinstance(params, dict)
        or not params
        or not all(path and isinstance(path, str) for path in params)
    ):
        raise ExperimentError(f"{where}: expected a dict of arrays by their names, got {_shown(params)}")
    for path, leaf in params.items():
        dtype = getattr(leaf, "dtype", None)
        if dtype != np.float32:
            shown = _shown(leaf) if dtype is None else f"an array of {dtype}"
            raise ExperimentError(f"{where}, leaf {path!r}: expected an array of float32, got {shown}")
    return {path: np.asarray(leaf) for path, leaf in params.items()}


def _shown(value: object) -> str:
    if isinstance(value, tuple | list | dict):
        return f"a {type(value).__name__} of {len(value)}"
    return f"{'an' if type(value).__name__[0] in 'aeiou' else 'a'} {type(value).__name__}"
