"""The experiment file that a person writes: TOML to `workers.spec.Experiment`, or all its mistakes."""

import tomllib
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from workers.errors import ExperimentError
from workers.settings import explain
from workers.spec import Experiment


def read(path: Path) -> Experiment:
    """The experiment in this file.

    Raises:
        ExperimentError: there is no such file, it is not TOML, or what it says is wrong; every mistake on a
            line of its own, with the field, what was expected and what was found. What does not fit together,
            such as a model and its data, is told once every field is right by itself.
    """
    try:
        written = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ExperimentError(f"{path}: cannot be read: {error}") from error
    except (ValueError, RecursionError) as error:  # a number too long, lists nested too deep
        raise ExperimentError(f"{path}: is not TOML: {error}") from error
    try:
        return TypeAdapter(Experiment).validate_python(written)
    except ValidationError as error:
        mistakes = "\n".join(f"  {line}" for line in explain(error, written, Experiment))
        raise ExperimentError(f"{path}: nothing was started, because of\n{mistakes}") from error
