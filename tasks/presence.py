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

    def start(self, ledger: SiteLedger, sites: Iterable[str]) -> None:
        """Announce the sites now and from now on."""
        arguments = (ledger, tuple(sites))
        threading.Thread(target=self._run, args=arguments, name="presence", daemon=True).start()

    def stop(self) -> None:
        """End the thread and every pause."""
        self._stopping.set()

    @contextmanager
    def renewing(self, lease: Lease) -> Iterator[None]:
        """Renew the lease while the block runs."""
        self._leases[lease.key] = lease
        try:
            yield
        finally:
            self._leases.pop(lease.key, None)

    def pause(self, seconds: float) -> None:
        """Wait, as a slow site would take longer; ends at once when the worker stops."""
        self._stopping.wait(seconds)

    def _run(self, ledger: SiteLedger, sites: tuple[str, ...]) -> None:
        call = Call(kind="started", holder=HOLDER)
        while True:
            try:
                ledger.announce(sites, SOFTWARE, call)
                call = Call(kind="here") if call.kind == "started" else call
                for lease in list(self._leases.values()):
                    ledger.renew(lease)
            except redis.RedisError as error:
                logger.warning("cannot announce %s: %s", ", ".join(sites), error)
            else:
                health.say_so()
            if call.kind == "gone":
                return
            if self._stopping.wait(INTERVAL):
                call = Call(kind="gone")  # says so, and ends


presence = Presence()
