"""Names of sites, made of what a table's column of sites says."""

import re
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np

from workers import cells
from workers.cells import Cell
from workers.mistakes import Mistakes

MAX_LENGTH = 63  # of `workers.settings.Name`


def of_column(column: Sequence[Cell], name: str, missing: Sequence[str], mistakes: Mistakes) -> np.ndarray:
    """The site of each row; two values of the same name are a mistake, as is one of none."""
    missing_texts = cells.markers(missing)
    written = [cells.canonical(cell) for cell in column]
    known = {value: "" if value in missing_texts else of_value(value) for value in dict.fromkeys(written)}
    for row, value in enumerate(written, 1):
        if not known[value]:
            mistakes.add("the name or number of a site", cells.shown(column[row - 1]), row=row, column=name)
    first: dict[str, str] = {}
    for value, site in known.items():
        if site and first.setdefault(site, value) != value:
            found = f"{first[site]!r} and {value!r}, which both become {site!r}"
            mistakes.add("sites whose names differ in letters or digits", found, column=name)
    return np.array([known[value] for value in written], dtype=np.str_)


def of_value(value: str) -> str:
    """A name as experiments have them: lower-case letters, digits and hyphens; empty if nothing is left.

    "Göteborg, Östra" becomes "goteborg-ostra".
    """
    plain = unicodedata.normalize("NFKD", value.casefold()).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:MAX_LENGTH].strip("-")


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """As people look for them: numbers first, by their value; all others as they stand."""
    return tuple(sorted(names, key=lambda name: (0, int(name)) if name.isdecimal() else (1, 0)))
