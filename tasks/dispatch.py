"""Sending messages: ids only, to the queue of whoever is to look into the ledger.

Tasks are sent by name, so that nobody imports the code of another's tasks: a coordinator has no JAX.
"""

import logging
from collections.abc import Sequence

import redis
from kombu.exceptions import OperationalError

from tasks.app import COORDINATOR_QUEUE, app, site_queue
from tasks.state import State

logger = logging.getLogger(__name__)


def train(experiment: str, site: str, sequence: int) -> None:
    """Ask the site's worker to carry out an order."""
    app.send_task(
        "train",
        kwargs={"experiment": experiment, "order": f"{site}/{sequence}"},
        queue=site_queue(site),
        task_id=train_id(experiment, site, sequence),
    )


def evaluate(experiment: str, site: str, version: int) -> None:
    """Ask the site's worker to score a version."""
    arguments = {"experiment": experiment, "site": site, "version": version}
    task_id = evaluate_id(experiment, site, version)
    app.send_task("evaluate", kwargs=arguments, queue=site_queue(site), task_id=task_id)


def train_id(experiment: str, site: str, sequence: int) -> str:
    """Celery's id of an order's messages, the same however often it is sent, for people to read."""
    return f"{site}.{sequence}.{experiment}"


def evaluate_id(experiment: str, site: str, version: int) -> str:
    """Celery's id of the messages that ask a site to score a version."""
    return f"{site}.v{version}.{experiment}"


def aggregate(experiment: str) -> None:
    """Tell the coordinator that a submission waits."""
    app.send_task("aggregate", kwargs={"experiment": experiment}, queue=COORDINATOR_QUEUE)


def collect(experiment: str) -> None:
    """Tell the coordinator that a site has scored a version."""
    app.send_task("collect", kwargs={"experiment": experiment}, queue=COORDINATOR_QUEUE)


def welcome(site: str, holder: str) -> None:
    """Tell the coordinator that a site's worker has started, and by what name it holds leases."""
    app.send_task("welcome", kwargs={"site": site, "holder": holder}, queue=COORDINATOR_QUEUE)


def follow(experiment: str, old: State | None, new: State) -> None:
    """Send what a transition asks for: every order that is new or sent again, every new evaluation.

    What cannot be sent, because the broker is gone or full, `supervise` sends later.
    """
    try:
        for site in new.outstanding:
            record = new.sites[site]
            if old is None or (record.issued, record.attempt) != _sent(old, site):
                train(experiment, site, record.sequence)
        asked = new.head.evaluating
        if asked is not None and (old is None or asked != old.head.evaluating):
            for site in new.active:
                evaluate(experiment, site, asked)
    except (OperationalError, redis.RedisError) as error:
        logger.warning("%s: not everything could be sent, and is sent later: %s", experiment, error)


def _sent(state: State, site: str) -> tuple[float, int] | None:
    """Which order the site had, and which attempt at it."""
    record = state.sites[site]
    return None if record.base_version is None else (record.issued, record.attempt)


def num_waiting(queues: Sequence[str]) -> dict[str, int]:
    """By queue, the messages in it that no worker has taken."""
    if not queues:
        return {}
    with app.pool.acquire(block=True) as connection:
        declare = connection.default_channel.queue_declare
        return {queue: int(declare(queue=queue, passive=False).message_count) for queue in queues}
