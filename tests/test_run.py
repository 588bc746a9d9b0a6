"""Whole runs, with real processes: the command line, a host, Redis, a coordinator, a worker."""

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tasks import keys
from tests.conftest import REPOSITORY
from tests.machine import wait_until

FEDELTA = [sys.executable, "-m", "orchestrator"]
DEADLINE = 90  # seconds, for anything

SMALL = """
name = "small"
seed = 3
sites = ["east", "west", "south"]
[data]
dataset = "breast-cancer"
partition = {{ kind = "dirichlet", alpha = 1.0, min_examples = 40 }}
[model]
kind = "logistic-regression"
[training]
epochs = 1
[strategy]
{strategy}
[evaluation]
every = 5
[stop]
updates = {updates}
[seconds_per_order]
default = 0.1
south = 0.4
"""


class Place:
    """A folder with an experiment file, where commands are run; ends what they leave when the test fails."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[subprocess.Popen] = []
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("FEDELTA_")},
            "FEDELTA_RUNS_DIR": str(folder / "runs"),
            "FEDELTA_CACHE_DIR": str(folder.parent / "cache"),
        }

    def write(self, updates=40, strategy='kind = "fedasync"') -> Path:
        path = self.folder / "small.toml"
        path.write_text(SMALL.format(updates=updates, strategy=strategy))
        return path

    def start(self, *arguments) -> subprocess.Popen:
        process = subprocess.Popen(
            # A shell that runs the tests in the background has them, and all that they start, ignore Ctrl-C.
            ["env", "--default-signal=INT", *FEDELTA, *map(str, arguments)],
            env=self.environment,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def end(self) -> None:
        """End what a test that failed has left: the commands, which would revive the host, then the host."""
        for process in self.started:
            if process.poll() is None:
                process.kill()
                process.communicate()
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            os.kill(self.host(), signal.SIGTERM)

    def run(self, *arguments) -> subprocess.CompletedProcess:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=DEADLINE)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def path(self, name) -> Path:
        return self.folder / "runs" / "small" / name

    def host(self) -> int:
        return json.loads(self.path("address.json").read_text())["pid"]

    def applied(self) -> int:
        """Updates so far, as the command line tells a script."""
        shown = self.run("status", "small", "--json")
        return json.loads(shown.stdout)["applied"] if shown.returncode == 0 else 0

    def history(self) -> list[dict[str, str]]:
        with self.path("history.csv").open(newline="") as file:
            return list(csv.DictReader(file))


@pytest.fixture
def place(tmp_path):
    place = Place(tmp_path)
    yield place
    place.end()


def descendants(pid: int) -> dict[int, str]:
    """Command lines of the processes below this one."""
    table = subprocess.run(
        ["ps", "-ww", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split(None, 2) for line in table.splitlines()]
    found, newest = {}, {pid}
    while newest:
        children = {int(row[0]): row[2] for row in rows if int(row[1]) in newest}
        found |= children
        newest = set(children)
    return found


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def check_history(rows, applied):
    """Every update once, versions without a gap, each site's orders in rising order."""
    assert len(rows) == applied
    assert [int(row["version"]) for row in rows] == list(range(1, applied + 1))
    for site in {row["site"] for row in rows}:
        orders = [int(row["order"]) for row in rows if row["site"] == site]
        assert orders == sorted(set(orders))


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The demo, run as `make demo` does."""
    place = Place(tmp_path_factory.mktemp("demo"))
    process = place.start("run", REPOSITORY / "examples" / "breast-cancer.toml")
    seen: dict[int, str] = {}
    while process.poll() is None:
        seen |= {pid: args for pid, args in below_host(place).items() if "report" not in args}
        time.sleep(0.2)
    out, err = process.communicate(timeout=DEADLINE)
    return place.folder / "runs" / "breast-cancer", process.returncode, out, err, seen


def below_host(place):
    try:
        host = json.loads((place.folder / "runs" / "breast-cancer" / "address.json").read_text())["pid"]
    except (FileNotFoundError, ValueError):
        return {}
    return {host: "host", **descendants(host)}


def test_the_demo_trains_across_four_hospitals_on_real_data(demo):
    folder, code, out, err, _ = demo
    assert (code, err) == (0, "")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["metrics"]["global"]["auroc"] >= 0.98
    assert (summary["applied"], summary["versions"], summary["refused"]) == (200, 200, 0)
    assert (summary["strategy"], summary["outcome"]) == ("fedasync", "completed")
    assert set(summary["metrics"]["sites"]) == {"lakeside", "northgate", "riverside", "southpark"}
    assert summary["bytes_up"] > 0 and summary["bytes_down"] > 0
    assert "auroc" in out and "report.html" in out


def test_nobody_waits_for_the_slow_hospital(demo):
    with (demo[0] / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    check_history(rows, 200)
    updates = {site: sum(row["site"] == site for row in rows) for site in {row["site"] for row in rows}}
    slow = updates.pop("southpark")
    assert slow >= 1
    assert min(updates.values()) > 2 * slow
    staleness = {row["site"]: [] for row in rows}
    for row in rows:
        staleness[row["site"]].append(int(row["staleness"]))
    assert max(staleness["southpark"]) > max(staleness["lakeside"])


def test_the_demo_leaves_results_and_no_process_and_no_state(demo):
    folder, *_, seen = demo
    expected = {"summary.json", "history.csv", "evaluations.csv", "events.csv", "model.safetensors"}
    expected |= {"report.html", "timeline.png", "staleness.png", "metric-over-time.png"}
    left = {path.name for path in folder.iterdir()}
    assert expected <= left
    assert not left & {"address.json", "redis"}
    assert 4 == len(seen), seen  # the host, Redis, the coordinator, one worker for all the sites
    assert not [pid for pid in seen if is_alive(pid)]


@pytest.mark.faults
def test_a_worker_and_a_coordinator_that_are_killed_are_replaced_and_the_run_goes_on(place):
    process = place.start("run", place.write(updates=200), "--json")
    for name in ("tasks.site_worker", "tasks.coordinator"):
        before = place.applied() if place.path("address.json").exists() else 0
        wait_until(lambda before=before: place.applied() > before + 5, "some updates")
        (pid,) = [pid for pid, args in descendants(place.host()).items() if name in args]
        os.kill(pid, signal.SIGKILL)
    out, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0
    assert json.loads(out)["applied"] == 200
    check_history(place.history(), 200)


@pytest.mark.faults
def test_a_run_whose_command_line_and_host_are_killed_goes_on_when_it_is_watched(place):
    process = place.start("run", place.write(updates=150))
    wait_until(lambda: place.applied() > 5, "some updates")
    below = descendants(place.host())
    process.kill()
    process.communicate()
    reached = place.applied()
    wait_until(lambda: place.applied() > reached, "updates without the command line")
    os.kill(place.host(), signal.SIGKILL)
    wait_until(lambda: not any(is_alive(pid) for pid in below), "the end of the host's processes")

    watched = place.run("watch", "small", "--json")
    assert watched.returncode == 0, watched.stderr
    assert json.loads(watched.stdout)["applied"] == 150
    check_history(place.history(), 150)


@pytest.mark.faults
def test_a_run_whose_command_line_is_killed_before_it_has_submitted_is_submitted_all_the_same(place):
    process = place.start("run", place.write(updates=20))
    wait_until(lambda: place.path("address.json").exists(), "the host")
    process.kill()  # it still loads the data set, or is about to submit
    process.communicate()
    wait_until(lambda: place.path("report.html").exists(), "the end, with nobody's hand on it")
    summary = json.loads(place.path("summary.json").read_text())
    assert (summary["outcome"], summary["applied"]) == ("completed", 20)
    check_history(place.history(), 20)


@pytest.mark.faults
def test_ctrl_c_stops_a_run_and_resume_goes_on_from_there(place):
    process = place.start("run", place.write(updates=400, strategy='kind = "fedbuff"\nbuffer_size = 1'))
    wait_until(lambda: place.applied() > 5, "some updates")
    below = {place.host(): "", **descendants(place.host())}
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=DEADLINE)
    assert process.returncode == 130
    assert not [pid for pid in below if is_alive(pid)]
    summary = json.loads(place.path("summary.json").read_text())
    assert (summary["outcome"], summary["reason"]) == ("stopped", "stopped by hand")
    assert 5 < summary["applied"] < 400
    check_history(place.history(), summary["applied"])

    resumed = place.run("resume", "small", "--json")
    assert (resumed.returncode, json.loads(resumed.stdout)["applied"]) == (0, 400)
    check_history(place.history(), 400)
    assert place.run("resume", "small").returncode == 4  # complete


@pytest.mark.faults
def test_sites_elsewhere_are_served_through_a_broker_and_lost_and_doubled_messages_do_no_harm(
    place, client, private_redis
):
    place.environment["FEDELTA_BROKER_URL"] = private_redis.broker_url
    submitted = place.run("submit", place.write(updates=120), "--json")
    assert json.loads(submitted.stdout) == {"name": "small"}
    client.delete("site.east")  # its message is lost
    for message in client.lrange("site.west", 0, -1) * 2:
        client.rpush("site.west", message)  # three times the same
    processes = [
        place.start("coordinator"),
        place.start("coordinator"),  # by mistake
        place.start("worker", "--site", "east", "--site", "west"),
        place.start("worker", "--site", "south"),
    ]
    try:
        watched = place.run("watch", "small", "--json")
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.communicate(timeout=DEADLINE)
    assert watched.returncode == 0, watched.stderr
    summary = json.loads(watched.stdout)
    assert (summary["applied"], summary["refused"]) == (120, 0)
    assert summary["sites"]["east"]["updates"] > 0  # it was sent again
    assert summary["resent"] >= 1
    check_history(place.history(), 120)
    assert not client.keys("fedelta:{small}:order:*") + client.keys("fedelta:{small}:delta:*")
    assert client.keys("fedelta:{small}:model:*") == [keys.model("small", 120).encode()]
    assert json.loads(place.run("list", "--json").stdout) == [
        {"name": "small", "state": "completed", "applied": 120}
    ]


def test_a_file_that_cannot_be_run_starts_nothing(place):
    path = place.folder / "wrong.toml"
    path.write_text(place.write().read_text().replace('kind = "fedasync"', 'kind = "fedsync"'))
    done = place.run("run", path)
    assert done.returncode == 2
    assert "strategy.kind: expected one of 'fedasync', 'fedbuff', 'fedavg', got 'fedsync'" in done.stderr
    assert not (place.folder / "runs").exists()


def test_a_partition_that_is_impossible_leaves_no_trace(place):
    path = place.folder / "wrong.toml"
    path.write_text(place.write().read_text().replace("min_examples = 40", "min_examples = 400"))
    done = place.run("run", path)
    assert done.returncode == 2
    assert "no draw of Dir(1) gave each of 3 sites 400 of 569 examples" in done.stderr
    assert list((place.folder / "runs").iterdir()) == []
