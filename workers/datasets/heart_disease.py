"""Heart Disease (UCI data set 45, CC BY 4.0): patients of four hospitals, and whether the heart is diseased.

Janosi, Steinbrunn, Pfisterer and Detrano 1988. Prepared and split as Fed-Heart-Disease of FLamby (du Terrail
et al. 2022, arXiv 2210.04620): without three columns that are mostly missing, then without the rows that miss
a value. One thing is not as there: the files write a category as 0.0 or as 0, which FLamby takes for two
categories of restecg, and so has 16 inputs; here it is one, and there are 13.
"""

from pathlib import Path

import numpy as np

from workers import originals
from workers.catalogue import CATALOGUE
from workers.datasets.dataset import Dataset
from workers.lazily import lazily

model_selection = lazily("sklearn.model_selection")

SITES = CATALOGUE["heart-disease"].sites

FEATURES = ("age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang", "oldpeak")
DROPPED = (10, 11, 12)  # slope, ca, thal; the last column is num, the narrowing's degree: 0 is none
CATEGORIES = {
    "cp": ("1", "2", "3", "4"),  # chest pain: typical angina, atypical angina, other pain, none
    "restecg": ("0", "1", "2"),  # electrocardiogram at rest: normal, ST-T abnormality, hypertrophy
}
TRAIN, TEST, SEED = 0.66, 1 - 0.66, 43  # FLamby's split of each hospital


def load() -> Dataset:
    """740 patients that miss no value, hospital after hospital; 254 of them are FLamby's test set.

    Raises:
        DataError: a file is not here, or is not the publisher's.
    """
    paths = originals.paths("heart-disease")
    tables = [_complete_rows(paths[f"processed.{site}.data"]) for site in SITES]
    sizes = [len(table) for table in tables]
    table = np.concatenate(tables)
    return Dataset(
        features=_with_category_indices(table[:, :-1]),
        targets=(table[:, -1] > 0).astype(np.float64),
        feature_names=FEATURES,
        target_name="disease",
        classes=("absent", "present"),
        categories=CATEGORIES,
        drop_first=True,
        groups=np.repeat(np.arange(len(SITES)), sizes),
        group_names=SITES,
        is_test=np.concatenate([_is_test(table[:, -1] > 0) for table in tables]),
    )


def _complete_rows(path: Path) -> np.ndarray:
    """`(patients, 11)`: the features and the last column."""
    table = np.delete(np.genfromtxt(path, delimiter=",", missing_values="?"), DROPPED, axis=1)
    complete: np.ndarray = table[~np.isnan(table).any(axis=1)]
    return complete


def _with_category_indices(features: np.ndarray) -> np.ndarray:
    """Categories counted from 0 instead of by the file's codes."""
    indexed = features.copy()
    for name, codes in CATEGORIES.items():
        indexed[:, FEATURES.index(name)] -= int(codes[0])
    return indexed


def _is_test(is_diseased: np.ndarray) -> np.ndarray:
    """Which of a hospital's patients are in FLamby's test set: with the same mix, if each class has three."""
    counts = np.bincount(is_diseased, minlength=2)
    stratify = is_diseased if counts.min() > 2 else None  # Switzerland has one healthy patient
    _, test = model_selection.train_test_split(
        np.arange(len(is_diseased)),
        test_size=TEST,
        train_size=TRAIN,
        random_state=SEED,
        shuffle=True,
        stratify=stratify,
    )
    return np.isin(np.arange(len(is_diseased)), test)
