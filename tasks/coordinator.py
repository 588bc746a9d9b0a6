"""The coordinator's process: its tasks, its ear for the sites, and the clock that wakes `supervise`.

    celery --app tasks.coordinator worker --queues coordinator --pool solo

One thread does all turns; a second hears the sites; the clock is Celery beat in a third, so that it lives and
dies with it, unless a beat of its own was asked for (`fedelta beat`).
"""

from typing import Any

from celery import bootsteps
from celery.beat import EmbeddedService
from celery.signals import task_prerun

from tasks import aggregate, collect, environment, exposition, heap, supervise, work
from tasks.app import app
from tasks.beat import Clock
from tasks.reception import reception

TASKS = (aggregate.aggregate, collect.collect, supervise.supervise, supervise.welcome)


class OwnClock(bootsteps.StartStopStep):
    """Celery beat, as a thread of this worker, with its schedule in memory."""

    def create(self, worker: Any) -> Any:
        """Make the thread; the worker starts and stops it."""
        return EmbeddedService(worker.app, thread=True, scheduler_cls=Clock)


class Ear(bootsteps.StartStopStep):
    """The reception, as a thread of this worker."""

    def create(self, worker: Any) -> Any:
        """Hand over the thread; the worker starts and stops it."""
        return reception


heap.keep_freed_memory()
if environment.has_own_beat():
    app.steps["worker"].add(OwnClock)
app.steps["worker"].add(Ear)
exposition.serve(environment.metrics_address())
work.publish_all()


@task_prerun.connect
def _take(task: Any, kwargs: dict[str, Any], **_: object) -> None:
    """Whatever a site calls from here on, this task may not see."""
    reception.taken(task.name, work.about(kwargs))
