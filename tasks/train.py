"""Training, at a site: an order in, a delta out."""

import logging
import math
import time
from collections.abc import Callable, Mapping

import redis
from redis import RedisError

from tasks import feedback, hooks, own_models
from tasks.app import app, connect
from tasks.describe import describe
from tasks.feedback import Kept
from tasks.messages import Asked, Order, Submission
from tasks.participation import participation
from tasks.personalize import personalize
from tasks.presence import HOLDER, presence
from tasks.site_ledger import Lease, SiteLedger
from workers import personal
from workers.errors import FedeltaError, MalformedMessage

logger = logging.getLogger(__name__)

RETRY_SECONDS = 2.0


@app.task(name="train")
def train(experiment: str, order: str) -> None:
    """Take an order, train, store what came of it, which tells the coordinator.

    A second message for the same order finds it taken, submitted or gone, and does nothing.
    """
    hooks.reached("train.received")
    ledger = SiteLedger(connect())
    try:
        taken = ledger.take(experiment, order, HOLDER)
    except MalformedMessage as error:
        logger.error("%s %s: is this the centre's fedelta? %s", experiment, order, error)
        return
    if taken is None or presence.holds(taken.lease):
        logger.debug("%s %s: nothing to do", experiment, order)
        return
    hooks.reached("train.taken")
    with presence.renewing(taken.lease):
        submission = submission_for(ledger, experiment, taken.order, taken.lease)
        hooks.reached("train.trained")
        hand_in(ledger, experiment, taken.lease, submission)
    hooks.reached("train.stored")


def submission_for(ledger: SiteLedger, experiment: str, order: Order, lease: Lease) -> Submission:
    """What the site answers: its delta, or why it has none (never what its examples are)."""
    try:
        return ANSWERS[order.asks](ledger, experiment, order, lease)
    except RedisError:
        raise  # nothing is wrong with the order: it is sent again when its lease has run out
    except FedeltaError as error:
        reason = str(error)
    except Exception as error:  # whatever it is, the study's owner must see that this site cannot train
        reason = f"{type(error).__name__}; the log of the site's worker says more"
        logger.exception("%s %s: training failed", experiment, order.id)
    logger.error("%s %s: %s", experiment, order.id, reason)
    return Submission(order=order.id, issued=order.issued, error=reason[:500])


def hand_in(ledger: SiteLedger, experiment: str, lease: Lease, submission: Submission) -> None:
    """Submit, however long Redis is away: what took hours to train is not thrown away for a restart.

    Redis may be full, too, or unable to write to its disk: somebody will see to it.

    Raises:
        RedisError: the worker was told to end meanwhile, or this site is let in no more.
    """
    while True:
        try:
            counts = ledger.submit(experiment, lease, submission)
            break
        except (redis.AuthenticationError, redis.exceptions.NoPermissionError):
            raise
        except RedisError as error:
            logger.warning("%s %s: waits to be handed in: %s", experiment, submission.order, error)
            if presence.pause(RETRY_SECONDS):
                raise
    if counts and submission.delta:
        num_bytes = sum(len(leaf["data"]) for _, leaf in submission.delta)
        told = "%s: order %s: trained on %d examples for %.1f s, and sent a change of %d bytes"
        logger.info(
            told, experiment, submission.order, submission.num_examples, submission.seconds, num_bytes
        )


def carry_out(ledger: SiteLedger, experiment: str, order: Order, lease: Lease) -> Submission:
    """Train the order's base model on the site's examples."""
    begun = time.monotonic()
    part = participation(experiment, order.site)
    settings = part.spec.experiment
    base, bytes_down = ledger.model(settings, order.base_version, part.reference)
    kept = feedback.split(own_models.before(experiment, order) if settings.keeps_own else {})
    trained = personal.carry_out(part.spec, base, kept.own, part.data.train, order.seed)
    if not math.isfinite(trained.loss):
        raise FedeltaError("training has diverged: the loss is not finite; a smaller learning rate may help")
    delta, left_out = feedback.packed(settings, order, trained.delta, kept.left_out)
    if settings.keeps_own:
        own_models.keep(experiment, order, feedback.joined(Kept(trained.own, left_out)))
    presence.pause(settings.delay(order.site, order.seed) - (time.monotonic() - begun))
    logger.debug("%s %s: loss %.4f from version %d", experiment, order.id, trained.loss, order.base_version)
    return Submission(
        order=order.id,
        issued=order.issued,
        delta=delta,
        num_examples=len(part.data.train),
        loss=float(trained.loss),
        started=lease.started,
        seconds=time.monotonic() - begun,
        bytes_down=bytes_down,
    )


ANSWERS: Mapping[Asked, Callable[[SiteLedger, str, Order, Lease], Submission]] = {
    "describe": describe,
    "train": carry_out,
    "personalize": personalize,
}
