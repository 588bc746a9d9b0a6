"""Data sets of MedMNIST v2 (Yang et al. 2023, arXiv 2110.14795; CC BY 4.0): small medical images."""

import numpy as np

from workers import originals
from workers.datasets.dataset import Dataset

SPLITS = ("train", "val", "test")


def breastmnist() -> Dataset:
    """780 ultrasound images of the breast (Al-Dhabyani et al. 2020); 156 of them are the test set.

    Raises:
        DataError: the file is not here, or is not the publisher's.
    """
    return _load("breastmnist", "tumour", ("malignant", "normal or benign"))


def pneumoniamnist() -> Dataset:
    """5,856 radiographs of children's chests (Kermany et al. 2018); 624 of them are the test set.

    Some are there twice upstream: 18 of the training images, 8 in training and validation images.

    Raises:
        DataError: the file is not here, or is not the publisher's.
    """
    return _load("pneumoniamnist", "diagnosis", ("normal", "pneumonia"))


def _load(name: str, target_name: str, classes: tuple[str, str]) -> Dataset:
    """Training, validation and test images in this order; float32 `(images, 28, 28, 1)`, 0 black, 1 white."""
    with np.load(originals.paths(name)[f"{name}.npz"]) as arrays:
        images = np.concatenate([arrays[f"{split}_images"] for split in SPLITS])
        labels = np.concatenate([arrays[f"{split}_labels"] for split in SPLITS])
        num_test = len(arrays["test_labels"])
    return Dataset(
        features=images[..., None].astype(np.float32) / 255,
        targets=labels[:, 0].astype(np.float64),
        feature_names=("grey",),
        target_name=target_name,
        classes=classes,
        is_test=np.arange(len(labels)) >= len(labels) - num_test,
    )
