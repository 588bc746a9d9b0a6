"""Predictions of a saved model for the rows of a CSV file."""

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from workers import cells, model_file
from workers.errors import DataError
from workers.models import predictions
from workers.schema import Schema
from workers.source_settings import MISSING

MISSING_TEXTS = cells.markers(MISSING)
MAX_VALUE = 1e30  # in absolute value; float32, in which models compute, ends at 3e38


def predict(model: Path, csv_file: Path, output: Path) -> int:
    """Write a row of predictions for each row of the file; returns how many.

    The file has a header that names at least the model's features, in any order. Written are: for regression
    the target's value; for classes the probability of each and the likeliest; for survival the relative risk.

    Raises:
        DataError: a file cannot be read or written, or lacks a feature, or has a value that is not a number;
            names file, row and column.
    """
    spec, params = model_file.load(model)
    schema = spec.schema
    if schema.preprocessing is None and spec.experiment.data.standardize != "local":
        raise DataError(f"{model}: its experiment ended before any site had described its examples")
    raw = read_features(csv_file, schema)
    # Where every site has its own preprocessing, the file is taken for that of one.
    features = schema.prepared(raw, None if schema.preprocessing else schema.fitted(raw))
    predicted = predictions(schema.target_kind, spec.model.apply(params, features))
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
    if schema.target_kind == "survival":
        yield [f"relative risk of {schema.target}"]
        yield from ([f"{risk:.6g}"] for risk in predicted)
        return
    if schema.target_kind == "binary":
        predicted = np.stack([1 - predicted, predicted], axis=1)
    yield [schema.target, *(f"probability of {name}" for name in schema.classes)]
    for probabilities in predicted:
        likeliest = schema.classes[int(probabilities.argmax())]
        yield [likeliest, *(f"{probability:.6g}" for probability in probabilities)]


def read_features(csv_file: Path, schema: Schema) -> np.ndarray:
    """The file's raw features in the schema's order, float64 `(rows, num_features)`; NaN where it has none.

    Raises:
        DataError: a column is missing, or a cell is neither what it should be nor empty.
    """
    if schema.size is not None:
        raise DataError(f"{csv_file}: expected images, and a CSV file has none; the model is one of images")
    try:
        with csv_file.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [name for name in schema.features if name not in (reader.fieldnames or [])]
            if missing:
                raise DataError(f"{csv_file}: expected columns that are not there: {', '.join(missing)}")
            rows = [
                [
                    _value(row[name], name, schema, f"{csv_file}, row {number}, column {name!r}")
                    for name in schema.features
                ]
                for number, row in enumerate(reader, start=1)
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{csv_file}: cannot be read: {error}") from error
    if not rows:
        raise DataError(f"{csv_file}: expected at least one row below the header")
    return np.asarray(rows, np.float64)


def _value(text: str | None, feature: str, schema: Schema, where: str) -> float:
    """A cell as the schema has it: a number, the index of a category, or NaN."""
    if text is None:
        raise DataError(f"{where}: expected a value, and the row has too few columns")
    known = [cells.canonical(category) for category in schema.categories.get(feature, ())]
    written = cells.canonical(text)
    if written in known:
        return float(known.index(written))
    if written in MISSING_TEXTS:
        return np.nan
    if known:
        raise DataError(f"{where}: expected one of {', '.join(known)}, got {text!r}")
    return _number(text, where)


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise DataError(f"{where}: expected a number, got {text!r}") from error
    if not np.isfinite(value):
        raise DataError(f"{where}: expected a finite number, got {text!r}")
    if abs(value) > MAX_VALUE:
        raise DataError(f"{where}: expected a number of at most {MAX_VALUE:g}, got {text!r}")
    return value
