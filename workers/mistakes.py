"""What is wrong with a file of examples: all at once, and never more of it told than who asks may know."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from workers.errors import DataError

MAX_SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """One thing in a file that is not as it should be."""

    file: Path
    row: int | None = None  # 1 is the first below the line of names
    column: str = ""  # as the study calls it ...
    here: str = ""  # ... and the file
    expected: str  # nothing that stands in the file is in it
    found: str = ""  # this is for its owner alone
    others: int = 0  # later rows with the very same

    @property
    def place(self) -> str:
        """Where, without the file."""
        row = "" if self.row is None else f"row {self.row}"
        return ", ".join(filter(None, (row, f"column {self.column}" if self.column else "")))

    @property
    def told(self) -> str:
        """Where, and what was expected."""
        return ": ".join(filter(None, (self.place, f"expected {self.expected}")))

    def __str__(self) -> str:
        """All of it, for the owner of the file."""
        called = f" ({self.here} here)" if self.here not in ("", self.column) else ""
        where = f"{self.file}, {self.place}{called}" if self.place else f"{self.file}"
        again = f", and so in {self.others} more row{'s' * (self.others > 1)}" if self.others else ""
        found = f", found {self.found}" if self.found else ""
        return f"{where}: expected {self.expected}{found}{again}"


@dataclass
class Mistakes:
    """The first mistakes in a data set, each kind once, and how many there are."""

    name: str | None  # of a site's own data set
    file: Path
    first: list[Mistake] = field(default_factory=list)
    total: int = 0
    _broken: set[int] = field(default_factory=set)  # rows of which nothing more is told
    _places: dict[tuple[object, ...], int] = field(default_factory=dict)  # of each kind, in `first`

    def add(
        self,
        expected: str,
        found: str = "",
        *,
        row: int | None = None,
        column: str = "",
        here: str = "",
        file: Path | None = None,
    ) -> None:
        """Note one."""
        if row in self._broken:
            return
        self.total += 1
        mistake = Mistake(
            file=file or self.file, row=row, column=column, here=here, expected=expected, found=found
        )
        kind = (mistake.file, column, here, expected, found, row is None)
        if kind in self._places:
            known = self.first[self._places[kind]]
            self.first[self._places[kind]] = dataclasses.replace(known, others=known.others + 1)
        elif len(self.first) < MAX_SHOWN:
            self._places[kind] = len(self.first)
            self.first.append(mistake)

    def add_broken(self, expected: str, found: str, row: int) -> None:
        """Note a row that is none; what its cells are is no mistake of its own."""
        self.add(expected, found, row=row)
        self._broken.add(row)

    def refuse(self) -> None:
        """Raise DataError if there is any."""
        if self.total:
            raise self.error()

    @property
    def lines(self) -> list[str]:
        """All of it, for the owner of the file: a line for each of the first, and how many more there are."""
        num_more = self.total - sum(1 + mistake.others for mistake in self.first)
        return [*map(str, self.first), *([f"and {num_more} more"] if num_more else [])]

    def error(self) -> DataError:
        """What to raise: of a site's own data set the first, without anything that stands in its files."""
        if self.name is None:
            return DataError("\n".join(self.lines))
        more = f" (and {self.total - 1} more)" if self.total > 1 else ""
        told = f"data set {self.name}: {self.first[0].told}{more}"
        return DataError(f"{told}; at the site, fedelta check says what was found")

    def unreadable(self, expected: str, found: str = "", file: Path | None = None) -> DataError:
        """What to raise when there is no going on."""
        self.add(expected, found, file=file)
        return self.error()
