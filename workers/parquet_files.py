"""Tables in Parquet files, read by Polars."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import polars as pl
from polars.exceptions import PolarsError

from workers.cells import Cell
from workers.csv_files import refuse_number
from workers.mistakes import Mistakes
from workers.numbers import wrong
from workers.source_settings import ParquetSource
from workers.tables import Table, Wanted, find


def columns(source: ParquetSource, mistakes: Mistakes) -> tuple[str, ...]:
    """Names of the columns; of a transposed table, of its rows."""
    with _reading(mistakes):
        if source.transposed:
            return tuple(dict.fromkeys(_first_column(source)))
        return tuple(pl.read_parquet_schema(source.path))


def size(source: ParquetSource, mistakes: Mistakes) -> tuple[int, int]:
    """How many examples and columns there are, from what the file says of itself."""
    with _reading(mistakes):
        width = len(pl.read_parquet_schema(source.path))
        num_rows = int(pl.scan_parquet(source.path, glob=False).select(pl.len()).collect().item())
    return (width - 1, num_rows) if source.transposed else (num_rows, width)


def load(source: ParquetSource, wanted: Wanted, mistakes: Mistakes, limit: int | None = None) -> Table:
    """The wanted columns, of the first `limit` rows."""
    if source.transposed:
        return _load_transposed(source, wanted, mistakes, limit)
    with _reading(mistakes):
        names = list(pl.read_parquet_schema(source.path))
        places = find(names, source, wanted.all, mistakes)
        mistakes.refuse()
        chosen = [names[place] for place in places.values()]
        frame = pl.read_parquet(source.path, columns=chosen, n_rows=limit, glob=False, use_pyarrow=False)
    matrix = np.empty((len(frame), len(wanted.numbers)))
    for place, name in enumerate(wanted.numbers):
        matrix[:, place] = _numbers(frame[source.here(name)], name, source, mistakes)
    texts = {name: _texts(frame[source.here(name)], name, source, mistakes) for name in wanted.texts}
    return Table(matrix=source.numbers.complete(matrix), texts=texts)


def _load_transposed(source: ParquetSource, wanted: Wanted, mistakes: Mistakes, limit: int | None) -> Table:
    """Likewise, where each row is a feature: its name, then its value of each example."""
    with _reading(mistakes):
        names = _first_column(source)
        places = find(names, source, wanted.all, mistakes)
        mistakes.refuse()
        frame = pl.read_parquet(source.path, glob=False)
    rows = frame[:, 1:][:, :limit]
    if all(dtype.is_numeric() for dtype in rows.dtypes):
        of_examples = rows.cast(pl.Float64).to_numpy()
        chosen = [places[name] for name in wanted.numbers]
        matrix = of_examples[chosen].T
        texts: dict[str, Sequence[Cell]] = {name: of_examples[places[name]].tolist() for name in wanted.texts}
        return Table(matrix=source.numbers.complete(matrix), texts=texts)
    found = {name: pl.Series(rows.row(places[name]), dtype=pl.String, strict=False) for name in wanted.all}
    matrix = np.empty((rows.width, len(wanted.numbers)))
    for place, name in enumerate(wanted.numbers):
        matrix[:, place] = _numbers(found[name], name, source, mistakes)
    texts = {name: found[name].to_list() for name in wanted.texts}
    return Table(matrix=source.numbers.complete(matrix), texts=texts)


def _numbers(column: pl.Series, name: str, source: ParquetSource, mistakes: Mistakes) -> np.ndarray:
    """The column's numbers, float64; infinite where it has none."""
    if column.dtype.is_numeric() or column.dtype in (pl.Boolean, pl.Null):
        values = column.cast(pl.Float64).to_numpy()
        written: Sequence[Cell] = values.tolist()
    else:
        written = _texts(column, name, source, mistakes)
        values = np.array(source.numbers.row(["" if cell is None else str(cell) for cell in written]))
    for place in wrong(values.tolist()):
        refuse_number(written[place], place + 1, name, source, mistakes)
    return values


def _texts(column: pl.Series, name: str, source: ParquetSource, mistakes: Mistakes) -> list[Cell]:
    """The column's cells, as they are."""
    dtype = column.dtype
    if isinstance(dtype, pl.Decimal):
        return column.cast(pl.Float64).to_list()
    if dtype in (pl.Categorical, pl.Enum):
        return column.cast(pl.String).to_list()
    if not (dtype.is_numeric() or dtype in (pl.String, pl.Boolean, pl.Null)):
        found = f"a column of {dtype}"
        mistakes.add("numbers or text", found, column=name, here=source.here(name))
        return [None] * len(column)
    return column.to_list()


def _first_column(source: ParquetSource) -> list[str]:
    """What a transposed table's rows are called."""
    first = list(pl.read_parquet_schema(source.path))[0]
    return pl.read_parquet(source.path, columns=[first], glob=False)[first].cast(pl.String).to_list()


@contextmanager
def _reading(mistakes: Mistakes) -> Iterator[None]:
    """Reading the file.

    Raises:
        DataError: it cannot be read.
    """
    try:
        yield
    except (PolarsError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise mistakes.unreadable("a Parquet file that can be read", reason) from error
