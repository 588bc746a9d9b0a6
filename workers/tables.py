"""A table as it was read, and the features and targets that it holds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from workers import cells
from workers.cells import UNKNOWN, Cell
from workers.data_settings import ClassTarget, Layout, NumberTarget, SurvivalTarget, TargetColumn
from workers.mistakes import Mistakes
from workers.source_settings import Source

EVENTS = {"0": 0, "1": 1, "false": 0, "true": 1}
MAX_LISTED = 10  # values or names, in a message


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The columns that are asked for, as the study calls them."""

    numbers: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()  # which of these are the target

    @property
    def all(self) -> tuple[str, ...]:
        """Each of them once."""
        return tuple(dict.fromkeys((*self.numbers, *self.texts)))


@dataclass(frozen=True, kw_only=True)
class Table:
    """The columns that were asked for."""

    matrix: np.ndarray  # of numbers: float64 `(rows, Wanted.numbers)`, NaN where missing
    texts: Mapping[str, Sequence[Cell]] = field(default_factory=dict)  # as they stand there

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.matrix)


def wanted(layout: Layout, site_column: str | None = None) -> Wanted:
    """The columns that the layout needs."""
    target = layout.target
    texts = [name for name in layout.features if name in layout.categories]
    numbers = [name for name in layout.features if name not in layout.categories]
    match target:
        case ClassTarget():
            texts.append(target.column)
        case NumberTarget():
            numbers.append(target.column)
        case SurvivalTarget():
            numbers.append(target.time)
            texts.append(target.event)
    if site_column:
        texts.append(site_column)
    return Wanted(numbers=tuple(numbers), texts=tuple(texts), targets=target.columns)


def find(names: Sequence[str], source: Source, wanted: Sequence[str], mistakes: Mistakes) -> dict[str, int]:
    """Where each wanted column is among the names that stand there; a mistake if it is not, or is twice."""
    places: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        places.setdefault(name, []).append(place)
    found = {}
    for column in wanted:
        here = places.get(source.here(column), [])
        if not here:
            mistakes.add("a column of that name", listed(names), column=column, here=source.here(column))
        elif len(here) > 1:
            numbered = ", ".join(str(place + 1) for place in here)
            mistakes.add("one column of that name", numbered, column=column, here=source.here(column))
        else:
            found[column] = here[0]
    return found


def features(
    table: Table,
    names: Sequence[str],
    categories: Mapping[str, Sequence[str]],
    source: Source,
    mistakes: Mistakes,
) -> np.ndarray:
    """Raw features of these names, float64 `(rows, num_features)`, as `Schema` says what these are."""
    if not categories:
        return table.matrix[:, : len(names)]  # they are wanted first, in their order
    found, number = np.empty((len(table), len(names))), 0
    for place, name in enumerate(names):
        if name in categories:
            meaning = _meaning({value: code for code, value in enumerate(categories[name])}, name, mistakes)
            found[:, place] = _codes(table, name, meaning, source)
            refuse(table.texts[name], found[:, place] == UNKNOWN, _one_of(meaning), name, source, mistakes)
        else:
            found[:, place] = table.matrix[:, number]
            number += 1
    return found


def targets(
    table: Table, target: TargetColumn, source: Source, mistakes: Mistakes
) -> tuple[np.ndarray, np.ndarray]:
    """Targets as `Dataset` has them, and `(rows,)` which rows have one; the others are to be dropped."""
    if isinstance(target, ClassTarget):
        return _classes(table, target, source, mistakes)
    every = np.ones(len(table), bool)
    values = table.matrix[:, -1]  # it is wanted last of the numbers
    name = target.column if isinstance(target, NumberTarget) else target.time
    refuse([None] * len(values), np.isnan(values), "a number", name, source, mistakes)
    if isinstance(target, NumberTarget):
        return values, every
    refuse(values.tolist(), values < 0, "a time that is not negative", target.time, source, mistakes)
    event = _codes(table, target.event, EVENTS, source)
    is_wrong = (event == UNKNOWN) | np.isnan(event)
    expected = "1 for an event, or 0 for none"
    refuse(table.texts[target.event], is_wrong, expected, target.event, source, mistakes)
    return np.stack([values, event], axis=1), every


def _classes(
    table: Table, target: ClassTarget, source: Source, mistakes: Mistakes
) -> tuple[np.ndarray, np.ndarray]:
    codes = {value: code for code, values in enumerate(target.classes.values()) for value in values}
    meaning = _meaning(codes, target.column, mistakes)
    found = _codes(table, target.column, meaning, source)
    is_class = found >= 0
    if target.others == "refuse":
        refuse(table.texts[target.column], ~is_class, _one_of(meaning), target.column, source, mistakes)
    return found, is_class


def _codes(table: Table, name: str, meaning: Mapping[str, int], source: Source) -> np.ndarray:
    """What the column's cells mean, float64 `(rows,)`."""
    return cells.codes(table.texts[name], meaning, source.missing_of(name), source.meant(name))


def _meaning(codes: Mapping[str, int], column: str, mistakes: Mistakes) -> dict[str, int]:
    """The code of each value, by its canonical text."""
    found: dict[str, int] = {}
    for value, code in codes.items():
        if found.setdefault(cells.canonical(value), code) != code:
            mistakes.add(f"of the study that its values differ, and {value!r} is there twice", column=column)
    return found


def refuse(
    column: Sequence[Cell],
    is_wrong: np.ndarray,
    expected: str,
    name: str,
    source: Source,
    mistakes: Mistakes,
) -> None:
    """Note each cell that is wrong."""
    meant = source.meant(name)
    for place in np.flatnonzero(is_wrong).tolist():
        found, text = cells.shown(column[place]), cells.canonical(column[place])
        if text in meant:
            found += f", which values says is {meant[text]!r}"
        mistakes.add(expected, found, row=place + 1, column=name, here=source.here(name))


def listed(names: Sequence[str]) -> str:
    """The first of these names."""
    return ", ".join(map(repr, names[:MAX_LISTED])) + (", ..." if len(names) > MAX_LISTED else "")


def _one_of(meaning: Mapping[str, int]) -> str:
    values = list(meaning)
    listed = ", ".join(map(repr, values[:MAX_LISTED]))
    return f"one of {listed}" + (f" and {len(values) - MAX_LISTED} more" if len(values) > MAX_LISTED else "")
