"""The coordinator's process: its tasks, and the clock that wakes `supervise`.

    celery --app tasks.coordinator worker --queues coordinator --pool solo

One thread does all turns; the clock is Celery beat in a second one, so that it lives and dies with it.
"""

from typing import Any

from celery import bootsteps
from celery.beat import EmbeddedService, Scheduler

from tasks import aggregate, collect, supervise
from tasks.app import app

TASKS = (aggregate.aggregate, collect.collect, supervise.supervise, supervise.welcome)


class Clock(bootsteps.StartStopStep):
    """Celery beat, as a thread of this worker, with its schedule in memory."""

    def create(self, worker: Any) -> Any:
        """Make the thread; the worker starts and stops it."""
        return EmbeddedService(worker.app, thread=True, scheduler_cls=Scheduler)


app.steps["worker"].add(Clock)
