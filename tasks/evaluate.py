"""Evaluation, at a site: a version in, metrics on the site's held-out examples out."""

import logging
import time

from tasks import hooks
from tasks.app import app, connect
from tasks.participation import participation
from tasks.site_ledger import SiteLedger
from workers import inference
from workers.errors import FedeltaError, NotFound
from workers.lazily import lazily, load

scoring = lazily("workers.scoring")  # imports scikit-learn, for which no first training is to wait

logger = logging.getLogger(__name__)


@app.task(name="evaluate")
def evaluate(experiment: str, site: str, version: int) -> None:
    """Score a version on what the site holds out and store the metrics, which tells the coordinator."""
    load(scoring)  # before the model is read: it may be asked for no more when this has been imported
    begun = time.monotonic()
    ledger = SiteLedger(connect())
    try:
        part = participation(experiment, site)
        params, _ = ledger.model(part.spec.experiment, version, part.reference)
    except NotFound:
        logger.debug("%s %s: version %d is not asked for any more", experiment, site, version)
        return
    except FedeltaError as error:
        logger.error("%s %s: version %d cannot be scored: %s", experiment, site, version, error)
        return
    examples = part.data.holdout
    outputs = inference.outputs(part.spec.model, params, examples.features)
    metrics = scoring.measure(part.spec.schema.target_kind, outputs, examples.targets)
    seconds = time.monotonic() - begun
    hooks.reached("evaluate.scored")
    ledger.put_evaluation(experiment, site, version, len(examples), metrics, seconds)
