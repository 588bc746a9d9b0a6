"""The demo of docker/compose.yaml, for real: built, brought up, and taken down with all that it left.

Needs a Docker engine (`../shared/bin/docker-engine up` gives one here), compose, and chromium.
"""

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.machine import free_port
from tests.machine import wait_until as wait

DEADLINE = 180  # seconds, for anything
HOSPITALS = ("lakeside", "northgate", "riverside", "southpark")


def command(*arguments: object, **options: object) -> str:
    """The command's output; fails the test with what it said if it fails."""
    done = subprocess.run(
        list(map(str, arguments)), capture_output=True, text=True, check=False, timeout=1200, **options
    )
    if done.returncode:
        said = f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        pytest.fail(f"{shlex.join(map(str, arguments))}: exit code {done.returncode}\n{said}")
    return done.stdout


def wait_until(holds: Callable[[], object], what: str) -> None:
    """Wait for what is asked by starting containers."""
    wait(holds, what, seconds=DEADLINE, pause=0.5)


class Demo:
    """The demo under a project name and on ports of its own."""

    def __init__(self, experiments: Path) -> None:
        self.experiments = experiments
        self.project = f"fedelta-test-{os.getpid()}"
        self.image = f"fedelta:{self.project}"
        self.flower_port = free_port()
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("FEDELTA_")},
            "COMPOSE_PROJECT_NAME": self.project,
            "FEDELTA_IMAGE": self.image,
            "FEDELTA_PORT": str(free_port()),
            "FEDELTA_FLOWER_PORT": str(self.flower_port),
            "FEDELTA_EXPERIMENTS": str(experiments),
        }

    def compose(self, *arguments: object, folder: Path = REPOSITORY / "docker") -> str:
        program = shlex.split(os.environ.get("COMPOSE", "docker-compose"))
        return command(*program, *arguments, cwd=folder, env=self.environment)

    def fedelta(self, *arguments: object) -> str:
        """The command line at the centre, as a user calls it."""
        return self.compose("run", "--rm", "-T", "orchestrator", *arguments)

    def containers(self) -> dict[str, dict]:
        """By service, what the engine says of its container."""
        label = f"label=com.docker.compose.project={self.project}"
        ids = command("docker", "ps", "--all", "--quiet", "--filter", label).split()
        found = json.loads(command("docker", "inspect", *ids)) if ids else []
        return {entry["Config"]["Labels"]["com.docker.compose.service"]: entry for entry in found}

    def health(self, service: str) -> str:
        return self.containers()[service]["State"].get("Health", {}).get("Status", "none")

    def container(self, service: str) -> str:
        return self.containers()[service]["Id"]

    def execute(self, service: str, *arguments: str) -> str:
        return command("docker", "exec", self.container(service), *arguments)

    def read(self, name: str) -> str:
        """A file of the volume of results."""
        mount = f"{self.project}_centre-runs:/runs:ro"
        return command(
            "docker", "run", "--rm", "-v", mount, "--entrypoint", "cat", self.image, f"/runs/{name}"
        )

    def metrics(self, service: str, port: int) -> str:
        ask = (
            f"import urllib.request as r; print(r.urlopen('http://127.0.0.1:{port}/metrics').read().decode())"
        )
        return self.execute(service, "python3", "-c", ask)

    def status(self, name: str) -> dict:
        return json.loads(self.fedelta("status", name, "--json"))

    def login(self) -> str:
        return self.execute("flower", "cat", "/run/fedelta/login").strip()

    def browse(self, page: str, screenshot: Path | None = None) -> str:
        """The text of a page of Flower as a real browser shows it after the login."""
        address = f"http://{self.login()}@127.0.0.1:{self.flower_port}{page}"
        browser = shutil.which("chromium") or shutil.which("google-chrome")
        if browser is None:
            pytest.fail("there is no browser: apt-get install chromium")
        what = ["--dump-dom"] if screenshot is None else [f"--screenshot={screenshot}"]
        options = "--headless --no-sandbox --disable-gpu --window-size=1400,760 --virtual-time-budget=5000"
        page = command(browser, *options.split(), *what, address).replace("</span><span", "<span")
        return re.sub(r"<[^>]*>", " ", re.sub(r"<span[^>]*>", "", page))


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    if subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
        pytest.fail("no Docker engine answers; here `../shared/bin/docker-engine up` starts one")
    experiments = tmp_path_factory.mktemp("experiments")
    experiments.chmod(0o755)  # the containers' user reads it
    demo = Demo(experiments)
    command("docker", "build", "--quiet", "-f", "docker/Dockerfile", "-t", demo.image, ".", cwd=REPOSITORY)
    try:
        demo.compose("--profile", "demo", "up", "-d")
        yield demo
    finally:
        if os.environ.get("FEDELTA_KEEP_LOGS"):
            with contextlib.suppress(OSError):
                Path(os.environ["FEDELTA_KEEP_LOGS"]).write_text(demo.compose("--profile", "demo", "logs"))
        demo.compose("--profile", "demo", "down", "--volumes", "--remove-orphans")
        command("docker", "rmi", "--force", demo.image)
