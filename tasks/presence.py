"""What a site's worker says of itself while it lives: that it is there, and which leases it holds."""

import logging
import os
import secrets
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version

import redis

from tasks import health
from tasks.bell import Call
from tasks.offers import Offers
from tasks.site_ledger import LEASE, Lease, SiteLedger
from workers.errors import FedeltaError

logger = logging.getLogger(__name__)

HOLDER = secrets.token_hex(8)  # this process, in the leases that it holds
SOFTWARE = f"fedelta {version('fedelta')}"
INTERVAL = LEASE / 3  # seconds; two renewals may be lost
SETTLE_SECONDS = 1.0  # that a worker which starts has for taking what waits in its queues
FINISH_SECONDS = 25.0  # that a worker which is told to end has for the orders that it is at work on


class Presence:
    """A thread that announces the sites and renews the leases of one worker process."""

    def __init__(self) -> None:
        """Silent until `start`."""
        self._leases: dict[tuple[str, str], Lease] = {}  # by key and value
        self._stopping = threading.Event()
        self._idle = threading.Event()  # no lease is held

    def start(self, ledger: SiteLedger, sites: Iterable[str], offers: Offers | None = None) -> None:
        """Announce the sites, and the data sets of their own, now and from now on."""
        arguments = (ledger, tuple(sites), offers or Offers())
        threading.Thread(target=self._run, args=arguments, name="presence", daemon=True).start()

    def stop(self) -> None:
        """End every pause. What is at work is finished, or handed back if that takes too long."""
        self._stopping.set()

    def holds(self, lease: Lease) -> bool:
        """Whether this process is at work under this very lease already."""
        return (lease.key, lease.value) in self._leases

    @contextmanager
    def renewing(self, lease: Lease) -> Iterator[None]:
        """Renew the lease while the block runs."""
        self._leases[lease.key, lease.value] = lease
        self._idle.clear()
        try:
            yield
        finally:
            self._leases.pop((lease.key, lease.value), None)
            if not self._leases:
                self._idle.set()

    def pause(self, seconds: float) -> bool:
        """Wait so long; ends at once, and is true, when the worker stops."""
        return self._stopping.wait(seconds)

    def _call(self, num_before: int) -> Call:
        """Having started asks for what a predecessor left, so it is said when what waited has been taken."""
        return (
            Call(kind="started", holder=HOLDER)
            if num_before == 1
            else Call(kind="here", number=len(self._leases))
        )

    def _run(self, ledger: SiteLedger, sites: tuple[str, ...], offers: Offers) -> None:
        num_announced, deadline = 0, 0.0
        while True:
            try:
                ledger.announce(sites, SOFTWARE, self._call(num_announced), offers.current())
                num_announced += 1
                for lease in list(self._leases.values()):
                    ledger.renew(lease)
                health.say_so()
            except (redis.RedisError, FedeltaError) as error:
                logger.warning("cannot announce %s: %s", ", ".join(sites), error)
            if self._stopping.wait(INTERVAL if num_announced != 1 else SETTLE_SECONDS):
                deadline = deadline or time.monotonic() + FINISH_SECONDS
                if not self._leases or self._idle.wait(INTERVAL) or time.monotonic() > deadline:
                    break
        unfinished = list(self._leases.values())
        try:
            for lease in unfinished:
                ledger.hand_back(lease)
                logger.warning(
                    "%s is handed back: it would take longer than a worker has to end", lease.order
                )
            ledger.leave(sites)
        except redis.RedisError as error:
            logger.warning("cannot say that %s is gone: %s", ", ".join(sites), error)
        if unfinished:
            logging.shutdown()
            os._exit(0)  # a thread that trains cannot be interrupted, and would be waited for


presence = Presence()
