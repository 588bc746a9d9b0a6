"""A trial's baseline: the model that its training comes to if all sites' examples lie in one place.

    python -m orchestrator.pooled runs/<name>

A process of its own, because it needs JAX. It writes the baseline into `pooled.safetensors`, and its metrics
at each site into `pooled.json`.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from orchestrator.pictures import read_table
from orchestrator.runs import Run
from tasks import environment
from workers import data, inference, model_file, originals, personal, scoring
from workers.errors import FedeltaError
from workers.metrics import Metrics
from workers.models import own


def measure(run: Run) -> Mapping[str, Metrics]:
    """By site, the baseline's metrics on what the site holds out."""
    own.allow_anything()  # who has all examples and the experiment's file is the model's author
    spec, _ = model_file.load(run.folder / "model.safetensors")
    originals.use(environment.data_folders())
    experiment = spec.experiment
    loaded = {site: data.load_site(spec, site) for site in experiment.sites}
    orders = dict.fromkeys(experiment.sites, 0)
    for row in read_table(run.folder / "history.csv"):
        orders[row["site"]] += 1
    params = personal.pooled(spec, {site: found.train for site, found in loaded.items()}, orders)
    model_file.save(run.folder / "pooled.safetensors", spec, params, version=0)
    return {
        site: scoring.measure(
            spec.schema.target_kind,
            inference.outputs(spec.model, params, found.holdout.features),
            found.holdout.targets,
        )
        for site, found in loaded.items()
    }


if __name__ == "__main__":
    try:
        chosen = Run(folder=Path(sys.argv[1]))
        (chosen.folder / "pooled.json").write_text(json.dumps(measure(chosen)))
    except FedeltaError as error:
        sys.exit(str(error))
