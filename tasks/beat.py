"""The clock: Celery beat with its schedule in memory, as a thread of the coordinator or a process of its own.

celery --app tasks.app beat --scheduler tasks.beat:Clock
"""

import logging
from typing import Any

from celery.beat import Scheduler

from tasks import dispatch, health
from tasks.app import COORDINATOR_QUEUE

logger = logging.getLogger(__name__)

MAX_WAITING = 100  # messages for the coordinator, past which no tick is added


class Clock(Scheduler):
    """Celery's own, which says for health checks that it works, and lets no ticks pile up."""

    def apply_async(self, *arguments: Any, **options: Any) -> Any:
        """Send what is due, unless the coordinator has much to do already or is not there."""
        sent = None
        if dispatch.num_waiting([COORDINATOR_QUEUE])[COORDINATOR_QUEUE] < MAX_WAITING:
            sent = super().apply_async(*arguments, **options)
        health.say_so()
        return sent
