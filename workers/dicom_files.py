"""Folders of DICOM files with a table of labels, read by pydicom."""

from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.pixels.processing import apply_modality_lut
from pydicom.pixels.utils import pixel_array

from workers import images
from workers.data_settings import ImageSize
from workers.images import columns, of_sizes, size
from workers.mistakes import Mistakes
from workers.source_settings import DicomSource
from workers.tables import Table, Wanted

__all__ = ["columns", "size"]

GREY = ("MONOCHROME1", "MONOCHROME2")  # 1: the smallest number is white


def load(source: DicomSource, wanted: Wanted, mistakes: Mistakes, limit: int | None = None) -> Table:
    """The wanted columns of the table of labels, whose files are all there and are all that are there."""
    return images.load_labels(source, wanted, mistakes, limit, _files(source))


def pictures(source: DicomSource, image: ImageSize, rows: np.ndarray, mistakes: Mistakes) -> np.ndarray:
    """The images of these rows, float32 `(rows, height, width, channels)`."""

    def read(path: Path, mistakes: Mistakes) -> np.ndarray | None:
        found = _open(path, mistakes)
        return None if found is None else _picture(found, source, path, mistakes)

    return images.read_all(source, image, rows, mistakes, read)


def notes(source: DicomSource, mistakes: Mistakes) -> tuple[str, ...]:
    """How large the images are, and by what they were made."""
    sizes: Counter[str] = Counter()
    for path in _files(source).values():
        found = _open(path, mistakes, with_pixels=False)
        if found is not None:
            modality = found.get("Modality", "unknown modality")
            sizes[f"{found.get('Columns')} x {found.get('Rows')} {modality} {_colours(found)}"] += 1
    return of_sizes(sizes)


def _files(source: DicomSource) -> dict[str, Path]:
    """The folder's files, whose names often have no suffix, by their names from the folder on."""
    found = {}
    for path in source.path.rglob("*"):
        is_other = path.name.startswith(".") or path.name == "DICOMDIR" or path == source.labels
        if path.is_file() and not is_other:
            found[path.relative_to(source.path).as_posix()] = path
    return found


def _open(path: Path, mistakes: Mistakes, *, with_pixels: bool = True) -> pydicom.FileDataset | None:
    """The file, if it has one image of grey or red, green and blue."""
    try:
        found = pydicom.dcmread(path, stop_before_pixels=not with_pixels)
        num_frames = int(found.get("NumberOfFrames") or 1)
        colours = _colours(found)
    except (InvalidDicomError, OSError, EOFError, ValueError) as error:
        mistakes.add("a DICOM file", str(error).splitlines()[0], file=path)
        return None
    if num_frames > 1:
        mistakes.add("one image in a file", f"{num_frames} frames; write each into a file", file=path)
        return None
    if colours not in GREY and not colours.startswith(("RGB", "YBR")):
        mistakes.add("grey, or red, green and blue", colours or "no image", file=path)
        return None
    return found


def _colours(found: pydicom.FileDataset) -> str:
    return str(found.get("PhotometricInterpretation", ""))


def _picture(
    found: pydicom.FileDataset, source: DicomSource, path: Path, mistakes: Mistakes
) -> np.ndarray | None:
    """`(height, width)` or `(height, width, 3)`, from black 0 to white 1."""
    try:
        stored = pixel_array(found)
        if stored.ndim == 3:
            return np.asarray(stored / (2 ** int(found.BitsStored) - 1))
        values = np.asarray(apply_modality_lut(stored, found), np.float64)  # slope and intercept
        shown = _windowed(values, found, source)
    except (AttributeError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        mistakes.add("an image that can be decoded", str(error).splitlines()[0], file=path)
        return None
    inverted: np.ndarray = 1 - shown
    return inverted if _colours(found) == "MONOCHROME1" else shown


def _windowed(values: np.ndarray, found: pydicom.FileDataset, source: DicomSource) -> np.ndarray:
    """From 0 to 1 across the window: the source's, else the file's first, else all that is in the image.

    DICOM PS3.3 2024b, C.11.2.1.2 (linear) and C.11.2.1.3 (linear exact, sigmoid).
    """
    function = str(found.get("VOILUTFunction") or "LINEAR")
    if source.window_centre is not None and source.window_width is not None:
        centre, width, function = source.window_centre, source.window_width, "LINEAR"
    elif found.get("WindowCenter") is not None and found.get("WindowWidth") is not None:
        centre, width = _first(found.WindowCenter), _first(found.WindowWidth)
    else:
        low, high = float(values.min()), float(values.max())
        return np.asarray((values - low) / ((high - low) or 1.0))
    if function == "SIGMOID":
        return np.asarray(1 / (1 + np.exp(-4 * (values - centre) / width)))
    if function == "LINEAR":
        centre, width = centre - 0.5, max(width - 1, 1e-6)
    return np.asarray(np.clip((values - centre) / width + 0.5, 0, 1))


def _first(value: object) -> float:
    return float(value[0] if isinstance(value, pydicom.multival.MultiValue) else value)  # type: ignore[arg-type]
