"""A site's process: its tasks, and the announcement that it is there.

    celery --app tasks.site_worker worker --queues site.<name> --pool threads

A pool of threads, because JAX must not be forked; the main thread keeps the connection alive meanwhile.
"""

from typing import Any

from celery.signals import worker_ready, worker_shutting_down

from tasks import environment, evaluate, heap, site_file, train
from tasks.app import SITE_QUEUE_PREFIX, app, connect
from tasks.offers import Offers
from tasks.presence import presence
from tasks.site_ledger import SiteLedger
from workers import compilation_cache, originals
from workers.models import own

__all__ = ["app"]

TASKS = (train.train, evaluate.evaluate)

heap.keep_freed_memory()
compilation_cache.enable(environment.cache_dir() / "jax")
originals.use(environment.data_folders())
own_file = site_file.current()
if own_file is not None:
    own.allow(own_file.models)
elif environment.connection_file() is None:
    own.allow_anything()  # a trial, by whoever wrote the experiment


@worker_ready.connect
def _announce(sender: Any, **_: object) -> None:
    """Announce the sites whose queues this worker serves, which asks for what a predecessor left."""
    queues = [queue.name for queue in sender.task_consumer.queues]
    sites = [name.removeprefix(SITE_QUEUE_PREFIX) for name in queues if name.startswith(SITE_QUEUE_PREFIX)]
    offers = Offers(own_file.datasets if own_file else ())
    presence.start(SiteLedger(connect()), sites, offers)
    offers.start()


@worker_shutting_down.connect
def _leave(**_: object) -> None:
    """Let no simulated delay hold up the end."""
    presence.stop()
