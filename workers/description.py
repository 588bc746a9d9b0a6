"""What a site tells of its examples, so that all sites prepare their inputs alike; no example is in it."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from workers import standardization
from workers.data_settings import Data
from workers.errors import DataError
from workers.params import Params
from workers.schema import Schema
from workers.standardization import Moments

MAX_NUMBER = 1e100  # whose squares, and sums of them, are numbers
MAX_EXAMPLES = 2**53  # what a float can count
MIN_COUNT = 10  # values, of which a site tells nothing if it has fewer; its site.toml may say another number


@dataclass(frozen=True, kw_only=True)
class Description:
    """How many examples a site trains on, and the moments of each input."""

    num_examples: int
    moments: Moments

    @property
    def params(self) -> Params:
        """As it travels."""
        return {
            "num_examples": np.array([self.num_examples], np.float64),
            "count": self.moments.count,
            "mean": self.moments.mean,
            "squares": self.moments.squares,
        }


def describe(schema: Schema, features: np.ndarray, min_count: int = MIN_COUNT) -> Description:
    """Describe the raw examples that a site trains on; of an input with fewer values it tells nothing.

    Raises:
        DataError: it has too few examples to tell anything.
    """
    if len(features) < min_count:
        raise DataError(f"expected at least {min_count} examples to train on, to tell numbers of them")
    found = standardization.moments(schema.encoded(features))
    is_told = found.count >= min_count
    told = (np.where(is_told, part, 0.0) for part in (found.count, found.mean, found.squares))
    return Description(
        num_examples=len(features),
        moments=Moments(**dict(zip(("count", "mean", "squares"), told, strict=True))),
    )


def reference(schema: Schema) -> Params:
    """Shapes and dtypes of a description's leaves; they take no memory."""
    per_input = np.broadcast_to(np.zeros(()), (len(schema.inputs),))
    return {"num_examples": np.zeros(1), "count": per_input, "mean": per_input, "squares": per_input}


def from_params(schema: Schema, told: Params) -> Description:
    """The description that these leaves, as large as `reference` says, are.

    Raises:
        DataError: no examples have such numbers.
    """
    if not all((np.abs(leaf) <= MAX_NUMBER).all() for leaf in told.values()):
        raise DataError(f"expected numbers up to {MAX_NUMBER:g}")
    num_examples = float(told["num_examples"][0])
    count, mean, squares = told["count"], told["mean"], told["squares"]
    if not (1 <= num_examples < MAX_EXAMPLES and num_examples == int(num_examples)):
        raise DataError("expected a number of examples of at least 1")
    most = num_examples * math.prod(schema.size or ())  # of an image each pixel is a value
    if (count < 0).any() or (count > most).any() or (count != np.floor(count)).any():
        raise DataError("expected counts of values, no more than there are examples")
    if (squares < 0).any():
        raise DataError("expected sums of squares that are not negative")
    return Description(
        num_examples=int(num_examples), moments=Moments(count=count, mean=mean, squares=squares)
    )


def combine(schema: Schema, data: Data, told: Sequence[Description]) -> Schema:
    """The schema with the preprocessing that all sites share, made of what each has told.

    Raises:
        DataError: no site has a value of some input; names it.
    """
    if data.standardize == "local":
        return schema
    known = standardization.combine(description.moments for description in told)
    empty = [name for name, count in zip(schema.inputs, known.count, strict=True) if not count]
    if empty:
        raise DataError(f"no site has values of {', '.join(empty[:20])}")
    make = standardization.standardizing if data.standardize == "pooled" else standardization.filling
    return dataclasses.replace(schema, preprocessing=make(known))
