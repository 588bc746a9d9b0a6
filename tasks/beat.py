"""The schedule of a beat that is a process of its own: in memory, and it says that it lives.

celery --app tasks.app beat --scheduler tasks.beat:LivingScheduler
"""

from typing import Any

from celery.beat import Scheduler

from tasks import health


class LivingScheduler(Scheduler):
    """Celery's own, which says for health checks that its messages are sent."""

    def apply_async(self, *arguments: Any, **options: Any) -> Any:
        """Send what is due, and say so."""
        sent = super().apply_async(*arguments, **options)
        health.say_so()
        return sent
