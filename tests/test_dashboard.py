import base64
import itertools
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from flower.events import EventsState

from orchestrator import centre
from tasks import dashboard, dispatch, keys, messages
from tasks.app import COORDINATOR_QUEUE, site_queue
from tasks.bell import Call, ring
from tasks.ledger import Ledger
from tasks.presence import SOFTWARE
from tasks.site_ledger import SiteLedger
from tasks.work import Work
from tests.centres import RunningCentre, make
from tests.conftest import make_spec, zeros
from tests.machine import free_port, wait_until
from workers.errors import SettingsError

COORDINATOR = "coordinator@centre"
PAGES = {
    "/": "east",
    "/tasks": "Tasks",
    "/broker": site_queue("east"),
    "/worker/east": "east",
    f"/worker/{COORDINATOR}": COORDINATOR,
    "/api/workers": "east",
    "/api/tasks": "{",
    "/api/queues/length": site_queue("west"),
}
CONTROL = (
    *("/api/worker/shutdown/east", "/api/worker/pool/restart/east", "/api/worker/pool/grow/east?n=3"),
    *("/api/worker/pool/shrink/east", "/api/worker/pool/autoscale/east?min=3&max=10"),
    *("/api/worker/queue/add-consumer/east?queue=coordinator",),
    "/api/worker/queue/cancel-consumer/east?queue=site.east",
    *(
        "/api/task/revoke/east.1.trial?terminate=true",
        "/api/task/rate-limit/train?workername=east&ratelimit=1",
    ),
    *("/api/task/timeout/train?workername=east&hard=1", "/api/task/apply/supervise"),
    *("/api/task/async-apply/supervise", "/api/task/send-task/supervise", "/api/task/abort/east.1.trial"),
)


# --- events ----------------------------------------------------------------------------------------------


@pytest.fixture
def state():
    """Flower's own understanding of events."""
    return EventsState(max_tasks_in_memory=100)


def feed(state, events):
    for event in events:
        state.event(event)


def call(kind, **facts):
    return Call(kind=kind, experiment="trial", number=3, **facts)


def test_a_site_is_online_from_its_first_call_to_its_last(state):
    feed(state, dashboard.events_of_site("east", Call(kind="started", holder="00")))
    assert state.workers["east"].alive
    feed(state, dashboard.events_of_site("east", Call(kind="here")))
    assert state.workers["east"].alive
    feed(state, dashboard.events_of_site("east", Call(kind="gone")))
    assert not state.workers["east"].alive


def test_training_is_a_task_that_is_started_and_succeeds(state):
    feed(state, dashboard.events_of_site("east", call("taken")))
    task = state.tasks[dispatch.train_id("trial", "east", 3)]
    assert (task.state, task.name, task.worker.hostname) == ("STARTED", "train", "east")
    assert task.kwargs == "experiment=trial, order=east/3"
    feed(state, dashboard.events_of_site("east", call("submitted", seconds=1.5)))
    assert (task.state, task.runtime) == ("SUCCESS", 1.5)


def test_training_that_failed_says_where_to_look_and_nothing_of_what_the_site_said(state):
    feed(state, dashboard.events_of_site("east", call("taken")))
    feed(state, dashboard.events_of_site("east", call("submitted", has_failed=True)))
    task = state.tasks[dispatch.train_id("trial", "east", 3)]
    assert task.state == "FAILURE"
    assert task.exception == "the site could not train; the experiment's events say why"


def test_scoring_is_a_task_that_has_succeeded(state):
    feed(state, dashboard.events_of_site("east", call("scored", seconds=0.5)))
    task = state.tasks[dispatch.evaluate_id("trial", "east", 3)]
    assert (task.state, task.name, task.runtime) == ("SUCCESS", "evaluate", 0.5)
    assert task.kwargs == "experiment=trial, site=east, version=3"


def test_what_the_coordinator_does_is_its_tasks_and_its_ticks_are_its_heartbeat(state):
    feed(state, dashboard.events_of_coordinator(Work(worker=COORDINATOR, task="supervise", id="1")))
    assert state.workers[COORDINATOR].alive
    assert not state.tasks
    done = Work(worker=COORDINATOR, task="aggregate", id="2", about="trial", seconds=0.1)
    feed(state, dashboard.events_of_coordinator(done))
    task = state.tasks["2"]
    assert (task.state, task.name, task.kwargs) == ("SUCCESS", "aggregate", "experiment=trial")
    feed(state, dashboard.events_of_coordinator(Work(worker=COORDINATOR, task="welcome", id="3", about="a")))
    assert state.tasks["3"].kwargs == "site=a"


def test_every_kind_of_call_is_understood_in_every_order(state):
    kinds = ("started", "here", "taken", "submitted", "scored", "gone")
    for order in itertools.permutations(kinds, 3):
        for kind in order:
            feed(state, dashboard.events_of_site("east", call(kind)))
    assert {task.state for task in state.tasks.values()} <= {"STARTED", "SUCCESS"}


# --- the login -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "anna", "anna:", "anna:elevenchars", ":long enough, but nobody's"])
def test_a_login_that_is_none_is_refused_without_being_shown(tmp_path, monkeypatch, text):
    (tmp_path / "login").write_text(text)
    monkeypatch.setenv("FEDELTA_LOGIN_FILE", str(tmp_path / "login"))
    with pytest.raises(SettingsError) as raised:
        dashboard.login()
    assert str(raised.value) == (
        f"{tmp_path / 'login'}: expected <user>:<password>, with at least 12 characters of password"
    )


def flower(file, login, log):
    """A real Flower on a free port, and its address."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FEDELTA_")}
    port = free_port()
    environment = {
        **kept,
        "FEDELTA_CONNECTION": str(file),
        **({"FEDELTA_LOGIN_FILE": str(login)} if login else {}),
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator", "flower", "--port", str(port)],
            **{"env": environment, "stdin": subprocess.DEVNULL, "stdout": output, "stderr": output},
        )
    return process, f"http://127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("login", "said"),
    [
        (None, "expected FEDELTA_LOGIN_FILE to name a file with <user>:<password>"),
        ("anna:s3cr3t", "expected <user>:<password>, with at least 12 characters of password"),
    ],
)
def test_flower_does_not_start_without_a_login_and_says_why(tls_centre, tmp_path, login, said):
    if login:
        (tmp_path / "login").write_text(login)
    process, _ = flower(tls_centre.file("flower"), tmp_path / "login" if login else None, tmp_path / "log")
    assert process.wait(60) != 0
    assert said in (tmp_path / "log").read_text()
    assert "s3cr3t" not in (tmp_path / "log").read_text()


# --- pages -----------------------------------------------------------------------------------------------


class Shown:
    """A centre with an experiment in it, and its Flower."""

    def __init__(self, running: RunningCentre, folder: Path) -> None:
        for site in ("east", "west"):
            centre.add_site(running.centre, site)
        self.running, self.login = running, (running.folder / "flower" / "login").read_text().strip()
        self.operator, self.east = running.connect("operator"), running.connect("east")
        self.coordinator = running.connect("coordinator")
        assert Ledger(self.operator).create("trial", make_spec(sites=["east", "west"]), zeros())
        self.coordinator.set(keys.COORDINATOR, COORDINATOR, ex=1000)
        self.log = folder / "flower.log"
        self.process, self.url = flower(running.file("flower"), running.folder / "flower" / "login", self.log)
        wait_until(lambda: self.process.poll() is not None or self.ask("/healthcheck", None)[0] == 200)
        assert self.process.poll() is None, self.log.read_text()
        wait_until(lambda: self.announce() or "east" in self.ask("/", self.login)[1])

    def announce(self):
        """Let the site call out that it is there, as it does every few seconds."""
        SiteLedger(self.east).announce(["east"], SOFTWARE, Call(kind="here"))

    def ask(self, page, login, method="GET", data=None):
        """The status of a page, and what is on it."""
        asked = urllib.request.Request(self.url + page, method=method, data=data)
        if login:
            asked.add_header("Authorization", "Basic " + base64.b64encode(login.encode()).decode())
        try:
            with urllib.request.urlopen(asked, timeout=20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flower")
    running = make(folder)
    running.start()
    found = Shown(running, folder)
    yield found
    found.process.terminate()
    found.process.wait(20)
    running.stop()


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_shown_to_who_has_the_login_and_to_nobody_else(shown, page):
    status, text = shown.ask(page, shown.login)
    assert status == 200, text
    assert PAGES[page] in text
    user = shown.login.partition(":")[0]
    for login in (
        None,
        f"{user}:",
        f"{user}:wrong-password-1",
        "fedelta2:x",
        shown.login[:-1],
        f"{shown.login}x",
    ):
        status, text = shown.ask(page, login)
        assert status == 401
        assert "trial" not in text and "east" not in text


def test_health_and_metrics_are_shown_to_all_and_hold_no_secret(shown):
    assert shown.ask("/healthcheck", None) == (200, "OK")
    status, text = shown.ask("/metrics", None)
    assert status == 200
    assert "flower_events_total" in text
    assert [secret for secret in shown.running.secrets() if secret in text] == []


def test_what_a_site_calls_out_is_on_the_tasks_page(shown):
    def names():
        return json.loads(shown.ask("/api/tasks", shown.login)[1])

    def call_out():
        with shown.east.pipeline(transaction=False) as pipe:
            ring(pipe, "east", Call(kind="taken", experiment="trial", number=1))
            pipe.execute()
        work = Work(worker=COORDINATOR, task="aggregate", id="an-aggregate", about="trial")
        shown.coordinator.publish(keys.WORK, messages.encode(work))
        return {"east.1.trial", "an-aggregate"} <= names().keys()

    wait_until(call_out)
    assert (names()["east.1.trial"]["name"], names()["east.1.trial"]["worker"]) == ("train", "east")
    assert shown.ask("/task/east.1.trial", shown.login)[0] == 200
    assert shown.ask("/task/east.1.trial", None)[0] == 401


def test_what_is_no_call_is_passed_over_and_the_next_one_heard(shown):
    def call_out():
        shown.east.publish(keys.bell("east"), b"\xc1no call")
        with shown.east.pipeline(transaction=False) as pipe:
            ring(pipe, "east", Call(kind="scored", experiment="trial", number=7))
            pipe.execute()
        return "east.v7.trial" in shown.ask("/api/tasks", shown.login)[1]

    wait_until(call_out)
    assert "no call" not in shown.ask("/", shown.login)[1]


def test_the_workers_are_those_that_the_ledger_knows(shown):
    found = json.loads(shown.ask("/api/workers", shown.login)[1])
    assert found.keys() == {COORDINATOR, "east", "west"}
    assert [queue["name"] for queue in found["east"]["active_queues"]] == [site_queue("east")]
    assert found["east"]["registered"] == ["train", "evaluate"]


def test_the_queues_are_counted(shown):
    shown.operator.lpush(site_queue("west"), b"a message")
    found = json.loads(shown.ask("/api/queues/length", shown.login)[1])["active_queues"]
    assert {"name": site_queue("west"), "messages": 1} in found


@pytest.mark.parametrize("call", CONTROL, ids=lambda call: call.partition("?")[0])
def test_no_control_reaches_anybody(shown, call):
    queues = [COORDINATOR_QUEUE, site_queue("east"), site_queue("west")]
    before = [shown.operator.llen(queue) for queue in queues]
    assert shown.ask(call, None, "POST", b"{}")[0] == 401
    status, text = shown.ask(call, shown.login, "POST", b"{}")
    assert status == 403, text
    assert [shown.operator.llen(queue) for queue in queues] == before


def test_control_itself_sends_nothing(shown):
    assert dashboard.NoControl(dashboard.app).broadcast("shutdown", destination=["east"]) == []
    assert dashboard.NoControl(dashboard.app).pool_grow(3, destination=["east"], reply=True) == []


def test_no_secret_is_in_flowers_arguments_variables_log_or_pages(shown):
    said = [Path(f"/proc/{shown.process.pid}/{name}").read_text() for name in ("cmdline", "environ")]
    said += [shown.log.read_text(), *(shown.ask(page, shown.login)[1] for page in PAGES)]
    text = "\n".join(said)
    assert [secret for secret in shown.running.secrets() if secret in text] == []
    password = (shown.running.folder / "flower" / "password").read_text().strip()
    assert password not in text
