"""Submitting an experiment: its schema, its initial model, its first orders."""

import dataclasses
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from orchestrator import experiment
from orchestrator.runs import Run
from tasks import dispatch, environment
from tasks.app import connect
from tasks.ledger import Ledger
from workers import data, originals
from workers.errors import ExperimentError
from workers.models import OwnModel, own
from workers.personal_settings import LocalLayers
from workers.schema import Schema
from workers.settings import explain
from workers.spec import Experiment, Spec


def submit(run: Run) -> bool:
    """Put the run's experiment into the ledger and send its first orders.

    False, and nothing is changed, if the ledger has an experiment of that name.

    Raises:
        ExperimentError: the file is wrong.
        DataError: its examples cannot be had, or shared out as it says.
    """
    written = complete(run)
    schema = data.schema_of(written.data) if written.data.is_at_sites else data.describe(written)
    spec = _spec(written, schema)
    rng = np.random.default_rng(written.seed)
    params = spec.model.init(rng, schema.input_shape, schema.num_outputs)
    if isinstance(written.personal, LocalLayers):
        written.personal.check(params)
    new = Ledger(connect()).create(run.name, spec, params)
    if new is None:
        return False
    dispatch.follow(run.name, None, new)
    return True


def check_table(written: Experiment, folder: Path) -> None:
    """Look at the table that a trial shares out, named from this folder on, before anything is started.

    Raises:
        DataError: it is wrong, of which all is told, or a site has too few examples.
    """
    trial = _located(written, folder)
    data.describe(dataclasses.replace(trial, sites=trial.sites or data.sites_of(trial.data)))


def _located(written: Experiment, folder: Path) -> Experiment:
    """The experiment with its trial's table, if it has one, named from this folder on."""
    if written.data.file is None:
        return written
    return dataclasses.replace(
        written, data=dataclasses.replace(written.data, file=str(folder / written.data.file))
    )


def _spec(written: Experiment, schema: Schema) -> Spec:
    """Both together; a model of the author's own is allowed here, where its author is.

    Raises:
        ExperimentError: they do not fit together.
    """
    if isinstance(written.model, OwnModel):
        own.allow([written.model.function])
    try:
        return Spec(experiment=written, schema=schema)
    except ValidationError as error:
        raise ExperimentError(f"{written.name}: {'; '.join(explain(error, None))}") from error


def complete(run: Run) -> Experiment:
    """The experiment of the run's file, with what only the run and a trial's table know: name, path, sites.

    Raises:
        ExperimentError: the file is wrong, or asks for sites that a run on one machine does not have.
        DataError: the trial's table cannot be read.
    """
    originals.use(environment.data_folders())
    written = dataclasses.replace(experiment.read(run.experiment_file), name=run.name)
    written = _located(written, run.origin)
    if written.data.is_at_sites and run.is_here:
        raise ExperimentError(
            f"{run.experiment_file}: data.dataset: {written.data.dataset} is what hospitals have at home, "
            "and a run on this machine has none: name a broker or a connection (see docs/data.md), or try it "
            "with data.file"
        )
    if written.sites:
        return written
    sites = data.sites_of(written.data)
    run.note_hospitals(data.num_sites_in(written.data))
    return dataclasses.replace(written, sites=sites)
