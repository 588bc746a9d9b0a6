"""A site's own data sets: how their examples are read, whatever the format."""

import importlib
from pathlib import Path
from typing import Protocol, cast

import numpy as np

from workers import inventory as inventories
from workers import site_names, tables
from workers.data_settings import ImageSize, Layout
from workers.datasets import Dataset
from workers.errors import DataError
from workers.inventory import Inventory
from workers.mistakes import Mistakes
from workers.source_settings import CsvSource, ParquetSource, Source
from workers.tables import Table, Wanted

__all__ = ["Source"]


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
OF_TABLES = frozenset({"csv", "parquet", "npz"})
OF_IMAGES = frozenset({"npz", "images", "dicom"})


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


def read(
    source: Source, layout: Layout, site_column: str | None = None, mistakes: Mistakes | None = None
) -> Dataset:
    """Its examples, as the layout asks for them.

    With `site_column`, the data set's `groups` are the names of the sites that have the examples. The first
    mistakes are put into `mistakes`, with what stands in the file.

    Raises:
        DataError: it cannot be read, or something is not as the layout says. Of a site's own data set
            the text says where and what was expected, and nothing that stands in its files: it may travel.
    """
    mistakes = mistakes or Mistakes(source.name, source.path)
    _check_format(source, layout, mistakes)
    loader = _loader(source)
    table = loader.load(source, tables.wanted(layout, site_column), mistakes)
    features = None if layout.image else tables.features(table, layout, source, mistakes)
    targets, is_kept = tables.targets(table, layout.target, source, mistakes)
    groups = _groups(table, site_column, source, mistakes)
    mistakes.refuse()
    if features is not None and layout.missing == "drop":
        is_kept &= ~np.isnan(features).any(axis=1)
    rows = np.flatnonzero(is_kept)
    if not len(rows):
        raise mistakes.unreadable("an example at least", f"none among {len(table)} rows")
    if layout.image:
        pixels = loader.pictures(source, layout.image, rows, mistakes)
        mistakes.refuse()
    return Dataset(
        features=pixels if features is None else features[rows],
        targets=targets[rows],
        feature_names=layout.feature_names,
        target_name=layout.target.name,
        classes=layout.classes,
        categories=layout.categories,
        drop_first=layout.drop_first,
        groups=None if groups is None else groups[rows],
    )


def size(source: Source) -> tuple[int, int]:
    """How many examples and columns it has, as quickly as can be; nothing is checked.

    Raises:
        DataError: it cannot be read.
    """
    return _loader(source).size(source, Mistakes(source.name, source.path))


def inventory(source: Source, mistakes: Mistakes) -> Inventory:
    """What is there, whatever a study may ask for; what is wrong is noted.

    Raises:
        DataError: it cannot be read.
    """
    loader = _loader(source)
    names = loader.columns(source, mistakes)
    for study, here in source.columns.items():
        if here not in names:
            mistakes.add("a column of that name", "none", column=study, here=here)
    plain = inventories.unrenamed(source)
    doubts = Mistakes(source.name, source.path)  # cells that are no numbers, where the first ones are
    loaded = inventories.guess(loader.load(plain, Wanted(texts=names), mistakes, inventories.SAMPLE), source)
    table = loader.load(plain, loaded, doubts)
    return Inventory(
        num_examples=len(table),
        columns=inventories.facts(table, loaded, names, source),
        notes=(
            *inventories.doubted(doubts),
            *(loader.notes(source, mistakes) if source.format in OF_IMAGES else ()),
        ),
    )


def _groups(table: Table, site_column: str | None, source: Source, mistakes: Mistakes) -> np.ndarray | None:
    if site_column is None:
        return None
    return site_names.of_column(table.texts[site_column], site_column, source.missing, mistakes)


def _check_format(source: Source, layout: Layout, mistakes: Mistakes) -> None:
    """Raise DataError if the study asks for images and this is a table, or the reverse."""
    if layout.image and source.format not in OF_IMAGES:
        raise mistakes.unreadable("images, for which the study asks", f"a table ({source.format})")
    if not layout.image and source.format not in OF_TABLES:
        raise mistakes.unreadable("a table, for which the study asks", f"images ({source.format})")


def _loader(source: Source) -> Loader:
    """Loaded when the first data set of its format is read: the libraries for Parquet and DICOM take long."""
    return cast(Loader, importlib.import_module(LOADERS[source.format]))
