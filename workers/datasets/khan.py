"""Gene expression of small round blue cell tumours of childhood (Khan et al. 2001, Nature Medicine 7, 673).

The 2,308 genes that are left after the paper's filter, as in the data of James et al., "An Introduction to
Statistical Learning" (the ISLP package, BSD).
"""

import numpy as np

from workers import originals
from workers.datasets.dataset import Dataset


def load() -> Dataset:
    """63 tumours to train on, then 20 to test on.

    Raises:
        DataError: a file is not here, or is not the publisher's.
    """
    paths = originals.paths("khan")

    def read(kind: str) -> np.ndarray:
        return np.concatenate(
            [
                np.loadtxt(paths[f"Khan_{kind}{split}.csv"], delimiter=",", skiprows=1)
                for split in ("train", "test")
            ]
        )

    expression, tumour = read("x"), read("y")
    return Dataset(
        features=expression,
        targets=tumour - 1,
        feature_names=tuple(f"V{number}" for number in range(1, expression.shape[1] + 1)),  # as in the files
        target_name="tumour",
        # Burkitt lymphoma, Ewing sarcoma, neuroblastoma, rhabdomyosarcoma.
        classes=("BL", "EWS", "NB", "RMS"),
        is_test=np.arange(len(tumour)) >= 63,
    )
