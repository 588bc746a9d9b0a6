"""What a site's worker says of itself while it lives: that it is there, and which leases it holds."""

import logging
import secrets
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version

import redis

from tasks import health
from tasks.bell import Call
from tasks.site_ledger import LEASE, Lease, SiteLedger

logger = logging.getLogger(__name__)

HOLDER = secrets.token_hex(8)  # this process, in the leases that it holds
SOFTWARE = f"fedelta {version('fedelta')}"
INTERVAL = LEASE / 3  # seconds; two renewals may be lost


class Presence:
    """A thread that announces the sites and renews the leases of one worker process."""

    def __init__(self) -> None:
        """Silent until `start`."""
        self._leases: dict[str, Lease] = {}
        self._stopping = threading.Event()
        self._idle = threading.Event()  # no lease is held

    def start(self, ledger: SiteLedger, sites: Iterable[str]) -> None:
        """Announce the sites now and from now on."""
        arguments = (ledger, tuple(sites))
        threading.Thread(target=self._run, args=arguments, name="presence", daemon=True).start()

    def stop(self) -> None:
        """End every pause, and the thread once no lease is held: a training that is at work is finished."""
        self._stopping.set()

    @contextmanager
    def renewing(self, lease: Lease) -> Iterator[None]:
        """Renew the lease while the block runs."""
        self._leases[lease.key] = lease
        self._idle.clear()
        try:
            yield
        finally:
            self._leases.pop(lease.key, None)
            if not self._leases:
                self._idle.set()

    def pause(self, seconds: float) -> bool:
        """Wait so long; ends at once, and is true, when the worker stops."""
        return self._stopping.wait(seconds)

    def _run(self, ledger: SiteLedger, sites: tuple[str, ...]) -> None:
        call = Call(kind="started", holder=HOLDER)
        while True:
            try:
                ledger.announce(sites, SOFTWARE, call)
                call = Call(kind="here", number=len(self._leases))
                for lease in list(self._leases.values()):
                    ledger.renew(lease)
                health.say_so()
            except redis.RedisError as error:
                logger.warning("cannot announce %s: %s", ", ".join(sites), error)
            if self._stopping.wait(INTERVAL) and (not self._leases or self._idle.wait(INTERVAL)):
                break
        try:
            ledger.leave(sites)
        except redis.RedisError as error:
            logger.warning("cannot say that %s is gone: %s", ", ".join(sites), error)


presence = Presence()
