"""Columns that a hospital writes in its own way: what their values mean, and what is missing in them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from workers import cells, tables
from workers.cells import Cell
from workers.mistakes import Mistakes
from workers.numbers import NumberReader, wrong
from workers.source_settings import Source
from workers.tables import Table, Wanted


def check(source: Source, names: Sequence[str], known: Collection[str], mistakes: Mistakes) -> None:
    """Note columns of `values` and `missing_in` that are not among the names there, nor `known` to be."""
    for column in source.rewritten:
        if column not in known and source.here(column) not in names:
            found = f"{column!r}; the columns are {tables.listed(names)}"
            mistakes.add("columns in values and missing_in that are there", found)


def as_texts(wanted: Wanted, source: Source) -> Wanted:
    """What to load: numbers of a column that is rewritten come as texts, for `with_numbers`."""
    rewritten = set(source.rewritten)
    of_texts = tuple(name for name in wanted.numbers if name in rewritten)
    numbers = tuple(name for name in wanted.numbers if name not in rewritten)
    return replace(wanted, numbers=numbers, texts=tuple(dict.fromkeys((*wanted.texts, *of_texts))))


def with_numbers(table: Table, wanted: Wanted, source: Source, mistakes: Mistakes) -> Table:
    """The table that was loaded `as_texts`, with all numbers that are wanted."""
    rewritten = set(source.rewritten)
    if rewritten.isdisjoint(wanted.numbers):
        return table
    loaded = iter(table.matrix.T)
    columns = [
        _numbers(table.texts[name], name, source, mistakes) if name in rewritten else next(loaded)
        for name in wanted.numbers
    ]
    return replace(table, matrix=np.stack(columns, axis=1))


def unmarked(table: Table, missing_in: Mapping[str, Sequence[str]]) -> Table:
    """The table without its texts that stand for a missing value in their column alone."""
    texts = dict(table.texts)
    for name in missing_in.keys() & texts.keys():
        markers = cells.markers(missing_in[name])
        texts[name] = [None if cells.canonical(cell) in markers else cell for cell in texts[name]]
    return replace(table, texts=texts)


def _numbers(column: Sequence[Cell], name: str, source: Source, mistakes: Mistakes) -> np.ndarray:
    """The column's numbers, float64 `(rows,)`; NaN where missing, infinite where it has none."""
    meant, here = source.meant(name), replace(source, missing=source.missing_of(name)).numbers
    study = NumberReader(())  # what values mean is written as the study writes

    def number_of(cell: Cell) -> float:
        text = cells.canonical(cell)
        if text in meant:
            return study.number(meant[text])
        if isinstance(cell, bool):
            text = str(int(cell))
        return float(here.complete(np.array(here.row([cell if isinstance(cell, str) else text])))[0])

    known = {(type(cell), cell): number_of(cell) for cell in column}
    values = np.array([known[type(cell), cell] for cell in column])
    is_wrong = np.zeros(len(values), bool)
    is_wrong[wrong(values.tolist())] = True
    tables.refuse(column, is_wrong, "a number", name, source, mistakes)
    return values
