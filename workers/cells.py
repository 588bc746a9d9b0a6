"""What stands in a cell of a table, and what it means.

Cells are compared as text, spaces at either end left out, and numbers by their value: "1", "1.0" and a 1 in a
Parquet file are the same; "01" and "1e0" are texts of their own.
"""

import math
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TypeAlias

import numpy as np

Cell: TypeAlias = str | float | bool | None

PLAIN_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)\.[0-9]+")
UNKNOWN = -1.0  # the code of a value that has no meaning
MAX_SHOWN = 60  # characters of a cell


def canonical(cell: Cell) -> str:
    """The text by which it is compared; empty where nothing is there."""
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, str):
        text = cell.strip()
        return _without_zeros(text) if PLAIN_NUMBER.fullmatch(text) else text
    if math.isnan(cell):
        return ""
    return str(int(cell)) if math.isfinite(cell) and cell == int(cell) and abs(cell) < 2**53 else repr(cell)


def markers(missing: Sequence[str]) -> frozenset[str]:
    """The canonical texts of a value that is missing."""
    return frozenset({"", *map(canonical, missing)})


def codes(
    cells: Sequence[Cell],
    meaning: Mapping[str, int],
    missing: Sequence[str],
    meant: Mapping[str, str] = MappingProxyType({}),
) -> np.ndarray:
    """What each cell means, float64: NaN where it is missing, `UNKNOWN` where it means nothing.

    `meaning` is by canonical text, of cells or of what is `meant` by them. A value that it lists is one, even
    if it usually stands for a missing one.
    """
    missing_texts = markers(missing)

    def code_of(cell: Cell) -> float:
        text = canonical(cell)
        text = canonical(meant.get(text, text))
        return float(meaning.get(text, math.nan if text in missing_texts else UNKNOWN))

    # True and 1 would be the same key.
    known = {(type(cell), cell): code_of(cell) for cell in cells}
    return np.array([known[type(cell), cell] for cell in cells], np.float64)


def shown(cell: Cell) -> str:
    """The cell, for its owner."""
    text = "" if cell is None else str(cell)
    if not text.strip():
        return "nothing"
    return repr(text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…")


def _without_zeros(number: str) -> str:
    """A number with a fraction, as short as can be."""
    text = number.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text
