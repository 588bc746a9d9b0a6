"""Data sets by name: raw features and targets of all their examples.

To add one: write its function, name it in `LOADERS`, in `workers.catalogue` and in `workers.data_settings`.
"""

from workers.datasets.dataset import Dataset
from workers.datasets.loaders import LOADERS, load

__all__ = ["LOADERS", "Dataset", "load"]
