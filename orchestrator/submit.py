"""Submitting an experiment: its schema, its initial model, its first orders."""

import dataclasses

import numpy as np

from orchestrator import experiment
from orchestrator.runs import Run
from tasks import dispatch
from tasks.app import connect
from tasks.ledger import Ledger
from workers import data
from workers.spec import Spec


def submit(run: Run) -> bool:
    """Put the run's experiment into the ledger and send its first orders.

    False, and nothing is changed, if the ledger has an experiment of that name.

    Raises:
        ExperimentError: the file is wrong.
        DataError: its data set cannot be shared out as it says.
    """
    written = dataclasses.replace(experiment.read(run.experiment_file), name=run.name)
    schema = data.describe(written)
    rng = np.random.default_rng(written.seed)
    params = written.model.init(rng, len(schema.features), schema.num_outputs)
    new = Ledger(connect()).create(run.name, Spec(experiment=written, schema=schema), params)
    if new is None:
        return False
    dispatch.follow(run.name, None, new)
    return True
