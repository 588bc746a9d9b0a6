"""NumPy arrays in .npz files: tables and images."""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeAlias

import numpy as np

from workers import pixels
from workers.data_settings import ImageSize
from workers.mistakes import Mistakes
from workers.source_settings import NpzSource
from workers.tables import Table, Wanted, find

Array: TypeAlias = np.ndarray


def columns(source: NpzSource, mistakes: Mistakes) -> tuple[str, ...]:
    """Names of the columns: of the features, if it is a table, then of the targets."""
    with _opened(source, mistakes) as arrays:
        features = _array(arrays, source.features, mistakes)
        targets = _targets(arrays, source, mistakes)
        names = _names(arrays, source, features, mistakes) if features.ndim == 2 else []
    return (*names, *(_target_name(source, place) for place in range(targets.shape[1])))


def size(source: NpzSource, mistakes: Mistakes) -> tuple[int, int]:
    """How many examples and columns there are."""
    with _opened(source, mistakes) as arrays:
        features = _array(arrays, source.features, mistakes)
        targets = _targets(arrays, source, mistakes)
    return len(targets), targets.shape[1] + (features.shape[1] if features.ndim == 2 else 0)


def load(source: NpzSource, wanted: Wanted, mistakes: Mistakes, limit: int | None = None) -> Table:
    """The wanted columns, of the first `limit` examples; the study's targets are the array of targets."""
    with _opened(source, mistakes) as arrays:
        features = _array(arrays, source.features, mistakes)
        targets = _targets(arrays, source, mistakes)
        names = _names(arrays, source, features, mistakes) if features.ndim == 2 else []
    if len(features) != len(targets):
        expected = f"as many {source.targets} as {source.features}"
        raise mistakes.unreadable(expected, f"{len(targets)} and {len(features)}")
    if wanted.targets and targets.shape[1] != len(wanted.targets):
        expected = f"{source.targets} of {len(wanted.targets)} columns"
        raise mistakes.unreadable(expected, f"an array of shape {targets.shape}")
    named = {name: targets[:, place] for place, name in enumerate(wanted.targets)}
    if not wanted.targets:
        named = {_target_name(source, place): column for place, column in enumerate(targets.T)}
    places = find(names, source, [name for name in wanted.all if name not in named], mistakes)
    mistakes.refuse()
    named |= {name: features[:, place] for name, place in places.items()}
    matrix = np.empty((len(targets[:limit]), len(wanted.numbers)))
    for place, name in enumerate(wanted.numbers):
        matrix[:, place] = _numbers(named[name][:limit], name, source, mistakes)
    texts = {name: named[name][:limit].tolist() for name in wanted.texts}
    return Table(matrix=source.numbers.complete(matrix), texts=texts)


def pictures(source: NpzSource, image: ImageSize, rows: Array, mistakes: Mistakes) -> Array:
    """The images of these rows, float32 `(rows, height, width, channels)`."""
    with _opened(source, mistakes) as arrays:
        features = _array(arrays, source.features, mistakes)
    if features.ndim == 4 and features.shape[-1] == 1:
        features = features[..., 0]
    if features.ndim not in (3, 4) or (features.ndim == 4 and features.shape[-1] != 3):
        expected = f"{source.features} of shape (examples, height, width) or (examples, height, width, 3)"
        raise mistakes.unreadable(expected, f"{features.shape}")
    if not np.isfinite(features).all():
        raise mistakes.unreadable(f"finite numbers in {source.features}", "others")
    return np.stack([pixels.as_asked(pixels.scaled(features[row]), image) for row in rows])


def notes(source: NpzSource, mistakes: Mistakes) -> tuple[str, ...]:
    """What the arrays of features look like."""
    with _opened(source, mistakes) as arrays:
        features = _array(arrays, source.features, mistakes)
    return (f"{source.features}: {features.dtype} {features.shape}",)


def _array(arrays: "np.lib.npyio.NpzFile", name: str, mistakes: Mistakes) -> Array:
    if name not in arrays:
        raise mistakes.unreadable(f"an array {name}", ", ".join(arrays.files[:10]) or "none")
    found: Array = arrays[name]
    if found.dtype.kind not in "biufUS" or found.ndim == 0:
        raise mistakes.unreadable(f"an array {name} of numbers or text", f"{found.dtype} {found.shape}")
    return np.char.decode(found, "utf-8") if found.dtype.kind == "S" else found


def _targets(arrays: "np.lib.npyio.NpzFile", source: NpzSource, mistakes: Mistakes) -> Array:
    """The targets, `(examples, columns)`."""
    found = _array(arrays, source.targets, mistakes)
    if found.ndim > 2:
        raise mistakes.unreadable(f"{source.targets} of shape (examples, columns)", f"{found.shape}")
    return found.reshape(len(found), -1)


def _target_name(source: NpzSource, place: int) -> str:
    return source.targets if place == 0 else f"{source.targets}, {place + 1}"


def _names(
    arrays: "np.lib.npyio.NpzFile", source: NpzSource, features: Array, mistakes: Mistakes
) -> list[str]:
    """Names of the features, from the array of names or in the order that `site.toml` says."""
    names = list(source.order)
    if not names:
        names = [str(name) for name in _array(arrays, source.names, mistakes).ravel().tolist()]
    if len(names) != features.shape[1]:
        raise mistakes.unreadable(f"a name for each of {features.shape[1]} features", f"{len(names)}")
    return names


def _numbers(column: Array, name: str, source: NpzSource, mistakes: Mistakes) -> Array:
    """Numbers, float64; infinite where there is none."""
    if column.dtype.kind == "U":
        values = np.array(source.numbers.row(column.tolist()))
    else:
        values = column.astype(np.float64)
    for place in np.flatnonzero(np.isinf(values)).tolist():
        here = source.here(name)
        mistakes.add("a number", repr(column[place].item()), row=place + 1, column=name, here=here)
    return values


@contextmanager
def _opened(source: NpzSource, mistakes: Mistakes) -> Iterator["np.lib.npyio.NpzFile"]:
    """The arrays of the file; none is unpickled.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with source.path.open("rb") as file:  # NumPy leaves one open that it cannot read
            found = np.load(file, allow_pickle=False)
            if not isinstance(found, np.lib.npyio.NpzFile):
                raise ValueError("one array without a name")
            yield found
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise mistakes.unreadable("an .npz file of numbers and text", reason) from error
