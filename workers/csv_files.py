"""Tables in text files, read by Python's own csv module.

Faster readers (Polars, pandas) fill a line that is too short with missing values and say nothing.
"""

import csv
import gzip
import io
import zlib
from array import array
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import BinaryIO, TypeAlias, cast

import numpy as np

from workers.cells import shown
from workers.mistakes import Mistakes
from workers.numbers import wrong
from workers.source_settings import CsvSource, Source
from workers.tables import Table, Wanted, find

GZIP = b"\x1f\x8b"
Lines: TypeAlias = Iterator[list[str]]


def columns(source: CsvSource, mistakes: Mistakes) -> tuple[str, ...]:
    """Names of the columns, each once; of a transposed table, of its lines."""
    with _open(source, mistakes) as lines:
        names = _names(lines, source, mistakes)
        if source.transposed:
            names = [line[0].strip() for line in lines if line]
    for name, count in Counter(names).items():
        if count > 1 and name:
            mistakes.add("each name of a column once", f"{name!r} {count} times")
    return tuple(dict.fromkeys(name for name in names if name))


def size(source: CsvSource, mistakes: Mistakes) -> tuple[int, int]:
    """How many examples and columns there are."""
    with _open(source, mistakes) as lines:
        width = len(_names(lines, source, mistakes))
        num_lines = sum(1 for line in lines if line)
    return (width - 1, num_lines) if source.transposed else (num_lines, width)


def load(source: CsvSource, wanted: Wanted, mistakes: Mistakes, limit: int | None = None) -> Table:
    """The wanted columns, of the first `limit` rows."""
    with _open(source, mistakes) as lines:
        names = _names(lines, source, mistakes)
        if source.transposed:
            return _load_transposed(lines, source, wanted, mistakes, len(names), limit)
        places = find(names, source, wanted.all, mistakes)
        mistakes.refuse()
        lines = _full(islice(lines, limit), len(names), mistakes)
        return _load_upright(lines, source, wanted, mistakes, places)


def _load_upright(
    lines: Lines, source: CsvSource, wanted: Wanted, mistakes: Mistakes, places: dict[str, int]
) -> Table:
    reader, values = source.numbers, array("d")
    of_numbers = [places[name] for name in wanted.numbers]
    texts: dict[str, list[str]] = {name: [] for name in wanted.texts}
    of_texts = [(texts[name], places[name]) for name in texts]
    num_rows = 0
    for line in lines:
        num_rows += 1
        row = [line[place] for place in of_numbers]
        found = reader.row(row)
        for place in wrong(found):
            refuse_number(row[place], num_rows, wanted.numbers[place], source, mistakes)
        values.extend(found)
        for column, place in of_texts:
            column.append(line[place])
    matrix = np.frombuffer(values, np.float64).reshape(num_rows, len(of_numbers))
    return Table(matrix=reader.complete(matrix), texts=texts)


def _load_transposed(
    lines: Lines, source: CsvSource, wanted: Wanted, mistakes: Mistakes, width: int, limit: int | None
) -> Table:
    """Likewise, where each line is a feature: its name, then its value of each example."""
    called = {source.here(name): name for name in wanted.all}
    numbers: dict[str, list[float]] = dict.fromkeys(wanted.numbers, [])
    texts: dict[str, list[str]] = dict.fromkeys(wanted.texts, [])
    names, reader = [], source.numbers
    for line in _full(lines, width, mistakes):
        names.append(line[0].strip())
        name, row = called.get(names[-1]), line[1:][:limit]
        if name in texts:
            texts[name] = row
        if name in numbers:
            numbers[name] = reader.row(row)
            for place in wrong(numbers[name]):
                refuse_number(row[place], place + 1, name, source, mistakes)
    find(names, source, wanted.all, mistakes)
    mistakes.refuse()
    num_examples = len(range(width - 1)[:limit])
    matrix = np.array(list(numbers.values()), np.float64).reshape(len(numbers), num_examples).T
    return Table(matrix=reader.complete(matrix), texts=texts)


def refuse_number(cell: object, row: int, name: str, source: Source, mistakes: Mistakes) -> None:
    """Note a cell that should be a number."""
    mistakes.add("a number", shown(str(cell)), row=row, column=name, here=source.here(name))


def _names(lines: Lines, source: CsvSource, mistakes: Mistakes) -> list[str]:
    """Names of the columns, in their order."""
    if source.header is not None:
        return list(source.header)
    for line in lines:
        if line:
            return [name.strip() for name in line]
    raise mistakes.unreadable("a line with the names of the columns", "an empty file")


def _full(lines: Lines, width: int, mistakes: Mistakes) -> Lines:
    """The lines, all of this width; another is a mistake, and is cut or filled: rows keep their numbers.

    Empty lines at the end are none.
    """
    row, num_empty = 0, 0
    for line in lines:
        if not line:
            num_empty += 1
            continue
        for _ in range(num_empty):
            row += 1
            mistakes.add_broken(f"{width} fields", "an empty line", row)
            yield [""] * width
        row, num_empty = row + 1, 0
        if len(line) != width:
            mistakes.add_broken(f"{width} fields", f"{len(line)}", row)
        yield (line + [""] * width)[:width]


@contextmanager
def _open(source: CsvSource, mistakes: Mistakes) -> Iterator[Lines]:
    """The file's lines, each as its fields.

    Raises:
        DataError: it cannot be read, or is not what it should be.
    """
    encoding = (
        "utf-8-sig" if source.encoding.lower().replace("_", "-") in ("utf-8", "utf8") else source.encoding
    )
    reader = None
    try:
        with _bytes(source.path) as data, io.TextIOWrapper(data, encoding, newline="") as text:
            reader = csv.reader(text, delimiter=source.separator, strict=True)
            yield reader
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise mistakes.unreadable("a file that can be read", reason) from error
    except UnicodeError as error:  # the codec's own of UTF-16 has no more to say
        expected = f"text in {source.encoding}, as the file's encoding is said to be"
        raise mistakes.unreadable(expected, _undecodable(source)) from error
    except csv.Error as error:
        line = reader.line_num if reader else 0
        raise mistakes.unreadable("a table of text", f"line {line}: {error}") from error


def _bytes(path: Path) -> BinaryIO:
    """The file's content, decompressed."""
    with path.open("rb") as file:
        is_compressed = file.read(len(GZIP)) == GZIP
    return cast(BinaryIO, gzip.open(path)) if is_compressed else path.open("rb")


def _undecodable(source: CsvSource) -> str:
    """Where the file is not of its encoding."""
    with _bytes(source.path) as data:
        for number, line in enumerate(data, 1):
            try:
                line.decode(source.encoding)
            except UnicodeError:
                return f"line {number}, which is not (cp1252 and latin-1 are likely ones)"
    return "something else"
