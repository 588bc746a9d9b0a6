"""`echo_worker`, which notes the moments of its orders."""

import threading
from typing import Any

from celery.signals import task_prerun

from benchmarks import moments
from benchmarks.echo_worker import app
from tasks import messages
from tasks.messages import Submission
from tasks.site_ledger import SiteLedger
from workers import personal

__all__ = ["app"]

_here = threading.local()  # the site whose order the thread is at


@task_prerun.connect
def _begin(task: Any, kwargs: dict[str, Any], **_: object) -> None:
    if task.name == "train":
        _here.site = kwargs["order"].rpartition("/")[0]
        moments.note("received", _here.site)


def _note(moment: str) -> Any:
    return lambda *_: moments.note(moment, getattr(_here, "site", "-"))


def _encoded(written: object) -> None:
    if isinstance(written, Submission):
        _note("encoded")()


moments.around(SiteLedger, "take", moments.nothing, _note("taken"))
moments.around(SiteLedger, "model", moments.nothing, _note("model"))
moments.around(personal, "carry_out", moments.nothing, _note("trained"))
moments.around(messages, "in_parts", moments.nothing, _encoded)
moments.around(SiteLedger, "submit", moments.nothing, _note("stored"))
