"""Flower's process: its pages, of which the sites' part is what the ledger says and what the sites call out.

    python -m tasks.dashboard <address>:<port>

Flower asks workers by Celery's remote control. A hospital's worker takes none, and publishes no events, which
could hold what an exception says; so this Flower asks the ledger instead, and makes the events of a site from
its calls. It can therefore show, and command nobody.
"""

import logging
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

from celery.app.control import Control
from celery.events import Event
from flower.app import Flower
from flower.events import Events
from flower.options import options
from flower.urls import settings
from tornado import ioloop

from tasks import bell, connection, dispatch, environment, keys, messages
from tasks.app import COORDINATOR_QUEUE, SUPERVISE_EVERY, app, connect, site_queue
from tasks.attendance import last_seen
from tasks.bell import Call
from tasks.ledger import Ledger
from tasks.progress import Progress, read
from tasks.site_ledger import LEASE
from tasks.work import Work
from workers.errors import MalformedMessage, SettingsError

logger = logging.getLogger(__name__)

MIN_PASSWORD = 12  # characters
MAX_WORKERS, MAX_TASKS = 2_000, 20_000  # that Flower remembers
HEARTBEAT = LEASE / 3  # seconds between a site's calls


class NoControl(Control):
    """Remote control that reaches nobody."""

    def broadcast(self, *_: object, **__: object) -> list[Any]:
        """Send nothing, and so have no answers."""
        return []


class Hearing(Events):
    """Flower's thread that hears what happens: the sites' calls, and the coordinator's work."""

    def run(self) -> None:
        """Turn what is heard into Celery's events, for ever."""
        patterns = [keys.bell("*"), keys.WORK]
        for channel, data in bell.heard(connect(), patterns, threading.Event()):
            try:
                if channel == keys.WORK:
                    events = events_of_coordinator(messages.decode(Work, data))
                else:
                    events = events_of_site(bell.site_of(channel), bell.decode(data))
            except MalformedMessage as error:
                logger.warning("%.80r: %s", channel, error)
                continue
            for event in events:
                self.on_event(event)


class Dashboard(Flower):
    """Flower, with the workers as the ledger knows them."""

    @property
    def workers(self) -> Mapping[str, dict[str, Any]]:
        """What Flower would have asked each worker: its queue, what it does and did."""
        return dict(_workers())

    def update_workers(self, workername: str | None = None) -> Any:
        """Nothing to ask: `workers` is read when it is shown."""
        done = self.io_loop.asyncio_loop.create_future()
        done.set_result(None)
        return done


def events_of_coordinator(work: Work) -> Iterator[dict[str, Any]]:
    """The events that Celery would have sent of a task of the coordinator; its ticks are its heartbeat."""
    if work.task == "supervise":
        yield _event("worker-heartbeat", work.worker, freq=SUPERVISE_EVERY, sw_ident="fedelta")
        return
    kind = "site" if work.task == "welcome" else "experiment"
    yield from _carried_out(work.worker, work.task, work.id, {kind: work.about}, work.seconds)


def events_of_site(site: str, call: Call) -> Iterator[dict[str, Any]]:
    """The events that Celery would have sent of what the site calls out."""
    if call.kind in ("started", "here", "gone"):
        kind = {"started": "worker-online", "here": "worker-heartbeat", "gone": "worker-offline"}[call.kind]
        yield _event(kind, site, freq=HEARTBEAT, active=call.number, sw_ident="fedelta")
        return
    experiment, number = call.experiment, call.number
    if call.kind == "scored":
        arguments: dict[str, object] = {"experiment": experiment, "site": site, "version": number}
        task_id = dispatch.evaluate_id(experiment, site, number)
        yield from _carried_out(site, "evaluate", task_id, arguments, call.seconds)
        return
    task_id = dispatch.train_id(experiment, site, number)
    if call.kind == "taken":
        yield from _begun(site, "train", task_id, {"experiment": experiment, "order": f"{site}/{number}"})
    elif call.has_failed:
        reason = "the site could not train; the experiment's events say why"
        yield _event("task-failed", site, uuid=task_id, name="train", exception=reason, traceback="")
    else:
        yield _event("task-succeeded", site, uuid=task_id, name="train", result="", runtime=call.seconds)


def _carried_out(
    worker: str, name: str, task_id: str, arguments: Mapping[str, object], seconds: float
) -> Iterator[dict[str, Any]]:
    yield from _begun(worker, name, task_id, arguments)
    yield _event("task-succeeded", worker, uuid=task_id, name=name, result="", runtime=seconds)


def _begun(worker: str, name: str, task_id: str, arguments: Mapping[str, object]) -> Iterator[dict[str, Any]]:
    shown = ", ".join(f"{key}={value}" for key, value in arguments.items())
    yield _event("task-received", worker, uuid=task_id, name=name, args="", kwargs=shown, retries=0, eta=None)
    yield _event("task-started", worker, uuid=task_id, name=name)


def _event(kind: str, hostname: str, **fields: Any) -> dict[str, Any]:
    event: dict[str, Any] = Event(kind, hostname=hostname, pid=0, utcoffset=0, **fields)
    return {**event, "clock": app.clock.forward(), "local_received": event["timestamp"]}


def _workers() -> Iterator[tuple[str, dict[str, Any]]]:
    """By name, what there is to say of every worker that the ledger knows."""
    client = connect()
    experiments = [read(client, name, num_rows=1) for name in Ledger(client).names()]
    if coordinator := client.get(keys.COORDINATOR):
        yield coordinator.decode(), _worker(COORDINATOR_QUEUE, ["aggregate", "collect", "supervise"])
    sites = sorted({site.name for found in experiments for site in found.sites})
    seen = last_seen(client, sites)
    for name in sites:
        shown = _worker(site_queue(name), ["train", "evaluate"])
        shown["active"] = list(_active(name, experiments))
        shown["stats"]["total"] = {
            f"updates of {found.name}": site.record.updates
            for found in experiments
            for site in found.sites
            if site.name == name
        }
        if name in seen:
            shown["timestamp"] = seen[name]
        yield name, shown


def _active(site: str, experiments: list[Progress]) -> Iterator[dict[str, Any]]:
    """The orders that the site is at work on."""
    for found in experiments:
        for record in (entry.record for entry in found.sites if entry.name == site and entry.is_training):
            yield {
                "name": "train",
                "id": dispatch.train_id(found.name, site, record.sequence),
                "args": [],
                "kwargs": {"experiment": found.name, "order": f"{site}/{record.sequence}"},
                "acknowledged": True,
                "worker_pid": None,
            }


def _worker(queue: str, tasks: list[str]) -> dict[str, Any]:
    return {
        "active_queues": [
            {
                **dict.fromkeys(("exclusive", "auto_delete"), False),
                **dict.fromkeys(("alias", "queue_arguments", "binding_arguments", "no_ack"), None),
                "name": queue,
                "exchange": {"name": ""},
                "durable": True,
                "routing_key": queue,
            }
        ],
        "registered": tasks,
        "stats": {"pool": {}, "broker": {}, "total": {}, "rusage": {}},
        "conf": {},
        **{what: [] for what in ("active", "scheduled", "reserved", "revoked")},
    }


def login() -> str:
    """Flower's login, <user>:<password>.

    Raises:
        SettingsError: there is none; Flower is never open.
    """
    path = environment.login_file()
    if path is None:
        raise SettingsError("expected FEDELTA_LOGIN_FILE to name a file with <user>:<password>")
    found = connection.read_text(path).strip()
    user, _, password = found.partition(":")
    if not user or len(password) < MIN_PASSWORD:
        raise SettingsError(
            f"{path}: expected <user>:<password>, with at least {MIN_PASSWORD} characters of password"
        )
    return found


def _end(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)


def serve(address: str, port: int) -> None:
    """Serve Flower's pages at this address, behind the login, until the process is ended."""
    options.basic_auth = [login()]
    options.read_only = True
    options.address, options.port = address, port
    app.control = NoControl(app)
    signal.signal(signal.SIGTERM, _end)
    hearing = Hearing(
        app,
        ioloop.IOLoop.current(),
        enable_events=False,  # nobody could be asked to send any
        max_workers_in_memory=MAX_WORKERS,
        max_tasks_in_memory=MAX_TASKS,
    )
    dashboard = Dashboard(capp=app, options=options, events=hearing, **settings)
    dashboard.start_http_server()
    dashboard.start()


if __name__ == "__main__":
    chosen_address, _, chosen_port = sys.argv[1].rpartition(":")
    serve(chosen_address, int(chosen_port))
