"""Models of the speed benchmarks: so many parameters in four leaves, and outputs that cost nothing."""

import numpy as np

from workers.models.own import Apply, Init
from workers.models.targets import Shape
from workers.params import Array, Params

LEAVES = 4


def _of(num_params: int, shape: Shape, num_outputs: int) -> tuple[Init, Apply]:
    def init(rng: np.random.Generator) -> Params:
        return {f"leaf{number}": np.zeros(num_params // LEAVES, np.float32) for number in range(LEAVES)}

    def apply(params: Params, features: Array) -> Array:
        return features[:, :num_outputs] * params["leaf0"][0]

    return init, apply


def thousand(shape: Shape, num_outputs: int) -> tuple[Init, Apply]:
    return _of(1_000, shape, num_outputs)


def million(shape: Shape, num_outputs: int) -> tuple[Init, Apply]:
    return _of(1_000_000, shape, num_outputs)


def ten_million(shape: Shape, num_outputs: int) -> tuple[Init, Apply]:
    return _of(10_000_000, shape, num_outputs)


def forty_million(shape: Shape, num_outputs: int) -> tuple[Init, Apply]:
    return _of(40_000_000, shape, num_outputs)


def two_hundred_million(shape: Shape, num_outputs: int) -> tuple[Init, Apply]:
    return _of(200_000_000, shape, num_outputs)


FUNCTIONS = {
    1_000: "benchmarks.echo_model:thousand",
    1_000_000: "benchmarks.echo_model:million",
    10_000_000: "benchmarks.echo_model:ten_million",
    40_000_000: "benchmarks.echo_model:forty_million",
    200_000_000: "benchmarks.echo_model:two_hundred_million",
}
