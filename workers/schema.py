"""What the examples look like, at every site: fixed by the experiment, whatever the files happen to hold."""

from collections.abc import Mapping
from typing import Annotated

import numpy as np
from pydantic import Field, model_validator

from workers.models import TargetKind
from workers.settings import PositiveInt, settings
from workers.standardization import Preprocessing, moments, standardizing

Categories = Annotated[tuple[str, ...], Field(min_length=1)]


@settings
class Schema:
    """The features, the target, and the preprocessing; it travels with the model.

    A raw example is a row of a table, float64 `(num_features,)`: a number, the index of a category, or NaN
    where it is missing; or an image `(height, width, num_features)`, whose features are its channels.
    """

    features: tuple[str, ...]
    categories: Mapping[str, Categories] = Field(default_factory=dict)  # of the features that are no numbers
    drop_first: bool = False  # a feature's first category has no input of its own: all others are 0
    size: tuple[PositiveInt, PositiveInt] | None = None  # of images: height and width in pixels
    target: str
    target_kind: TargetKind
    classes: tuple[str, ...] = ()  # names of classes 0, 1, ...; empty for regression and survival
    preprocessing: Preprocessing | None = None  # None: each site has its own (or none is known yet)

    @model_validator(mode="after")
    def _fits_together(self) -> "Schema":
        if self.preprocessing is not None and not (
            len(self.inputs)
            == len(self.preprocessing.fill)
            == len(self.preprocessing.shift)
            == len(self.preprocessing.scale)
        ):
            raise ValueError(f"preprocessing: expected numbers for each of {len(self.inputs)} inputs")
        return self

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the numbers that the model sees of an example; of an image, its channels."""
        names: list[str] = []
        for feature in self.features:
            if feature in self.categories:
                shown = self.categories[feature][int(self.drop_first) :]
                names += [f"{feature} = {category}" for category in shown]
            else:
                names.append(feature)
        return tuple(names)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example, as the model sees it."""
        return (*(self.size or ()), len(self.inputs))

    @property
    def num_outputs(self) -> int:
        """Columns of the model's output."""
        return len(self.classes) if self.target_kind == "multiclass" else 1

    def encoded(self, raw: np.ndarray) -> np.ndarray:
        """Raw examples as inputs, not yet filled and scaled: a category is 1, the others of its feature 0.

        A category that is missing is missing in all of them.
        """
        if not self.categories:
            return np.asarray(raw, np.float64)
        columns = []
        for feature, column in zip(self.features, np.asarray(raw, np.float64).T, strict=True):
            if feature not in self.categories:
                columns.append(column)
                continue
            for index in range(int(self.drop_first), len(self.categories[feature])):
                columns.append(np.where(np.isnan(column), np.nan, column == index))
        return np.stack(columns, axis=1)

    def fitted(self, raw: np.ndarray) -> Preprocessing:
        """The preprocessing of a site that has its own, from the examples that it trains on."""
        return standardizing(moments(self.encoded(raw)))

    def prepared(self, raw: np.ndarray, own: Preprocessing | None = None) -> np.ndarray:
        """Raw examples as the model wants them, float32; `own` is the site's, where each has its own."""
        preprocessing = self.preprocessing or own
        assert preprocessing is not None, "whose experiment asks for it has one"
        return preprocessing.apply(self.encoded(raw))
