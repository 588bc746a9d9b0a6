"""Folders of images with a table of labels: PNG and JPEG, read by Pillow."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from workers import csv_files, pixels
from workers.data_settings import ImageSize
from workers.mistakes import Mistakes
from workers.source_settings import DicomSource, ImagesSource
from workers.tables import Table, Wanted

SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})
MAX_SIZES = 5  # of images, that are listed


def columns(source: ImagesSource | DicomSource, mistakes: Mistakes) -> tuple[str, ...]:
    """Names of the columns of the table of labels."""
    return csv_files.columns(source.table, mistakes)


def size(source: ImagesSource | DicomSource, mistakes: Mistakes) -> tuple[int, int]:
    """How many examples and columns the table of labels has."""
    return csv_files.size(source.table, mistakes)


def load(source: ImagesSource, wanted: Wanted, mistakes: Mistakes, limit: int | None = None) -> Table:
    """The wanted columns of the table of labels, whose files are all there and are all that are there."""
    return load_labels(source, wanted, mistakes, limit, _files(source))


def pictures(source: ImagesSource, image: ImageSize, rows: np.ndarray, mistakes: Mistakes) -> np.ndarray:
    """The images of these rows, float32 `(rows, height, width, channels)`."""
    return read_all(source, image, rows, mistakes, _read)


def notes(source: ImagesSource, mistakes: Mistakes) -> tuple[str, ...]:
    """How large the images are."""
    sizes: Counter[str] = Counter()
    for path in _files(source).values():
        try:
            with Image.open(path, formats=("PNG", "JPEG")) as found:
                sizes[f"{found.width} x {found.height} {found.mode}"] += 1
        except (OSError, Image.DecompressionBombError) as error:
            mistakes.add("a PNG or JPEG file", str(error), file=path)
    return of_sizes(sizes)


def of_sizes(sizes: Counter[str]) -> tuple[str, ...]:
    """The most frequent sizes, in a line."""
    shown = [f"{count} of {size}" for size, count in sizes.most_common(MAX_SIZES)]
    more = [f"{len(sizes) - MAX_SIZES} other sizes"] * (len(sizes) > MAX_SIZES)
    return ("images: " + ", ".join(shown + more),)


def load_labels(
    source: ImagesSource | DicomSource,
    wanted: Wanted,
    mistakes: Mistakes,
    limit: int | None,
    files: dict[str, Path],
) -> Table:
    """Likewise, of any format; `files` are those of the folder."""
    column = source.file_column
    texts = tuple(dict.fromkeys((*wanted.texts, column)))
    table = csv_files.load(source.table, Wanted(numbers=wanted.numbers, texts=texts), mistakes, limit)
    first: dict[str, int] = {}
    for row, cell in enumerate(table.texts[column], 1):
        name = str(cell).strip()
        if name not in files:
            mistakes.add("the name of a file in the folder", f"{name!r}", row=row, column=column)
        elif first.setdefault(name, row) != row:
            mistakes.add("a row for each file", f"{name!r} in row {first[name]}, too", row=row, column=column)
    if limit is None:
        for name in sorted(files.keys() - first.keys()):
            mistakes.add(
                "a row of the table of labels for each file", f"none of {name!r}", file=source.labels
            )
    return table


def read_all(
    source: ImagesSource | DicomSource,
    image: ImageSize,
    rows: np.ndarray,
    mistakes: Mistakes,
    read: Callable[[Path, Mistakes], np.ndarray | None],
) -> np.ndarray:
    """The images of these rows; `read` gives `(height, width[, 3])`, 0 to 1, or notes why not."""
    table = csv_files.load(source.table, Wanted(texts=(source.file_column,)), mistakes)
    names = table.texts[source.file_column]
    found = np.zeros((len(rows), image.height, image.width, image.channels), np.float32)
    for place, row in enumerate(rows.tolist()):
        picture = read(source.path / str(names[row]).strip(), mistakes)
        if picture is not None:
            found[place] = pixels.as_asked(picture, image)
    return found


def _files(source: ImagesSource) -> dict[str, Path]:
    """The folder's images, by their names from the folder on."""
    found = (path for path in source.path.rglob("*") if path.suffix.lower() in SUFFIXES)
    return {path.relative_to(source.path).as_posix(): path for path in found if not path.name.startswith(".")}


def _read(path: Path, mistakes: Mistakes) -> np.ndarray | None:
    """One image, `(height, width)` or `(height, width, 3)`, 0 to 1."""
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as opened:
            found = ImageOps.exif_transpose(opened)
            if found.mode.startswith("I"):  # 16 bits of grey
                return np.asarray(found, np.float32) / np.float32(65535)
            is_grey = found.mode in ("1", "L", "LA")
            return pixels.scaled(np.asarray(found.convert("L" if is_grey else "RGB")))
    except (
        OSError,
        SyntaxError,
        ValueError,
        Image.DecompressionBombError,
    ) as error:  # whatever Pillow raises
        mistakes.add("a PNG or JPEG file", str(error), file=path)
        return None
