"""A model's file: safetensors, with all that is needed to predict with it in its metadata."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from workers.errors import DataError
from workers.models import OwnModel
from workers.params import Array, Params
from workers.spec import Spec


def save(path: Path, spec: Spec, params: Mapping[str, Array], version: int) -> None:
    """Write the parameters and their description, beside the place and then there."""
    described = TypeAdapter(Spec).dump_json(spec).decode()
    arrays = {name: np.ascontiguousarray(leaf) for name, leaf in params.items()}
    metadata = {"format": "fedelta 1", "version": str(version), "spec": described}
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        save_file(arrays, unfinished, metadata)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def load(path: Path) -> tuple[Spec, Params]:
    """A saved model: its description and its parameters.

    Raises:
        DataError: it is not a model that fedelta saved.
    """
    try:
        with safe_open(path, framework="numpy") as stored:
            spec = TypeAdapter(Spec).validate_json((stored.metadata() or {})["spec"])
            params = {name: stored.get_tensor(name) for name in stored.keys()}
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: cannot be read as safetensors: {error}") from error
    except (KeyError, ValidationError) as error:
        raise DataError(f"{path}: expected a model saved by fedelta, with its spec beside it") from error
    if isinstance(spec.model, OwnModel):
        return spec, params  # whose function is not called for a file of whoever's
    schema = spec.schema
    expected = spec.model.init(np.random.default_rng(0), schema.input_shape, schema.num_outputs)
    shapes = {name: leaf.shape for name, leaf in expected.items()}
    if shapes != {name: leaf.shape for name, leaf in params.items()}:
        raise DataError(f"{path}: expected the leaves {shapes}, as its spec says")
    return spec, params
