"""What the coordinator has done, published for whoever watches: Flower makes its pages from it."""

import time
from socket import gethostname
from typing import Annotated, Any

import redis
from celery.signals import task_postrun, task_prerun
from pydantic import Field, NonNegativeFloat

from tasks import keys, messages
from tasks.app import connect
from workers.settings import message

NAME = f"coordinator@{gethostname()}"  # its worker's, for Celery and for people


@message
class Work:
    """One task that the coordinator has carried out."""

    worker: Annotated[str, Field(max_length=300)]
    task: Annotated[str, Field(max_length=64)]
    id: Annotated[str, Field(max_length=64)]
    about: Annotated[str, Field(max_length=64)] = ""  # the experiment, or for `welcome` the site
    seconds: NonNegativeFloat = 0.0


_begun: dict[str, float] = {}


def publish_all() -> None:
    """Publish every task that this process carries out from now on."""
    task_prerun.connect(_begin)
    task_postrun.connect(_publish)


def about(arguments: dict[str, Any]) -> str:
    """What a task of the coordinator is about: an experiment, or a site."""
    return str(arguments.get("site") or arguments.get("experiment") or "")


def _begin(task_id: str, **_: object) -> None:
    _begun[task_id] = time.monotonic()


def _publish(task_id: str, task: Any, kwargs: dict[str, Any], **_: object) -> None:
    now = time.monotonic()
    seconds = now - _begun.pop(task_id, now)
    done = Work(worker=NAME, task=task.name, id=task_id, about=about(kwargs), seconds=seconds)
    try:
        connect().publish(keys.WORK, messages.encode(done))
    except redis.RedisError:
        pass  # nobody sees it, and nothing depends on it
