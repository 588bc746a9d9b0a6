"""What a site calls out: a hint, on a channel that is its own, of what it has just done or written.

A site sends no message to the coordinator's queue: Celery acts on much that a message can say (what to send
next, and to whom), and that is more than a hospital should be able to ask of the centre. It publishes on
`fedelta:bell:<site>` instead, which its credentials allow to it alone, so the channel says who called.
A call that is lost only delays: `supervise` finds what the ledger holds.
"""

import logging
import threading
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

import redis
from pydantic import Field, NonNegativeFloat

from tasks import keys, messages
from tasks.messages import Count
from workers.errors import MalformedMessage
from workers.settings import Name, message

logger = logging.getLogger(__name__)

MAX_BYTES = 1024  # of one call
PATIENCE_SECONDS = 1.0


@message
class Call:
    """What a site has done; `number` is the order's, the version that was scored, or of orders at work."""

    kind: Literal["here", "started", "taken", "submitted", "scored", "gone"]
    experiment: Name | Literal[""] = ""
    number: Count = 0
    seconds: Annotated[NonNegativeFloat, Field(le=1e9)] = 0.0  # that it took
    has_failed: bool = False
    holder: Annotated[str, Field(pattern=r"^[0-9a-f]*$", max_length=64)] = ""  # the worker's name in leases


def ring(pipe: redis.client.Pipeline, site: str, call: Call) -> None:
    """Queue the call, to be published with whatever else the pipeline does."""
    pipe.publish(keys.bell(site), messages.encode(call))


def calls(client: redis.Redis, stopping: threading.Event) -> Iterator[tuple[str, Call]]:
    """Every site's calls from now on, with the name of the site, until `stopping` is set.

    What is not a call is logged and left out; a Redis that is gone is waited for.
    """
    for channel, data in heard(client, [keys.bell("*")], stopping):
        site = site_of(channel)
        try:
            yield site, decode(data)
        except MalformedMessage as error:
            logger.warning("site %.80r rang with what is no call: %s", site, error)


def heard(
    client: redis.Redis, patterns: Sequence[str], stopping: threading.Event
) -> Iterator[tuple[str, bytes]]:
    """Whatever is published on channels of these patterns from now on, until `stopping` is set."""
    while not stopping.is_set():
        try:
            with client.pubsub(ignore_subscribe_messages=True) as subscription:
                subscription.psubscribe(*patterns)
                while not stopping.is_set():
                    received = subscription.get_message(timeout=PATIENCE_SECONDS)
                    if received is not None:
                        yield received["channel"].decode(errors="replace"), received["data"]
        except redis.RedisError as error:
            logger.warning("cannot hear the sites: %s", error)
            stopping.wait(PATIENCE_SECONDS)


def site_of(channel: str) -> str:
    """The site whose channel this is."""
    return channel.removeprefix(keys.bell(""))


def decode(data: bytes) -> Call:
    """The call that these bytes are.

    Raises:
        MalformedMessage: they are none.
    """
    if len(data) > MAX_BYTES:
        raise MalformedMessage(f"expected at most {MAX_BYTES} bytes, got {len(data)}")
    return messages.decode(Call, data)
