"""Standardization and imputation of inputs, from numbers that sites can share: counts, means, squares.

Inputs are float64 `(examples, ..., num_inputs)`: rows of a table, or images whose last axis is the channel.
NaN is a value that is missing.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from workers.settings import PositiveFloat, settings

ROUNDING = 1e-12  # of a mean: a deviation below is that of a constant


@dataclass(frozen=True, kw_only=True)
class Moments:
    """What a site tells of each input; all are float64 `(num_inputs,)`."""

    count: np.ndarray  # values that are there
    mean: np.ndarray  # of them
    squares: np.ndarray  # sum over the site's values of (value - the site's mean)²


@settings
class Preprocessing:
    """How inputs are filled and scaled: what is missing becomes `fill`, then (value - shift) / scale."""

    fill: tuple[float, ...]
    shift: tuple[float, ...]
    scale: tuple[PositiveFloat, ...]

    def __len__(self) -> int:
        """How many inputs it is for."""
        return len(self.shift)

    def apply(self, inputs: np.ndarray) -> np.ndarray:
        """Inputs as the model wants them: complete, scaled, float32."""
        filled = np.where(np.isnan(inputs), np.asarray(self.fill), inputs)
        scaled: np.ndarray = (filled - np.asarray(self.shift)) / np.asarray(self.scale)
        return scaled.astype(np.float32)


def moments(inputs: np.ndarray) -> Moments:
    """Those of the inputs of one site."""
    rows = np.asarray(inputs, np.float64).reshape(-1, inputs.shape[-1])
    is_there = ~np.isnan(rows)
    count = is_there.sum(axis=0, dtype=np.float64)
    mean = np.where(is_there, rows, 0.0).sum(axis=0) / np.maximum(count, 1)
    mean += np.where(is_there, rows - mean, 0.0).sum(axis=0) / np.maximum(count, 1)  # what rounding lost
    squares = np.where(is_there, np.square(rows - mean), 0.0).sum(axis=0)
    return Moments(count=count, mean=mean, squares=squares)


def combine(told: Iterable[Moments]) -> Moments:
    """Those of all sites' inputs, as if they had been pooled (Chan, Golub and LeVeque 1979, eq. 2.1).

    Unlike sums of squares, nothing cancels where a mean is large and its deviation small.
    """
    parts = list(told)
    count = sum((part.count for part in parts), np.zeros_like(parts[0].count))
    mean = sum(part.count * part.mean for part in parts) / np.maximum(count, 1)
    mean += sum(part.count * (part.mean - mean) for part in parts) / np.maximum(count, 1)  # likewise
    squares = sum(part.squares + part.count * np.square(part.mean - mean) for part in parts)
    return Moments(count=count, mean=mean, squares=squares)


def standardizing(known: Moments) -> Preprocessing:
    """To mean 0 and deviation 1; what is missing becomes the mean, and what is constant or never there 0."""
    deviation = np.sqrt(known.squares / np.maximum(known.count, 1))
    is_constant = deviation <= ROUNDING * np.abs(known.mean)
    mean, scale = tuple(known.mean.tolist()), np.where(is_constant, 1.0, deviation)
    return Preprocessing(fill=mean, shift=mean, scale=tuple(scale.tolist()))


def filling(known: Moments) -> Preprocessing:
    """As they are; what is missing becomes the mean, or 0 where it is never there."""
    size = len(known.mean)
    return Preprocessing(fill=tuple(known.mean.tolist()), shift=(0.0,) * size, scale=(1.0,) * size)
