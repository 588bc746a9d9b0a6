"""What every source of examples gives: raw features and targets, before any preprocessing."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Raw examples, as `Schema` says what these are, and their targets, float64.

    Targets are `(examples,)`, with classes counted from 0; of survival `(examples, 2)`: time, and 1 for an
    event or 0 for none.
    """

    features: np.ndarray
    targets: np.ndarray
    feature_names: tuple[str, ...]
    target_name: str
    classes: tuple[str, ...] = ()
    # Of the features that are no numbers.
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    drop_first: bool = False
    groups: np.ndarray | None = None  # (examples,): which site has the example, where the data set says so
    group_names: tuple[str, ...] = ()  # of groups 0, 1, ..., for people
    is_test: np.ndarray | None = None  # (examples,): whether the data set sets it apart for tests

    def __len__(self) -> int:
        """How many examples there are."""
        return len(self.targets)

    def __getitem__(self, chosen: np.ndarray) -> "Dataset":
        """The examples of these indices."""
        return replace(
            self,
            features=self.features[chosen],
            targets=self.targets[chosen],
            groups=None if self.groups is None else self.groups[chosen],
            is_test=None if self.is_test is None else self.is_test[chosen],
        )
