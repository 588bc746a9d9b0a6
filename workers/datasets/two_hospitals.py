"""Two hospitals whose patients follow different lines: drawn, so that a picture can show the truth."""

import numpy as np

from workers.datasets.dataset import Dataset


def draw(seed: int) -> Dataset:
    """1,000 examples each: x1 ~ U(0, 10), y1 = 3 x1 + U(0, 2); x2 ~ U(5, 15), y2 = 4 x2 + U(0, 2)."""
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
