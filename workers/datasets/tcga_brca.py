"""TCGA-BRCA (open access, Genomic Data Commons): how long patients with breast cancer live, in six regions.

The clinical table (Andreux et al. 2020, arXiv 2006.08997) and its split, as in Fed-TCGA-BRCA of FLamby (du
Terrail et al. 2022, arXiv 2210.04620): 39 features, most of them one-hot already. Eight patients of no region
are in the table and not in the split, and so not here.
"""

import csv
from pathlib import Path

import numpy as np

from workers import originals
from workers.catalogue import CATALOGUE
from workers.datasets.dataset import Dataset


def load() -> Dataset:
    """1,088 patients; 222 of them are FLamby's test set. Times are days.

    Raises:
        DataError: a file is not here, or is not the publisher's.
    """
    paths = originals.paths("tcga-brca")
    (_, *names), *rows = _read(paths["brca.csv"])  # after the patient's id; the last two are E and T
    fold_of = {patient: fold for patient, _, fold in _read(paths["train_test_split.csv"])}
    rows = [row for row in rows if row[0] in fold_of]
    folds = [fold_of[row[0]].split("_") for row in rows]  # such as test, 3: a test patient of region 3
    values = np.array([row[1:] for row in rows], np.float64)
    return Dataset(
        features=values[:, :-2],
        targets=values[:, [-1, -2]],
        feature_names=tuple(names[:-2]),
        target_name="E",
        groups=np.array([int(region) for _, region in folds]),
        group_names=CATALOGUE["tcga-brca"].sites,
        is_test=np.array([fold == "test" for fold, _ in folds]),
    )


def _read(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))
