"""How connections to Redis notice that the other side is gone, and how patiently they come back."""

import socket
from typing import Any

from kombu.connection import Connection as KombuConnection

CONNECT_SECONDS = 5.0
# For one read or write, not for a whole answer: a model of any size may take its time, silence may not.
SILENCE_SECONDS = 15.0
RETRY_SECONDS = 5.0  # at most, between two attempts to connect again

# A peer that vanished without a word (a firewall that forgot us, a cable) is noticed after 30 s rather than
# Linux's two hours. What a system does not know is left out.
_KEEPALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 30_000}

OPTIONS: dict[str, Any] = {
    "socket_timeout": SILENCE_SECONDS,
    "socket_connect_timeout": CONNECT_SECONDS,
    "socket_keepalive": True,
    "socket_keepalive_options": {
        getattr(socket, name): value for name, value in _KEEPALIVE.items() if hasattr(socket, name)
    },
}


class Connection(KombuConnection):
    """Celery's connection to the broker, which comes back within seconds of an outage however long it was.

    Kombu's own waits two seconds longer after each attempt, up to 30.
    """

    def _ensure_connection(  # type: ignore[override]  # Kombu has no types
        self,
        errback: Any = None,
        max_retries: Any = None,
        interval_start: float = 1.0,
        interval_step: float = 1.0,
        interval_max: float = RETRY_SECONDS,
        **options: Any,
    ) -> Any:
        # Kombu itself calls this with the intervals in their places and, publishing, with shorter ones.
        connect: Any = super()._ensure_connection
        intervals = (min(seconds, RETRY_SECONDS) for seconds in (interval_start, interval_step, interval_max))
        return connect(errback, max_retries, *intervals, **options)
