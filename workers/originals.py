"""Files of data sets on this machine: in the folders that this process was told, with the right contents.

Nothing is downloaded here: a hospital's worker fetches nothing by itself (`fedelta data fetch` does).
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from workers.catalogue import CATALOGUE, Original
from workers.errors import DataError

_folders: tuple[Path, ...] = ()


def use(folders: Iterable[Path]) -> None:
    """Look for files in these folders from now on, in this order."""
    global _folders
    _folders = tuple(folders)


def paths(dataset: str) -> dict[str, Path]:
    """Where the files of this data set are, by their names.

    Raises:
        DataError: one is not here, or is not the publisher's.
    """
    return {original.name: path(dataset, original) for original in CATALOGUE[dataset].originals}


def path(dataset: str, original: Original) -> Path:
    """Where this file of the data set is.

    Raises:
        DataError: it is not here, or is not the publisher's.
    """
    found = find(original)
    if found is None:
        raise DataError(
            f"{dataset}: {original.name} is not here; fetch it (fedelta data fetch {dataset}), or let "
            f"FEDELTA_DATA_DIR name a folder that has it"
        )
    sha256 = hashlib.sha256(found.read_bytes()).hexdigest()
    if sha256 != original.sha256:
        raise DataError(
            f"{dataset}: {found} is not the file that was published: expected sha256 {original.sha256}, "
            f"got {sha256}"
        )
    return found


def find(original: Original) -> Path | None:
    """Where a file of that name is, whatever is in it; None if it is not here."""
    return next((place for folder in _folders for place in _places(folder, original)), None)


def _places(folder: Path, original: Original) -> list[Path]:
    """Files of that name in the folder or in one of its own, such as one for each data set."""
    places = (folder / original.name, *sorted(folder.glob(f"*/{original.name}")))
    return [place for place in places if place.is_file()]
