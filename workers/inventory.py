"""What a data set holds, whatever a study may ask for: for the eyes of who has it, and not to be sent."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from workers import cells
from workers.cells import Cell
from workers.mistakes import Mistake, Mistakes
from workers.source_settings import Source
from workers.tables import Table, Wanted

SAMPLE = 50  # rows, from which it is guessed whether a column has numbers
MAX_VALUES = 6  # of a categorical column that are shown


@dataclass(frozen=True, kw_only=True)
class ColumnFacts:
    """What one column holds."""

    name: str
    kind: str  # numeric or categorical
    num_missing: int
    values: str  # in a line


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """What a data set holds."""

    num_examples: int
    columns: tuple[ColumnFacts, ...]
    notes: tuple[str, ...] = ()


def unrenamed(source: Source) -> Source:
    """The same, with its columns as they are called there."""
    return dataclasses.replace(source, columns={})


def guess(sample: Table, source: Source) -> Wanted:
    """Which columns have numbers."""
    reader = source.numbers
    missing = cells.markers(source.missing)
    numbers: list[str] = []
    texts: list[str] = []
    for name, column in sample.texts.items():
        there = [str(cell) for cell in column if cells.canonical(cell) not in missing]
        is_numeric = bool(there) and bool(np.isfinite(reader.row(there)).all())
        (numbers if is_numeric else texts).append(name)
    return Wanted(numbers=tuple(numbers), texts=tuple(texts))


def facts(table: Table, loaded: Wanted, names: Sequence[str], source: Source) -> tuple[ColumnFacts, ...]:
    """What each of the columns holds."""
    places = {name: place for place, name in enumerate(loaded.numbers)}
    return tuple(
        of_numbers(name, table.matrix[:, places[name]])
        if name in places
        else of_texts(name, table.texts[name], source)
        for name in names
    )


def doubted(doubts: Mistakes) -> list[str]:
    """A line for each column that has numbers first, and then cells that are none."""
    first: dict[str, Mistake] = {}
    for mistake in doubts.first:
        first.setdefault(mistake.column, mistake)
    return [
        f"column {name}: not all are numbers; the first other is {mistake.found} in row {mistake.row}"
        for name, mistake in first.items()
    ]


def of_numbers(name: str, values: np.ndarray) -> ColumnFacts:
    """Facts of a numeric column."""
    there, num_missing = values[np.isfinite(values)], int(np.isnan(values).sum())
    shown = "none"
    if len(there):
        low, middle, high = np.quantile(there, [0, 0.5, 1])
        shown = f"{low:g} to {high:g}, median {middle:g}"
    return ColumnFacts(name=name, kind="numeric", num_missing=num_missing, values=shown)


def of_texts(name: str, column: Sequence[Cell], source: Source) -> ColumnFacts:
    """Facts of a column that is categorical, or numeric after all."""
    missing = cells.markers(source.missing)
    counts = Counter(text for cell in column if (text := cells.canonical(cell)) not in missing)
    numbers = dict(zip(counts, source.numbers.row(list(counts)), strict=True))
    if counts and np.isfinite(list(numbers.values())).all():
        values = [numbers.get(cells.canonical(cell), np.nan) for cell in column]
        return of_numbers(name, np.array(values))
    num_missing = len(column) - counts.total()
    return ColumnFacts(name=name, kind="categorical", num_missing=num_missing, values=listed(counts))


def listed(counts: Counter[str]) -> str:
    """The most frequent values, with their counts."""
    shown = [f"{value[:20]} {count}" for value, count in counts.most_common(MAX_VALUES)]
    if len(counts) > MAX_VALUES:
        shown.append(f"... {len(counts)} values")
    return ", ".join(shown) or "none"
