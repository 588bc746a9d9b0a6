"""A table of a site, from its file: the columns that are asked for, whatever the format."""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, cast

import numpy as np

from workers import rewriting, tables
from workers.data_settings import ImageSize
from workers.errors import DataError
from workers.mistakes import Mistakes
from workers.source_settings import CsvSource, ParquetSource, Source
from workers.tables import Table, Wanted


class Loader(Protocol):
    """The module that reads the files of a format; whatever it finds wrong, it notes in `mistakes`."""

    def columns(self, source: Source, mistakes: Mistakes) -> tuple[str, ...]:
        """Names of the columns, as they stand there."""

    def load(self, source: Source, wanted: Wanted, mistakes: Mistakes, limit: int | None = None) -> Table:
        """The wanted columns, of the first `limit` rows."""

    def size(self, source: Source, mistakes: Mistakes) -> tuple[int, int]:
        """How many examples and columns there are, as quickly as can be; nothing is checked."""

    def pictures(self, source: Source, image: ImageSize, rows: np.ndarray, mistakes: Mistakes) -> np.ndarray:
        """The images of these rows, float32 `(rows, height, width, channels)`; tables have none."""

    def notes(self, source: Source, mistakes: Mistakes) -> tuple[str, ...]:
        """What else its owner wants to know of the files; tables have none."""


LOADERS = {
    "csv": "workers.csv_files",
    "parquet": "workers.parquet_files",
    "npz": "workers.arrays",
    "images": "workers.images",
    "dicom": "workers.dicom_files",
}


def of_file(path: Path) -> Source:
    """The table in this file, by its name.

    Raises:
        DataError: the name is not that of a table.
    """
    name = path.name.lower()
    if name.endswith((".csv", ".csv.gz")):
        return CsvSource(path=path)
    if name.endswith(".parquet"):
        return ParquetSource(path=path)
    raise DataError(f"{path}: expected a table: .csv, .csv.gz or .parquet")


def load(source: Source, wanted: Wanted, mistakes: Mistakes) -> Table:
    """The wanted columns, with values and missing ones as the source says."""
    loaded = loader(source).load(source, rewriting.as_texts(wanted, source), mistakes)
    return rewriting.with_numbers(loaded, wanted, source, mistakes)


def features(
    source: Source, features: Sequence[str], categories: Mapping[str, Sequence[str]], mistakes: Mistakes
) -> np.ndarray:
    """Raw features of a table of examples without targets, float64 `(rows, num_features)`; NaN where missing.

    What is wrong is put into `mistakes`, and not raised while the table can be read.

    Raises:
        DataError: it cannot be read, or has not these columns.
    """
    texts = tuple(name for name in features if name in categories)
    numbers = tuple(name for name in features if name not in categories)
    table = load(source, Wanted(numbers=numbers, texts=texts), mistakes)
    return tables.features(table, features, categories, source, mistakes)


def loader(source: Source) -> Loader:
    """Loaded when the first data set of its format is read: the libraries for Parquet and DICOM take long."""
    return cast(Loader, importlib.import_module(LOADERS[source.format]))
