"""Sending messages: ids only, to the queue of whoever is to look into the ledger.

Tasks are sent by name, so that nobody imports the code of another's tasks: a coordinator has no JAX.
"""

import base64
import itertools
import json
import logging
import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import redis
from kombu.serialization import dumps

from tasks.app import COORDINATOR_QUEUE, app, connect, site_queue
from tasks.state import State

logger = logging.getLogger(__name__)

_process, _number = secrets.token_hex(8), itertools.count()  # no two messages have the same tag


class Message(NamedTuple):
    """A task to be carried out by whoever serves the queue."""

    queue: str
    task: str
    arguments: Mapping[str, object]
    task_id: str


def train(experiment: str, site: str, sequence: int) -> None:
    """Ask the site's worker to carry out an order."""
    send([_train(experiment, site, sequence)])


def evaluate(experiment: str, site: str, version: int) -> None:
    """Ask the site's worker to score a version."""
    send([_evaluate(experiment, site, version)])


def _train(experiment: str, site: str, sequence: int) -> Message:
    arguments = {"experiment": experiment, "order": f"{site}/{sequence}"}
    return Message(site_queue(site), "train", arguments, train_id(experiment, site, sequence))


def _evaluate(experiment: str, site: str, version: int) -> Message:
    arguments = {"experiment": experiment, "site": site, "version": version}
    return Message(site_queue(site), "evaluate", arguments, evaluate_id(experiment, site, version))


def train_id(experiment: str, site: str, sequence: int) -> str:
    """Celery's id of an order's messages, the same however often it is sent, for people to read."""
    return f"{site}.{sequence}.{experiment}"


def evaluate_id(experiment: str, site: str, version: int) -> str:
    """Celery's id of the messages that ask a site to score a version."""
    return f"{site}.v{version}.{experiment}"


def aggregate(experiment: str) -> None:
    """Tell the coordinator that a submission waits."""
    _tell_coordinator("aggregate", {"experiment": experiment})


def collect(experiment: str) -> None:
    """Tell the coordinator that a site has scored a version."""
    _tell_coordinator("collect", {"experiment": experiment})


def welcome(site: str, holder: str) -> None:
    """Tell the coordinator that a site's worker has started, and by what name it holds leases."""
    _tell_coordinator("welcome", {"site": site, "holder": holder})


def _tell_coordinator(task: str, arguments: Mapping[str, object]) -> None:
    send([Message(COORDINATOR_QUEUE, task, arguments, f"{task}.{_process}.{next(_number)}")])


def follow(experiment: str, old: State | None, new: State) -> None:
    """Send what a transition asks for: every order that is new or sent again, every new evaluation.

    What cannot be sent, because the broker is gone or full, `supervise` sends later.
    """
    asked = []
    for site in new.outstanding:
        record = new.sites[site]
        if old is None or (record.issued, record.attempt) != _sent(old, site):
            asked.append(_train(experiment, site, record.sequence))
    version = new.head.evaluating
    if version is not None and (old is None or version != old.head.evaluating):
        asked += [_evaluate(experiment, site, version) for site in new.active]
    try:
        send(asked)
    except redis.RedisError as error:
        logger.warning("%s: not everything could be sent, and is sent later: %s", experiment, error)


def send(messages: Iterable[Message]) -> None:
    """Put messages into their queues, all in one round trip.

    Celery's own `send_task` makes a connection and waits for an answer for each, which took half of a turn.
    """
    with connect().pipeline(transaction=False) as pipe:
        for message in messages:
            pipe.lpush(message.queue, encode(message))
        pipe.execute()


def encode(message: Message) -> str:
    """The message as Celery's protocol 2 has it, in the envelope of Kombu's Redis transport."""
    task = app.amqp.as_task_v2(
        message.task_id,
        message.task,
        kwargs=dict(message.arguments),
        argsrepr="()",
        kwargsrepr=str(message.arguments),
        ignore_result=True,
    )
    content_type, content_encoding, body = dumps(task.body, serializer=app.conf.task_serializer)  # type: ignore[no-untyped-call]
    properties = {
        **task.properties,
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": message.queue},
        "priority": 0,
        "body_encoding": "base64",
        "delivery_tag": f"{_process}.{next(_number)}",
    }
    envelope = {
        "body": base64.b64encode(body).decode(),
        "content-encoding": content_encoding,
        "content-type": content_type,
        "headers": task.headers,
        "properties": properties,
    }
    return json.dumps(envelope)


def _sent(state: State, site: str) -> tuple[float, int] | None:
    """Which order the site had, and which attempt at it."""
    record = state.sites[site]
    return None if record.base_version is None else (record.issued, record.attempt)


def num_waiting(queues: Sequence[str]) -> dict[str, int]:
    """By queue, the messages in it that no worker has taken."""
    if not queues:
        return {}
    with connect().pipeline(transaction=False) as pipe:
        for queue in queues:
            pipe.llen(queue)
        return dict(zip(queues, pipe.execute(), strict=True))
