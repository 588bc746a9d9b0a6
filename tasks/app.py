"""The Celery app: its settings with their reasons, its queues, and the connection to the ledger.

A site worker serves the queue `site.<name>` of each of its sites; the coordinator serves `coordinator`.
Messages are hints: whoever gets one reads the ledger, which says what is still to be done. So a lost message
only delays, a second one changes nothing, and messages can be acknowledged when they are picked up.
"""

import logging
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import redis
from celery import Celery
from celery.signals import after_setup_logger
from kombu import pools
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from tasks import connection, environment, sockets
from tasks.connection import Connection
from workers.errors import Unavailable

COORDINATOR_QUEUE = "coordinator"
SITE_QUEUE_PREFIX = "site."
SUPERVISE_EVERY = 2.0  # seconds

app = Celery("fedelta", broker=connection.broker_url())
app.conf.update(
    broker_use_ssl=connection.tls(),
    task_ignore_result=True,  # results are in the ledger
    task_serializer="msgpack",
    accept_content=["msgpack", "json"],  # json is what Celery's remote control and events use; never pickle
    # Acknowledged when it is picked up: the ledger's lease, not the message, says that an order is being
    # worked on. A message that is lost with its worker is sent again by `supervise`.
    task_acks_late=False,
    # A waiting message is better left where another worker sees it. (Not `worker_disable_prefetch`: with both
    # threads of a site at work, the next message would be fetched up to a second late.)
    worker_prefetch_multiplier=1,
    worker_enable_prefetch_count_reduction=False,  # after a reconnection nothing is delivered a second time
    worker_cancel_long_running_tasks_on_connection_loss=True,  # means those with late acks, so none of ours
    # A site's worker comes back after any outage: by default Celery ends a worker after 100 attempts.
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    # Redis may answer that its disk is full (MISCONF) or that it has become a replica (READONLY): wait, too.
    broker_channel_error_retry=True,
    broker_transport_options={
        **sockets.OPTIONS,
        # Seconds after which a BRPOP without an answer is asked again on a new connection, which it then is
        # within twice as many.
        "health_check_interval": 10,
        # What was taken from a queue is remembered by its worker alone: there is no `unacked` of all sites,
        # and so no visibility timeout, after which a task that takes long would be delivered while it runs.
        "ack_emulation": False,
        "priority_steps": [0],  # one list per queue
    },
    # A worker that is told to end finishes what it is at, or hands it back: `presence` sees to it, so
    # Celery's own soft shutdown, which puts messages back, is not needed.
    worker_soft_shutdown_timeout=0.0,
    # A queue is a Redis list and nothing else. With an exchange, all who send would read and write the set of
    # its bindings, and whoever can write that decides where messages go.
    task_default_exchange="",
    # Nobody commands a worker or listens in on it: what Flower shows comes from the ledger (`dashboard`).
    worker_enable_remote_control=False,
    worker_hijack_root_logger=True,
    worker_log_format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    worker_task_log_format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    # A tick does not expire, which would compare the clocks of two machines; `beat` sees to it that no ticks
    # pile up while there is no coordinator.
    beat_schedule={
        "supervise": {
            "task": "supervise",
            "schedule": SUPERVISE_EVERY,
            "options": {"queue": COORDINATOR_QUEUE},
        }
    },
)
app.amqp.Connection = sockets.Connection


app.amqp.autoexchange = lambda _: None  # nor has any queue an exchange of its own


def use_broker(url: str) -> None:
    """Use this broker from now on, and its Redis as the ledger."""
    environment.set_broker(url)
    _configure_broker()


def use_connection(path: Path) -> None:
    """Use the broker of this file's connection from now on, and its Redis as the ledger.

    Raises:
        SettingsError: the file is wrong.
    """
    environment.set_connection(path)
    _configure_broker()


def _configure_broker() -> None:
    app.conf.update(broker_url=connection.broker_url(), broker_use_ssl=connection.tls())
    pools.reset()  # type: ignore[no-untyped-call]  # connections to the broker that was, and ...
    app._after_fork()  # ... what the app remembers of them


def site_queue(site: str) -> str:
    """Name of the queue that the site's worker serves."""
    return SITE_QUEUE_PREFIX + site


def connect() -> redis.Redis:
    """The ledger's Redis, which the environment names; checked to be there when it is first asked for.

    Raises:
        Unavailable: no URL is configured, or nobody answers there.
    """
    url = connection.ledger_url()
    if url is None:
        raise Unavailable(
            "expected FEDELTA_CONNECTION to name a connection's file, or for a trial FEDELTA_BROKER_URL a "
            "Redis, such as redis://127.0.0.1:6379/0"
        )
    return connect_to(url)


@cache
def connect_to(url: str) -> redis.Redis:
    """The Redis at this URL, checked to be there.

    Raises:
        Unavailable: nobody answers there.
    """
    return _open(url, connection.tls() if url == connection.ledger_url() else None)


def connect_by(found: Connection) -> redis.Redis:
    """The Redis of this connection, checked to be there.

    Raises:
        Unavailable: nobody answers there, or it does not let us in.
    """
    return _open(found.url_with_password, found.tls)


def _open(url: str, tls: dict[str, Any] | None) -> redis.Redis:
    options: dict[str, Any] = {
        "retry": Retry(ExponentialBackoff(cap=1.0), retries=5),
        "socket_read_size": 2**18,  # by default 64 KiB: pieces of a MiB take a quarter longer
        **(tls or {}),
    }
    if url.startswith("unix://"):
        options |= {"socket_timeout": sockets.SILENCE_SECONDS}
    else:
        options |= sockets.OPTIONS
    try:
        client = redis.Redis.from_url(url, **options)
        client.ping()
    except ValueError as error:  # its text would show the URL, and with it a password
        raise Unavailable(
            "the URL of Redis cannot be read: expected redis://, rediss:// or unix://, and in its password a "
            "/ written as %2F and a # as %23"
        ) from error
    except redis.RedisError as error:
        parts = urlsplit(url)
        shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        if isinstance(error, redis.AuthenticationError):
            who = unquote(parts.username or "") or "whoever gives no name"
            raise Unavailable(
                f"the Redis at {shown} does not let {who} in: the password is wrong, or the user was removed "
                f"or renewed ({error})"
            ) from error
        if tls is not None and ("SSL" in str(error) or "TLS" in str(error) or "EOF" in str(error)):
            raise Unavailable(
                f"no encrypted connection to {shown}: one of the two certificates is not accepted by the "
                f"other side, or has run out ({error})"
            ) from error
        raise Unavailable(f"no Redis answers at {shown}: {error}") from error
    return client


@after_setup_logger.connect
def _quiet_celery(**_: object) -> None:
    """Leave out Celery's lines per message and per tick; what was done, our own tasks say."""
    for name in ("celery.worker.strategy", "celery.app.trace", "celery.beat", "jax"):
        logging.getLogger(name).setLevel(logging.WARNING)
