"""Predictions of a saved model for the rows of a table."""

import csv
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

import numpy as np

from workers import loading, model_file
from workers.errors import DataError, SettingsError
from workers.mistakes import Mistakes
from workers.models import predictions
from workers.schema import Schema
from workers.source_settings import Source

Sources: TypeAlias = Mapping[str, Source]

MAX_VALUE = 1e30  # in absolute value; float32, in which models compute, ends at 3e38


def predict(
    model: Path,
    file: Path,
    output: Path,
    own: Sources = MappingProxyType({}),
    dataset: str | None = None,
) -> int:
    """Write a row of predictions for each row of the file, in their order; returns how many.

    The file is a table (CSV or Parquet) that has at least the model's features, in any order. With a site's
    `own` data sets, it is written as the one called `dataset` is: names of columns, values, separator and
    all. By default, that is the one that the model was trained on, or the only one.

    Written are the row, 1 for the first below the line of names, and for regression the target's value; for
    classes the likeliest and the probability of each; for survival the relative risk.

    Raises:
        DataError: a file cannot be read or written, lacks a feature, or has cells that are not what the model
            expects; names file, rows and columns, the first 20 at once.
        SettingsError: there is no such data set, or it is not clear which, or it is no table.
    """
    spec, params = model_file.load(model)
    schema = spec.schema
    if schema.preprocessing is None and spec.experiment.data.standardize != "local":
        raise DataError(f"{model}: its experiment ended before any site had described its examples")
    raw = read_features(_source(file, own, dataset, spec.experiment.data.dataset), schema)
    # Where every site has its own preprocessing, the file is taken for that of one.
    features = schema.prepared(raw, None if schema.preprocessing else schema.fitted(raw))
    predicted = predictions(schema.target_kind, spec.model.apply(params, features))
    unfinished = output.with_name(f".{output.name}.unfinished")
    try:
        with unfinished.open("w", newline="", encoding="utf-8") as written:
            csv.writer(written).writerows(_rows(schema, predicted))
        unfinished.replace(output)
    except OSError as error:
        raise DataError(f"{output}: cannot be written: {error}") from error
    finally:
        unfinished.unlink(missing_ok=True)
    return len(features)


def _rows(schema: Schema, predicted: np.ndarray) -> Iterator[list[str]]:
    """The header, then a row per prediction."""
    if schema.target_kind in ("regression", "survival"):
        yield [
            "row",
            f"relative risk of {schema.target}" if schema.target_kind == "survival" else schema.target,
        ]
        yield from ([f"{row}", f"{value:.6g}"] for row, value in enumerate(predicted, 1))
        return
    if schema.target_kind == "binary":
        predicted = np.stack([1 - predicted, predicted], axis=1)
    yield ["row", schema.target, *(f"probability of {name}" for name in schema.classes)]
    for row, probabilities in enumerate(predicted, 1):
        likeliest = schema.classes[int(probabilities.argmax())]
        yield [f"{row}", likeliest, *(f"{probability:.6g}" for probability in probabilities)]


def read_features(source: Source, schema: Schema) -> np.ndarray:
    """The table's raw features in the schema's order, float64 `(rows, num_features)`; NaN where it has none.

    Raises:
        DataError: it cannot be read, a column is missing, or cells are neither what they should be nor
            missing; names the first 20 of these, with row and column.
    """
    if schema.size is not None:
        raise DataError(f"{source.path}: expected images, and a table has none; the model is one of images")
    mistakes = Mistakes(None, source.path)
    raw = loading.features(source, schema.features, schema.categories, mistakes)
    for row, place in np.argwhere(np.isfinite(raw) & (np.abs(raw) > MAX_VALUE)).tolist():
        name = schema.features[place]
        expected = f"a number of at most {MAX_VALUE:g}"
        mistakes.add(expected, f"{raw[row, place]:g}", row=row + 1, column=name, here=source.here(name))
    mistakes.refuse()
    if not len(raw):
        raise mistakes.unreadable("at least one row below the line of names")
    return raw


def _source(file: Path, own: Sources, dataset: str | None, asked: str | None) -> Source:
    """The file, written as the chosen data set is, or as the one that the model's experiment asked for."""
    if not own:
        return loading.of_file(file)
    name = dataset or (asked if asked in own or len(own) > 1 else next(iter(own)))
    if name is None or name not in own:
        got = f"got {dataset!r}" if dataset else "say which"
        raise SettingsError(f"dataset: expected one of {', '.join(own)}, as which the file is written; {got}")
    if own[name].format not in ("csv", "parquet"):
        raise SettingsError(
            f"dataset: expected one that is a table (csv or parquet); {name} is {own[name].format}"
        )
    return dataclasses.replace(own[name], path=file)
