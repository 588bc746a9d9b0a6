"""The end, at a site: its own model, and how good that is beside the global one and one trained alone."""

import logging
import time

from tasks import feedback, own_models
from tasks.messages import Order, Submission
from tasks.participation import Participation, participation
from tasks.site_ledger import Lease, SiteLedger
from workers import inference, personal
from workers import params as trees
from workers.errors import FedeltaError
from workers.lazily import lazily
from workers.metrics import Metrics
from workers.params import Params

scoring = lazily("workers.scoring")

logger = logging.getLogger(__name__)

ADVICE = "its training has diverged; a smaller learning rate or personal.penalty may help"


def personalize(ledger: SiteLedger, experiment: str, order: Order, lease: Lease) -> Submission:
    """Make the site's own model, keep it here, and report the metrics of all that it is compared with."""
    begun = time.monotonic()
    part = participation(experiment, order.site)
    last, bytes_down = ledger.model(part.spec.experiment, order.base_version, part.reference)
    written, examples = part.spec.experiment, part.data.train
    metrics = measured(part, last)
    if written.personal is not None:
        own = feedback.split(own_models.before(experiment, order)).own
        model = personal.finish(part.spec, last, own, examples, order.seed)
        if path := trees.out_of_bounds(model):
            raise FedeltaError(f"leaf {path!r} is not finite, or beyond {trees.MAX_ABSOLUTE:g}: {ADVICE}")
        saved = own_models.save(experiment, order, part.spec, model)
        logger.info("%s %s: the site's own model is %s", experiment, order.id, saved)
        metrics |= {f"personal {name}": value for name, value in measured(part, model).items()}
    if "alone" in written.baselines and order.updates:
        model = personal.alone(part.spec, examples, order.updates, order.seed)
        metrics |= {f"alone {name}": value for name, value in measured(part, model).items()}
    seconds = time.monotonic() - begun
    ledger.put_evaluation(
        experiment, order.site, order.base_version, len(part.data.holdout), metrics, seconds
    )
    return Submission(
        order=order.id,
        issued=order.issued,
        delta=[],
        num_examples=len(examples),
        started=lease.started,
        seconds=seconds,
        bytes_down=bytes_down,
    )


def measured(part: Participation, params: Params) -> Metrics:
    """The model's metrics on what the site holds out."""
    holdout = part.data.holdout
    outputs = inference.outputs(part.spec.model, params, holdout.features)
    metrics: Metrics = scoring.measure(part.spec.schema.target_kind, outputs, holdout.targets)
    return metrics
