"""Who has which examples, in trials where one data set is shared out among sites."""

from collections.abc import Sequence

import numpy as np

from workers.data_settings import Dirichlet, Iid, Natural, Partition
from workers.datasets import Dataset
from workers.errors import DataError

DRAWS = 1000  # of a Dirichlet, until every site has its minimum


def split(dataset: Dataset, partition: Partition, num_sites: int, seed: int) -> list[np.ndarray]:
    """Indices of each site's examples; every example is one site's.

    Raises:
        DataError: the data set cannot be shared out among so many sites in this way.
    """
    rng = np.random.default_rng(seed)
    match partition:
        case Iid():
            parts = _iid(dataset, num_sites, rng)
        case Dirichlet():
            parts = _dirichlet(dataset, partition, num_sites, rng)
        case Natural():
            parts = _natural(dataset, num_sites)
    return parts


def holdout(
    targets: np.ndarray, share: float, *, is_classes: bool, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Indices to train on and indices to hold out, class by class so that both have the site's mix.

    Raises:
        DataError: one of the two would be empty.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(targets))
    if is_classes:
        order = order[np.argsort(targets[order], kind="stable")]
    # Every 1/share-th of the shuffled, class-sorted examples.
    is_held_out = np.diff(np.floor(np.arange(len(order) + 1) * share + rng.uniform())) > 0
    train, held_out = np.sort(order[~is_held_out]), np.sort(order[is_held_out])
    if not len(train) or not len(held_out):
        raise DataError(
            f"expected enough examples to train on and to hold out {share:g} of; got {len(targets)}"
        )
    return train, held_out


def _iid(dataset: Dataset, num_sites: int, rng: np.random.Generator) -> list[np.ndarray]:
    order = rng.permutation(len(dataset.targets))
    shared = [np.array_split(some, num_sites) for some in _train_and_test(dataset, order)]
    return [np.sort(np.concatenate(part)) for part in zip(*shared, strict=True)]


def _train_and_test(dataset: Dataset, indices: np.ndarray) -> list[np.ndarray]:
    """Those to train on and those to test on, where the data set says so; both are shared out alike."""
    if dataset.is_test is None:
        return [indices]
    is_test = dataset.is_test[indices]
    return [indices[~is_test], indices[is_test]]


def _dirichlet(dataset: Dataset, by: Dirichlet, num_sites: int, rng: np.random.Generator) -> list[np.ndarray]:
    if not dataset.classes:
        raise DataError("data.partition: dirichlet spreads classes over sites, and a regression has none")
    for _ in range(DRAWS):
        parts: list[list[np.ndarray]] = [[] for _ in range(num_sites)]
        for label in range(len(dataset.classes)):
            indices = rng.permutation(np.flatnonzero(dataset.targets == label))
            shares = rng.dirichlet(np.full(num_sites, by.alpha))
            for some in _train_and_test(dataset, indices):
                cuts = (np.cumsum(shares)[:-1] * len(some)).astype(int)
                for part, chosen in zip(parts, np.split(some, cuts), strict=True):
                    part.append(chosen)
        merged = [np.sort(np.concatenate(part)) for part in parts]
        is_usable = all(len(some) for part in merged for some in _train_and_test(dataset, part))
        if is_usable and min(len(part) for part in merged) >= by.min_examples:
            return merged
    tested = ", or some to test on" if dataset.is_test is not None else ""
    raise DataError(
        f"data.partition: no draw of Dir({by.alpha:g}) gave each of {num_sites} sites {by.min_examples} of "
        f"{len(dataset.targets)} examples{tested}; take a larger alpha, fewer sites or a smaller min_examples"
    )


def _natural(dataset: Dataset, num_sites: int) -> list[np.ndarray]:
    groups: Sequence[int] = [] if dataset.groups is None else sorted(set(dataset.groups.tolist()))
    if len(groups) != num_sites:
        named = f": {', '.join(dataset.group_names)}" if dataset.group_names else ""
        raise DataError(
            f"data.partition: natural needs a data set with {num_sites} groups, one for each site; "
            f"this one has {len(groups) or 'none'}{named}"
        )
    return [np.flatnonzero(dataset.groups == group) for group in groups]
