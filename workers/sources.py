"""A site's own data sets: how their examples are read, whatever the format."""

import dataclasses
import re

import numpy as np

from workers import cells, loading, rewriting, site_names, tables
from workers import inventory as inventories
from workers.data_settings import Layout
from workers.datasets import Dataset
from workers.errors import DataError
from workers.inventory import Inventory
from workers.loading import of_file
from workers.mistakes import Mistakes
from workers.source_settings import CsvSource, DicomSource, ImagesSource, Source
from workers.tables import Table, Wanted

__all__ = ["Source", "of_file"]


OF_TABLES = frozenset({"csv", "parquet", "npz"})
OF_IMAGES = frozenset({"npz", "images", "dicom"})
WITH_COMMA = re.compile(r"[+-]?[0-9]+,[0-9]+")


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
    loader = loading.loader(source)
    wanted = tables.wanted(layout, site_column)
    if set(source.rewritten) - set(wanted.all):
        names = loader.columns(source, Mistakes(source.name, source.path))
        rewriting.check(source, names, wanted.all, mistakes)
    table = loading.load(source, wanted, mistakes)
    features = (
        None if layout.image else tables.features(table, layout.features, layout.categories, source, mistakes)
    )
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
    return loading.loader(source).size(source, Mistakes(source.name, source.path))


def inventory(source: Source, mistakes: Mistakes) -> Inventory:
    """What is there, whatever a study may ask for; what is wrong is noted.

    Raises:
        DataError: it cannot be read.
    """
    loader = loading.loader(source)
    names = loader.columns(source, mistakes)
    for study, here in source.columns.items():
        if here not in names:
            mistakes.add("a column of that name", "none", column=study, here=here)
    rewriting.check(source, names, source.columns, mistakes)
    markers = {source.here(name): missing for name, missing in source.missing_in.items()}
    plain = dataclasses.replace(inventories.unrenamed(source), values={}, missing_in=markers)
    doubts = Mistakes(source.name, source.path)  # cells that are no numbers, where the first ones are
    sample = rewriting.unmarked(
        loader.load(plain, Wanted(texts=names), mistakes, inventories.SAMPLE), markers
    )
    loaded = inventories.guess(sample, source)
    table = rewriting.unmarked(loading.load(plain, loaded, doubts), markers)
    return Inventory(
        num_examples=len(table),
        columns=inventories.facts(table, loaded, names, source),
        notes=(
            *inventories.doubted(doubts),
            *_commas(sample, source),
            *(loader.notes(source, mistakes) if source.format in OF_IMAGES else ()),
        ),
    )


def hints(source: Source) -> tuple[str, ...]:
    """What may be wrong with how the source says that its files are written; none if they cannot be read."""
    doubts = Mistakes(source.name, source.path)
    try:
        names = loading.loader(source).columns(source, doubts)
        plain = inventories.unrenamed(source)
        sample = loading.loader(source).load(plain, Wanted(texts=names), doubts, inventories.SAMPLE)
    except DataError:  # which whoever reads all of them is told
        return ()
    return _commas(sample, source)


def _commas(sample: Table, source: Source) -> tuple[str, ...]:
    """A line if in some columns at least half of the values look as if a comma separated the fraction."""
    if not isinstance(source, CsvSource | ImagesSource | DicomSource) or source.decimal == ",":
        return ()
    missing = cells.markers(source.missing)
    found = []
    for name, column in sample.texts.items():
        texts = [text for cell in column if (text := cells.canonical(cell)) not in missing]
        if texts and 2 * sum(WITH_COMMA.fullmatch(text) is not None for text in texts) >= len(texts):
            found.append(name)
    if not found:
        return ()
    hint = 'if a comma separates the fraction, say decimal = "," in site.toml'
    return (f"values look like 1,5 in {tables.listed(found)}: {hint}",)


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
