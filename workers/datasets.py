"""Data sets by name: raw features and targets of all their examples.

scikit-learn's, which ship with the package (originals: UCI Machine Learning Repository, CC BY 4.0; diabetes:
Efron et al. 2004), and one that is drawn. To add one: write its function, name it in `LOADERS` and in
`workers.spec`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import sklearn.datasets

from workers.spec import DatasetName


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Features `(examples, num_features)` and targets `(examples,)`, float64; classes count from 0."""

    features: np.ndarray
    targets: np.ndarray
    feature_names: tuple[str, ...]
    target_name: str
    classes: tuple[str, ...] = ()
    groups: np.ndarray | None = None  # (examples,): which site has the example, where the data set says so


def load(name: DatasetName, seed: int) -> Dataset:
    """The data set of that name; `seed` matters only to the one that is drawn."""
    return LOADERS[name](seed)


def two_hospitals(seed: int) -> Dataset:
    """Two hospitals, 1,000 examples each.

    x1 ~ U(0, 10), y1 = 3 x1 + U(0, 2); x2 ~ U(5, 15), y2 = 4 x2 + U(0, 2).
    """
    rng = np.random.default_rng(seed)
    x = np.concatenate([rng.uniform(0, 10, 1000), rng.uniform(5, 15, 1000)])
    slope = np.repeat([3.0, 4.0], 1000)
    return Dataset(
        features=x[:, None],
        targets=slope * x + rng.uniform(0, 2, 2000),
        feature_names=("x",),
        target_name="y",
        groups=np.repeat([0, 1], 1000),
    )


def _scikit_learn(loader: Callable[..., object], target_name: str) -> Callable[[int], Dataset]:
    def load_bunch(_seed: int) -> Dataset:
        bunch: sklearn.utils.Bunch = loader()
        return Dataset(
            features=np.asarray(bunch.data, np.float64),
            targets=np.asarray(bunch.target, np.float64),
            feature_names=tuple(str(name) for name in bunch.feature_names),
            target_name=target_name,
            classes=tuple(str(name) for name in bunch.get("target_names", ())),
        )

    return load_bunch


LOADERS: Mapping[DatasetName, Callable[[int], Dataset]] = {
    "breast-cancer": _scikit_learn(sklearn.datasets.load_breast_cancer, "diagnosis"),
    "diabetes": _scikit_learn(sklearn.datasets.load_diabetes, "progression"),
    "digits": _scikit_learn(sklearn.datasets.load_digits, "digit"),
    "iris": _scikit_learn(sklearn.datasets.load_iris, "species"),
    "two-hospitals": two_hospitals,
    "wine": _scikit_learn(sklearn.datasets.load_wine, "cultivar"),
}
