"""Predictions of a saved model for the rows of a CSV file."""

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open

from workers.errors import DataError
from workers.models import predictions
from workers.params import Params
from workers.spec import Schema, Spec

MAX_VALUE = 1e30  # in absolute value; float32, in which models compute, ends at 3e38


def predict(model_file: Path, csv_file: Path, output: Path) -> int:
    """Write a row of predictions for each row of the file; returns how many.

    The file has a header that names at least the model's features, in any order. Written are: for regression
    the target's value; for classes the probability of each and the likeliest.

    Raises:
        DataError: a file cannot be read or written, or lacks a feature, or has a value that is not a number;
            names file, row and column.
    """
    spec, params = load(model_file)
    schema = spec.schema
    features = schema.standardized(read_features(csv_file, schema))
    predicted = predictions(schema.target_kind, spec.experiment.model.apply(params, features))
    unfinished = output.with_name(f".{output.name}.unfinished")
    try:
        with unfinished.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(_rows(schema, predicted))
        unfinished.replace(output)
    except OSError as error:
        raise DataError(f"{output}: cannot be written: {error}") from error
    finally:
        unfinished.unlink(missing_ok=True)
    return len(features)


def _rows(schema: Schema, predicted: np.ndarray) -> Iterator[list[str]]:
    """The header, then a row per prediction."""
    if schema.target_kind == "regression":
        yield [schema.target]
        yield from ([f"{value:.6g}"] for value in predicted)
        return
    if schema.target_kind == "binary":
        predicted = np.stack([1 - predicted, predicted], axis=1)
    yield [schema.target, *(f"probability of {name}" for name in schema.classes)]
    for probabilities in predicted:
        likeliest = schema.classes[int(probabilities.argmax())]
        yield [likeliest, *(f"{probability:.6g}" for probability in probabilities)]


def load(model_file: Path) -> tuple[Spec, Params]:
    """A saved model: its description and its parameters.

    Raises:
        DataError: it is not a model that fedelta saved.
    """
    try:
        with safe_open(model_file, framework="numpy") as stored:
            spec = TypeAdapter(Spec).validate_json((stored.metadata() or {})["spec"])
            params = {path: stored.get_tensor(path) for path in stored.keys()}
    except (OSError, SafetensorError) as error:
        raise DataError(f"{model_file}: cannot be read as safetensors: {error}") from error
    except (KeyError, ValidationError) as error:
        raise DataError(
            f"{model_file}: expected a model saved by fedelta, with its spec beside it"
        ) from error
    schema = spec.schema
    expected = spec.experiment.model.init(np.random.default_rng(0), len(schema.features), schema.num_outputs)
    shapes = {path: leaf.shape for path, leaf in expected.items()}
    if shapes != {path: leaf.shape for path, leaf in params.items()}:
        raise DataError(f"{model_file}: expected the leaves {shapes}, as its spec says")
    return spec, params


def read_features(csv_file: Path, schema: Schema) -> np.ndarray:
    """The file's features in the schema's order, `(rows, num_features)`.

    Raises:
        DataError: a column is missing, or a value is not a finite number.
    """
    try:
        with csv_file.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [name for name in schema.features if name not in (reader.fieldnames or [])]
            if missing:
                raise DataError(f"{csv_file}: expected columns that are not there: {', '.join(missing)}")
            rows = [
                [_number(row[name], f"{csv_file}, row {number}, column {name!r}") for name in schema.features]
                for number, row in enumerate(reader, start=1)
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{csv_file}: cannot be read: {error}") from error
    if not rows:
        raise DataError(f"{csv_file}: expected at least one row below the header")
    return np.asarray(rows, np.float64)


def _number(text: str | None, where: str) -> float:
    if text is None:
        raise DataError(f"{where}: expected a number, and the row has too few columns")
    try:
        value = float(text)
    except ValueError as error:
        raise DataError(f"{where}: expected a number, got {text!r}") from error
    if not np.isfinite(value):
        raise DataError(f"{where}: expected a finite number, got {text!r}")
    if abs(value) > MAX_VALUE:
        raise DataError(f"{where}: expected a number of at most {MAX_VALUE:g}, got {text!r}")
    return value
