"""The whole deployment in containers, in the order in which a user meets it."""

import base64
import csv
import functools
import io
import itertools
import json
import os
import re
import shlex
import sys
import urllib.error
import urllib.request

import pytest

from tests.compose.conftest import HOSPITALS, Demo, command, wait_until
from tests.conftest import REPOSITORY
from tests.machine import free_port

LONG = """
name = "long"
sites = ["lakeside", "northgate", "riverside", "southpark"]
[data]
dataset = "breast-cancer"
partition = { kind = "dirichlet", alpha = 1.0, min_examples = 40 }
[model]
kind = "logistic-regression"
[training]
epochs = 1
[strategy]
kind = "fedasync"
[evaluation]
every = 50
[stop]
updates = 5000
[seconds_per_order]
default = 0.2
"""
MONITORING = REPOSITORY / "docker" / "monitoring"
LIVING = ("redis", "coordinator", "beat", "flower", *HOSPITALS)


def test_everything_comes_up_healthy(demo: Demo):
    wait_until(lambda: all(demo.health(service) == "healthy" for service in LIVING), "health of all services")


def test_no_container_has_more_rights_or_open_ports_than_it_needs(demo: Demo):
    for service, found in demo.containers().items():
        host = found["HostConfig"]
        assert found["Config"]["User"] == "10001:10001", service
        assert host["CapDrop"] == ["ALL"] and "no-new-privileges:true" in host["SecurityOpt"], service
        assert host["ReadonlyRootfs"] or service == "setup", service
        assert host["Memory"] > 0, service
        for bindings in (host["PortBindings"] or {}).values():
            assert [binding["HostIp"] for binding in bindings] == ["127.0.0.1"], service
    published = {name for name, found in demo.containers().items() if found["HostConfig"]["PortBindings"]}
    assert published == {"redis", "flower"}


def test_the_image_has_no_compiler_no_cache_no_secret_and_no_root(demo: Demo):
    look = (
        "id -u; command -v gcc cc make pip; find /centre /demo /site /study -name '*.key'; ls -A /root/.cache"
    )
    found = command(
        "docker", "run", "--rm", "--entrypoint", "sh", demo.image, "-c", f"({look}) 2>/dev/null; true"
    )
    assert found.split() == ["10001"]
    (image,) = json.loads(command("docker", "image", "inspect", demo.image))
    assert image["Size"] < 1.3e9  # jaxlib is 0.35 of it, polars (for Parquet) 0.17


def test_four_hospitals_train_and_the_results_are_in_the_volume(demo: Demo):
    summary = json.loads(demo.fedelta("run", "examples/breast-cancer.toml", "--json"))
    assert (summary["outcome"], summary["applied"], summary["refused"]) == ("completed", 200, 0)
    assert summary["metrics"]["global"]["auroc"] >= 0.98
    assert set(summary["sites"]) == set(HOSPITALS)
    assert json.loads(demo.read("breast-cancer/summary.json")) == summary
    assert "<html" in demo.read("breast-cancer/report.html")


def test_flower_asks_for_a_login_and_shows_the_four_workers_their_queues_and_tasks(demo: Demo, tmp_path):
    for page, login in (("/", None), ("/api/workers", None), ("/", "fedelta:wrong-password")):
        request = urllib.request.Request(f"http://127.0.0.1:{demo.flower_port}{page}")
        if login:
            request.add_header("Authorization", f"Basic {base64.b64encode(login.encode()).decode()}")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(request)
    workers = demo.browse("/")
    for name in (*HOSPITALS, "coordinator"):
        assert name in workers
    queues = demo.browse("/broker").split()
    assert {"coordinator", *(f"site.{hospital}" for hospital in HOSPITALS)} <= set(queues)
    tasks = demo.browse("/tasks")
    assert "v200.breast-cancer" in tasks and "SUCCESS" in tasks
    task = demo.browse("/task/lakeside.1.breast-cancer")
    assert "experiment=breast-cancer, order=lakeside/1" in task
    assert "site.lakeside" in demo.browse("/worker/lakeside")
    picture = tmp_path / "flower.png"
    demo.browse("/", screenshot=picture)
    assert picture.stat().st_size > 20_000


def test_the_monitoring_profile_is_sound_and_bound_to_loopback(demo: Demo, tmp_path):
    command("promtool", "check", "config", MONITORING / "prometheus.yml")
    queries = [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]
    queries = [query.replace("$__rate_interval", "1m").replace("$experiment", ".*") for query in queries]
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(queries)} rules found" in command("promtool", "check", "rules", tmp_path / "rules.yml")
    shown = demo.compose("--profile", "monitoring", "config")
    for port in ("127.0.0.1:9090:9090/tcp", "127.0.0.1:3000:3000/tcp"):
        assert port in shown
    for name in re.findall(r"monitoring/([\w.-]+):/", shown):
        assert (MONITORING / name).is_file()


def dashboard() -> dict:
    return json.loads((MONITORING / "fedelta-dashboard.json").read_text())


def test_every_metric_of_the_grafana_dashboard_is_there_to_be_scraped(demo: Demo):
    scraped = demo.metrics("coordinator", 9540) + demo.metrics("flower", 5555)
    assert 'fedelta_updates_total{experiment="breast-cancer",site="lakeside"}' in scraped
    assert 'flower_worker_online{worker="lakeside"} 1.0' in scraped
    for panel in dashboard()["panels"]:
        for target in panel["targets"]:
            names = re.findall(r"\b(?:fedelta|flower)_\w+", target["expr"])
            assert names and all(f"\n{name}{{" in scraped for name in names), target["expr"]


def test_a_hospital_and_redis_that_are_stopped_and_started_again_lose_and_double_nothing(demo: Demo):
    (demo.experiments / "long.toml").write_text(LONG)
    demo.fedelta("submit", "experiments/long.toml")

    def updates_of(site: str) -> int:
        return demo.status("long")["sites"][site]["updates"]

    wait_until(lambda: demo.status("long")["applied"] > 20, "some updates")
    demo.compose("stop", "lakeside")
    reached = demo.status("long")["applied"]
    wait_until(lambda: demo.status("long")["applied"] > reached + 20, "updates without lakeside")
    command("docker", "kill", "--signal", "KILL", demo.container("redis"))
    demo.compose("--profile", "demo", "up", "-d", "redis")
    wait_until(lambda: demo.health("redis") == "healthy", "Redis again")
    reached = demo.status("long")["applied"]
    wait_until(lambda: demo.status("long")["applied"] > reached + 5, "updates after Redis")
    demo.compose("--profile", "demo", "start", "lakeside")
    before = updates_of("lakeside")
    wait_until(lambda: updates_of("lakeside") > before + 5, "updates of lakeside again")
    demo.fedelta("stop", "long")
    summary = json.loads(demo.read("long/summary.json"))
    assert (summary["outcome"], summary["refused"]) == ("stopped", 0)
    rows = list(csv.DictReader(io.StringIO(demo.read("long/history.csv"))))
    assert [int(row["version"]) for row in rows] == list(range(1, summary["applied"] + 1))
    orders = {(row["site"], row["order"]) for row in rows}
    assert len(orders) == len(rows)
    seconds = [float(row["seconds"]) for row in rows if row["site"] == "lakeside"]
    assert max(later - earlier for earlier, later in itertools.pairwise(seconds)) > 4  # it was away


def test_a_hospitals_bundle_is_all_that_it_needs(demo: Demo, tmp_path):
    demo.compose("run", "--rm", "-T", "admin", "add-site", "newcomer")
    volume = f"{demo.project}_centre-sites:/sites:ro"
    show = ("docker", "run", "--rm", "-v", volume, "--entrypoint", "base64", demo.image)
    (tmp_path / "newcomer.tar.gz").write_bytes(base64.b64decode(command(*show, "/sites/newcomer.tar.gz")))
    command("tar", "-xzf", "newcomer.tar.gz", cwd=tmp_path)
    folder = tmp_path / "newcomer"
    command("chown", "-R", "1234:1234", folder)  # as if a user of that number had unpacked it
    with (folder / ".env").open("a") as file:
        file.write(f"FEDELTA_USER={folder.stat().st_uid}:{folder.stat().st_gid}\n")
    network = f"{demo.project}_hospitals"
    override = {"networks": {"default": {"external": {"name": network}}}, "services": {"worker": {}}}
    (folder / "here.yaml").write_text(json.dumps(override))
    files = ("-f", "compose.yaml", "-f", "here.yaml", "-p", f"{demo.project}-newcomer")
    try:
        doctor = ("run", "--rm", "-T", "worker", "doctor", "--site", "/site/site.toml", "--json")
        findings = json.loads(demo.compose(*files, *doctor, folder=folder))
        assert findings and not [found for found in findings if found["mark"] == "unsafe"]
        demo.compose(*files, "up", "-d", folder=folder)
        wait_until(lambda: "newcomer" in demo.browse("/"), "the newcomer in Flower")
    finally:
        demo.compose(*files, "down", "--volumes", folder=folder)


def test_the_doctor_finds_nothing_unsafe_at_the_centre(demo: Demo):
    findings = json.loads(demo.compose("run", "--rm", "-T", "admin", "doctor", "--centre", ".", "--json"))
    assert len(findings) > 20
    assert {found["mark"] for found in findings} <= {"ok", "warning"}


def test_a_centre_of_ones_own_starts_from_its_folder(demo: Demo, tmp_path):
    folder, port = tmp_path / "centre", free_port()
    fedelta = (sys.executable, "-m", "orchestrator")
    command(*fedelta, "init-centre", folder, "--host", "localhost", "--port", port, cwd=REPOSITORY)
    command("chown", "-R", "1234:1234", folder)  # as if a user of that number had made it
    own = {"COMPOSE_PROJECT_NAME": f"{demo.project}-own", "FEDELTA_IMAGE": demo.image}
    own |= {"FEDELTA_USER": "1234:1234"}
    own |= {"FEDELTA_PORT": str(port), "FEDELTA_FLOWER_PORT": str(free_port())}
    at_home = {name: value for name, value in demo.environment.items() if not name.startswith("FEDELTA_")}
    program = shlex.split(os.environ.get("COMPOSE", "docker-compose"))
    compose = functools.partial(command, *program, cwd=folder, env={**at_home, **own})
    try:
        compose("up", "-d")
        said = command(*fedelta, "add-site", "east", "--centre", folder, cwd=REPOSITORY)
        assert "did not answer" not in said
        assert (folder / "sites" / "east.tar.gz").exists()
        assert json.loads(compose("run", "--rm", "-T", "orchestrator", "list", "--json")) == []
        (folder / "sites" / "east.tar.gz").unlink()
        findings = json.loads(command(*fedelta, "doctor", "--centre", folder, "--json", cwd=REPOSITORY))
        assert not [found for found in findings if found["mark"] == "unsafe"]
        compose("restart", "redis")  # it reads its append-only file, and the users
        assert json.loads(compose("run", "--rm", "-T", "orchestrator", "list", "--json")) == []
    finally:
        compose("down", "--volumes")


def test_a_site_that_is_removed_is_out_at_once(demo: Demo):
    said = demo.compose("run", "--rm", "-T", "admin", "remove-site", "southpark")
    assert "let in no more" in said
    wait_until(lambda: "invalid username-password pair" in logs(demo, "southpark"), "southpark is refused")
    wait_until(lambda: demo.health("southpark") == "unhealthy", "southpark's container says that it is ill")


def test_no_secret_is_in_a_log_an_argument_or_a_variable(demo: Demo):
    secrets = {demo.login().split(":")[1]}
    for service in ("coordinator", "flower"):
        secrets.add(demo.execute(service, "cat", "/run/fedelta/password").strip())
    for hospital in HOSPITALS[:3]:
        secrets.add(demo.execute(hospital, "cat", "/site/password").strip())
    assert len(secrets) == 6 and all(len(secret) > 20 for secret in secrets)
    shown = demo.compose("--profile", "demo", "logs", "--no-color")
    shown += json.dumps(list(demo.containers().values()))
    for service in LIVING:
        shown += command("docker", "top", demo.container(service), "-eo", "pid,args")
    shown += demo.browse("/worker/lakeside") + demo.browse("/broker")
    assert not [secret for secret in secrets if secret in shown]


def test_a_stop_is_graceful(demo: Demo):
    demo.compose("--profile", "demo", "stop")
    codes = {name: found["State"]["ExitCode"] for name, found in demo.containers().items()}
    assert {name: codes[name] for name in LIVING if codes[name]} == {}


def logs(demo: Demo, service: str) -> str:
    return demo.compose("--profile", "demo", "logs", "--no-color", service)
