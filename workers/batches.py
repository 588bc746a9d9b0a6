"""Which examples each local step sees, what each weighs, and the padding that lets sites share one shape."""

import math

import numpy as np

from workers.spec import LocalTraining

PADDING = -1  # in place of an example's index
MIN_EXAMPLES = 256  # of which a site with fewer has some padding, so that small sites share one shape
MIN_STEPS = 32


def plan(training: LocalTraining, num_examples: int, seed: int) -> np.ndarray:
    """Indices of each step's examples, int32 `(steps, batch_size)`; `PADDING` where there is none.

    Every epoch is a new shuffle; its last batch holds what is left over, padded. The number of rows is
    rounded up with steps that see nothing, which `client_update` skips.
    """
    rng = np.random.default_rng(seed)
    batches_per_epoch = math.ceil(num_examples / training.batch_size)
    wanted = num_steps(training, num_examples)
    steps = np.empty((_padded(wanted, MIN_STEPS), training.batch_size), np.int32)
    steps.fill(PADDING)
    for first in range(0, wanted, batches_per_epoch):
        epoch = steps[first : min(first + batches_per_epoch, wanted)].reshape(-1)  # a view
        epoch[:num_examples] = rng.permutation(num_examples)[: len(epoch)]
    return steps


def class_weights(training: LocalTraining, targets: np.ndarray) -> np.ndarray | None:
    """Weight of each example, `(examples,)` float32, by its class; None where all weigh the same.

    Balanced: n / (k n_c) for n examples, n_c of them of the class, and k classes that the site has, as in
    scikit-learn; so the mean weight is 1.
    """
    if training.class_weights is None:
        return None
    if training.class_weights == "balanced":
        _, class_of, counts = np.unique(targets, return_inverse=True, return_counts=True)
        by_class = len(targets) / (len(counts) * counts)
    else:
        class_of, by_class = targets.astype(int), np.asarray(training.class_weights)
    weights: np.ndarray = by_class.astype(np.float32)
    return np.take(weights, class_of)


def num_steps(training: LocalTraining, num_examples: int) -> int:
    """Steps of one order."""
    return training.steps or math.ceil(num_examples / training.batch_size) * (training.epochs or 1)


def pad(rows: np.ndarray, value: float, at_least: int) -> np.ndarray:
    """`rows` with more of `value` below, up to a size that many sites share: few shapes, few compilations.

    `at_least`, then the next power of two, past 1024 the next multiple of 1024.
    """
    filling = np.full((_padded(len(rows), at_least) - len(rows), *rows.shape[1:]), value, rows.dtype)
    return np.concatenate([rows, filling])


def _padded(num_rows: int, at_least: int) -> int:
    wanted = max(num_rows, at_least)
    return 1 << (wanted - 1).bit_length() if wanted <= 1024 else math.ceil(wanted / 1024) * 1024
