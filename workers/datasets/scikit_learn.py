"""Data sets that ship with scikit-learn.

Originals: UCI Machine Learning Repository, CC BY 4.0; diabetes: Efron et al. 2004.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import sklearn.datasets

from workers.datasets.dataset import Dataset


def _load(loader: Callable[[], sklearn.utils.Bunch], target_name: str) -> Dataset:
    bunch = loader()
    return Dataset(
        features=np.asarray(bunch.data, np.float64),
        targets=np.asarray(bunch.target, np.float64),
        feature_names=tuple(str(name) for name in bunch.feature_names),
        target_name=target_name,
        classes=tuple(str(name) for name in bunch.get("target_names", ())),
    )


breast_cancer = partial(_load, sklearn.datasets.load_breast_cancer, "diagnosis")
diabetes = partial(_load, sklearn.datasets.load_diabetes, "progression")
digits = partial(_load, sklearn.datasets.load_digits, "digit")
iris = partial(_load, sklearn.datasets.load_iris, "species")
wine = partial(_load, sklearn.datasets.load_wine, "cultivar")
