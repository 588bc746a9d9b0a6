"""The experiment file that a person writes: TOML to `workers.spec.Experiment`, or its mistakes; and back."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from workers.errors import ExperimentError
from workers.settings import explain
from workers.spec import Experiment

BARE = re.compile(r"[A-Za-z0-9_-]+")  # keys that need no quotes


def read(path: Path) -> Experiment:
    """The experiment in this file.

    Raises:
        ExperimentError: there is no such file, it is not TOML, or what it says is wrong; every mistake on a
            line of its own, with the field, what was expected and what was found. What does not fit together,
            such as a model and its data, is told once every field is right by itself.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ExperimentError(f"{path}: cannot be read: {error}") from error
    return parse(text, str(path))


def parse(text: str, path: str) -> Experiment:
    """The experiment in this text, which is that of a file.

    Raises:
        ExperimentError: likewise.
    """
    try:
        written = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a number too long, lists nested too deep
        raise ExperimentError(f"{path}: is not TOML: {error}") from error
    try:
        return TypeAdapter(Experiment).validate_python(written)
    except ValidationError as error:
        mistakes = "\n".join(f"  {line}" for line in explain(error, written, Experiment))
        raise ExperimentError(f"{path}: nothing was started, because of\n{mistakes}") from error


def text(experiment: Experiment) -> str:
    """The file of an experiment that has none any more; reading it gives the same experiment."""
    fields: dict[str, Any] = TypeAdapter(Experiment).dump_python(experiment, mode="json", exclude_none=True)
    lines = [f"{name} = {_toml(value)}" for name, value in fields.items() if not isinstance(value, dict)]
    for name, table in fields.items():
        if isinstance(table, dict):
            lines += ["", f"[{name}]", *(f"{_key(key)} = {_toml(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


def _key(name: str) -> str:
    return name if BARE.fullmatch(name) else json.dumps(name, ensure_ascii=False)


def _toml(value: Any) -> str:
    """A value in one line; numbers, truth and the texts of an experiment are written as in JSON."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_key(key)} = {_toml(inner)}" for key, inner in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False)  # an escaped surrogate is no TOML
