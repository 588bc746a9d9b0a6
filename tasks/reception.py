"""The coordinator's ear: the sites' calls become messages in its queue."""

import logging
import threading
import time
from collections.abc import Callable

import redis

from tasks import bell, dispatch, keys
from tasks.app import connect
from tasks.bell import Call
from workers.errors import FedeltaError

logger = logging.getLogger(__name__)

FORGET_SECONDS = 1.0


class Reception:
    """A thread that hears the sites.

    Of a message that waits in the queue no second is sent, so that many submissions are one drain, and a site
    that rings without end fills nothing.
    """

    def __init__(self) -> None:
        """Deaf until `start`."""
        self._waiting: dict[tuple[str, str], float] = {}
        self._stopping = threading.Event()

    def start(self) -> None:
        """Hear the sites from now on."""
        threading.Thread(target=self._run, name="reception", daemon=True).start()

    def stop(self) -> None:
        """Hear them no more."""
        self._stopping.set()

    def taken(self, task: str, about: str) -> None:
        """A message that waited is being carried out: whatever is called from now on needs another."""
        self._waiting.pop((task, about), None)

    def answer(self, client: redis.Redis, site: str, call: Call) -> None:
        """Send what a call asks for, if it does not wait already; what no experiment needs is left out."""
        if call.kind == "started":
            if self._is_due("welcome", site):
                dispatch.welcome(site, call.holder)
        elif call.kind in ("submitted", "scored"):
            task, name = ("aggregate" if call.kind == "submitted" else "collect"), call.experiment
            if self._is_due(task, name, lambda: client.sismember(keys.RUNNING, name)):
                (dispatch.aggregate if task == "aggregate" else dispatch.collect)(name)

    def _is_due(self, task: str, about: str, is_needed: Callable[[], object] = lambda: True) -> bool:
        """Whether such a message is to be sent, which is to be done then."""
        now = time.monotonic()
        # Another coordinator may have taken our message, so none is waited for long.
        if now - self._waiting.get((task, about), -FORGET_SECONDS) < FORGET_SECONDS or not is_needed():
            return False
        self._waiting[task, about] = now
        return True

    def _run(self) -> None:
        # Whatever a site calls, the others are heard; what it wrote, supervision finds.
        while not self._stopping.is_set():
            try:
                client = connect()
                for site, call in bell.calls(client, self._stopping):
                    self._answer_in_any_case(client, site, call)
            except FedeltaError as error:
                logger.warning("cannot hear the sites: %s", error)
                self._stopping.wait(bell.PATIENCE_SECONDS)

    def _answer_in_any_case(self, client: redis.Redis, site: str, call: Call) -> None:
        try:
            self.answer(client, site, call)
        except Exception:
            logger.exception("the call of site %s could not be answered", site)


reception = Reception()
