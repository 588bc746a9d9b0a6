"""A hospital's own file, `site.toml`: who it is, which data sets it has, and what it allows.

name = "lakeside"
min_count = 10                      # it tells no numbers of fewer examples than this
models = ["hospital_models:small"]  # functions of other people's that may run here
personal = "personal"               # the folder of the models that are this hospital's own

[connection]                        # see `tasks.connection`

[[datasets]]
name = "stroke"
path = "data/stroke.csv"            # from this file's folder on
format = "csv"
columns = { sex = "GESCHLECHT" }    # the study's name of a column, and the name here
"""

import dataclasses
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from tasks import connection, environment
from workers.data_settings import TARGET_KINDS, Text
from workers.description import MIN_COUNT
from workers.errors import SettingsError
from workers.settings import Name, PositiveInt, explain, settings
from workers.source_settings import DicomSource, ImagesSource, Source

MAX_DATASETS = 32


@settings
class SiteFile:
    """What the file says, its connection apart."""

    name: Name
    min_count: PositiveInt = MIN_COUNT
    models: tuple[Text, ...] = ()
    personal: Path = Path("personal")
    connection: object = None
    datasets: tuple[Source, ...] = Field(default=(), max_length=MAX_DATASETS)

    @model_validator(mode="after")
    def _have_names(self) -> "SiteFile":
        names = [source.name for source in self.datasets]
        for place, name in enumerate(names):
            if name is None:
                raise ValueError(f"datasets.{place}: name: is missing")
            if name in names[:place]:
                raise ValueError(f"datasets.{place}: name: expected each once, got {name!r} again")
            if name in TARGET_KINDS:
                raise ValueError(f"datasets.{place}: name: {name!r} is one of fedelta's own; choose another")
        return self

    @property
    def sources(self) -> Mapping[str, Source]:
        """The data sets by their names."""
        return {source.name: source for source in self.datasets if source.name is not None}


def current() -> SiteFile | None:
    """The file of the site whose worker this process is; None in trials without one.

    Raises:
        SettingsError: it is wrong.
    """
    path = environment.site_file()
    return None if path is None else _read_once(path)


def read(path: Path) -> SiteFile:
    """What the file says; paths in it start from its folder.

    Raises:
        SettingsError: it cannot be read, or something in it is wrong: every mistake on a line of its own.
    """
    written = connection.read_toml(path)
    try:
        found = TypeAdapter(SiteFile).validate_python(written)
    except ValidationError as error:
        mistakes = [_careful(line) for line in explain(error, written, SiteFile)]
        raise _refusal(path, mistakes) from error
    folder = path.absolute().parent
    located = [_located(source, folder) for source in found.datasets]
    if mistakes := [mistake for place, source in enumerate(located) for mistake in _absent(place, source)]:
        raise _refusal(path, mistakes)
    return dataclasses.replace(found, datasets=tuple(located), personal=folder / found.personal)


def _located(source: Source, folder: Path) -> Source:
    if isinstance(source, ImagesSource | DicomSource):
        return dataclasses.replace(source, path=folder / source.path, labels=folder / source.labels)
    return dataclasses.replace(source, path=folder / source.path)


def _absent(place: int, source: Source) -> list[str]:
    """What is not where the file says; `os.path` rather than pathlib: it takes any text."""
    has_folder = isinstance(source, ImagesSource | DicomSource)
    is_there = os.path.isdir(source.path) if has_folder else os.path.isfile(source.path)
    absent = []
    if not is_there:
        absent.append(
            f"datasets.{place}.path: there is no {'folder' if has_folder else 'file'} {source.path}"
        )
    if isinstance(source, ImagesSource | DicomSource) and not os.path.isfile(source.labels):
        absent.append(f"datasets.{place}.labels: there is no file {source.labels}")
    return absent


def _careful(line: str) -> str:
    """What was written outside the data sets is not repeated: it may be a password where none should be."""
    return line if line.startswith("datasets") else line.partition(", got ")[0]


def _refusal(path: Path, mistakes: list[str]) -> SettingsError:
    lines = "\n".join(f"  {mistake}" for mistake in mistakes)
    return SettingsError(f"{path}: nothing was started, because of\n{lines}")


_read_once = cache(read)
