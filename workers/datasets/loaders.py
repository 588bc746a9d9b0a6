"""Every data set by its name."""

from collections.abc import Callable, Mapping

from workers.datasets import heart_disease, khan, medmnist, scikit_learn, tcga_brca, two_hospitals
from workers.datasets.dataset import Dataset


def load(name: str, seed: int) -> Dataset:
    """The data set of that name; `seed` matters only to the one that is drawn.

    Raises:
        DataError: a file of it is not on this machine, or is not the publisher's.
    """
    return LOADERS[name](seed)


def _fixed(read: Callable[[], Dataset]) -> Callable[[int], Dataset]:
    return lambda _seed: read()


LOADERS: Mapping[str, Callable[[int], Dataset]] = {
    "breast-cancer": _fixed(scikit_learn.breast_cancer),
    "breastmnist": _fixed(medmnist.breastmnist),
    "diabetes": _fixed(scikit_learn.diabetes),
    "digits": _fixed(scikit_learn.digits),
    "heart-disease": _fixed(heart_disease.load),
    "iris": _fixed(scikit_learn.iris),
    "khan": _fixed(khan.load),
    "pneumoniamnist": _fixed(medmnist.pneumoniamnist),
    "tcga-brca": _fixed(tcga_brca.load),
    "two-hospitals": two_hospitals.draw,
    "wine": _fixed(scikit_learn.wine),
}
