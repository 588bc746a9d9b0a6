"""Downloading the files of a data set from its publisher: whole and as they were published, or not at all."""

from pathlib import Path

import pooch
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from tasks import environment
from workers import originals
from workers.catalogue import CATALOGUE, Original
from workers.errors import DataError, Unavailable

TIMEOUT_SECONDS = 30.0  # without a byte
CHUNK_BYTES = 2**16

messages = Console(stderr=True, highlight=False, markup=False)


def fetch(dataset: str) -> dict[str, Path]:
    """Download what is not here yet; returns where the files are, by their names.

    Raises:
        Unavailable: a publisher does not answer, or not to the end.
        DataError: what it has is not what was published; or FEDELTA_DATA_DIR has such a file.
    """
    originals.use(environment.data_folders())
    folder = environment.fetched_dir() / dataset
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=messages) as progress:
        for original in CATALOGUE[dataset].originals:
            if not _is_here(dataset, original):
                _download(original, folder, _Bar(progress, original.name))
    return originals.paths(dataset)


class _Bar:
    """A line of progress, as pooch wants to tell of it."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress = progress
        self._task = progress.add_task(name, total=None)

    @property
    def total(self) -> float | None:
        """Bytes to come, where the server says it."""
        return self._progress.tasks[self._task].total

    @total.setter
    def total(self, num_bytes: int) -> None:
        self._progress.update(self._task, total=num_bytes or None)

    def update(self, num_bytes: int) -> None:
        """So many more have come."""
        self._progress.advance(self._task, num_bytes)

    def reset(self) -> None:
        """Count anew."""
        self._progress.reset(self._task)

    def close(self) -> None:
        """Nothing: the line stays."""


def _is_here(dataset: str, original: Original) -> bool:
    try:
        originals.path(dataset, original)
    except DataError:
        return False
    return True


def _download(original: Original, folder: Path, bar: _Bar) -> None:
    """Into a file of another name, which gets its own when its contents are right."""
    pooch.get_logger().setLevel("WARNING")  # the bar says what goes on
    downloader = pooch.HTTPDownloader(progressbar=bar, chunk_size=CHUNK_BYTES, timeout=TIMEOUT_SECONDS)
    try:
        pooch.retrieve(
            original.url,
            known_hash=f"sha256:{original.sha256}",
            fname=original.name,
            path=folder,
            downloader=downloader,
        )
    except ValueError as error:
        raise DataError(
            f"{original.url} is not the file that was published, and is not kept: {error}"
        ) from error
    except OSError as error:  # the root of the network's errors too
        raise Unavailable(f"{original.url} could not be downloaded to {folder}: {error}") from error
