"""Data sets that ship with scikit-learn.

Originals: UCI Machine Learning Repository, CC BY 4.0; diabetes: Efron et al. 2004.
"""

import importlib.util
from functools import partial
from pathlib import Path

import numpy as np

from workers.datasets.dataset import Dataset
from workers.lazily import lazily

datasets = lazily("sklearn.datasets")

MEASURED = (  # of a tumour's cells, in the order of the file
    *("radius", "texture", "perimeter", "area", "smoothness"),
    *("compactness", "concavity", "concave points", "symmetry", "fractal dimension"),
)


def breast_cancer() -> Dataset:
    """As `load_breast_cancer` of scikit-learn has it.

    It is what a first trial trains on, and reads scikit-learn's file without it: to import that takes longer
    than all that a trial's worker does until the first update.
    """
    spec = importlib.util.find_spec("sklearn")
    assert spec is not None and spec.origin is not None  # fedelta depends on it
    file = Path(spec.origin).parent / "datasets" / "data" / "breast_cancer.csv"
    first, *rows = file.read_text().splitlines()
    table = np.array([row.split(",") for row in rows], np.float64)
    means = tuple(f"mean {name}" for name in MEASURED)
    errors = tuple(f"{name} error" for name in MEASURED)
    worst = tuple(f"worst {name}" for name in MEASURED)
    return Dataset(
        features=table[:, :-1],
        targets=table[:, -1],
        feature_names=means + errors + worst,
        target_name="diagnosis",
        classes=tuple(first.split(",")[2:]),
    )


def _load(loader: str, target_name: str) -> Dataset:
    bunch = getattr(datasets, loader)()
    return Dataset(
        features=np.asarray(bunch.data, np.float64),
        targets=np.asarray(bunch.target, np.float64),
        feature_names=tuple(str(name) for name in bunch.feature_names),
        target_name=target_name,
        classes=tuple(str(name) for name in bunch.get("target_names", ())),
    )


diabetes = partial(_load, "load_diabetes", "progression")
digits = partial(_load, "load_digits", "digit")
iris = partial(_load, "load_iris", "species")
wine = partial(_load, "load_wine", "cultivar")
