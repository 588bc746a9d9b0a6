"""Numbers, as people and programs write them into text files."""

import math
import re
from collections.abc import Sequence

import numpy as np

NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
WRONG = math.inf  # what a text becomes that is no number, or none that is finite


class NumberReader:
    """Reads cells as numbers."""

    def __init__(self, missing: Sequence[str], decimal: str = ".") -> None:
        """`missing` are the texts for a value that is missing, `decimal` what separates the fraction."""
        self._missing = {"", *(text.strip() for text in missing)}
        self._decimal = decimal
        numbers = map(self.number, sorted(self._missing))
        self._missing_numbers = [number for number in numbers if math.isfinite(number)]

    def row(self, cells: Sequence[str]) -> list[float]:
        """Each cell's number: NaN where it is missing, infinite where it is no number."""
        if self._decimal == ".":
            try:
                found = list(map(float, cells))
            except ValueError:
                pass
            else:
                if "_" not in "".join(cells):  # Python takes 1_000 for a number
                    return found
        return [math.nan if cell.strip() in self._missing else self.number(cell) for cell in cells]

    def number(self, cell: str) -> float:
        """The cell's number, or `WRONG`."""
        text = cell.strip()
        if self._decimal != ".":
            if "." in text:  # of thousands or of a fraction? A guess could be wrong by a factor of 1000
                return WRONG
            text = text.replace(self._decimal, ".")
        return float(text) if NUMBER.fullmatch(text) else WRONG

    def complete(self, values: np.ndarray) -> np.ndarray:
        """The values, with NaN for numbers that stand for a value that is missing."""
        if not self._missing_numbers:
            return values
        return np.where(np.isin(values, self._missing_numbers), np.nan, values)


def wrong(row: Sequence[float]) -> list[int]:
    """The places of what was no number."""
    if math.inf not in row and -math.inf not in row:
        return []
    return [place for place, value in enumerate(row) if math.isinf(value)]
