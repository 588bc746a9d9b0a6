"""A centre as it is without containers: its folder, its Redis 7 over TLS on a free port, its hospitals."""

import os
import secrets
import subprocess
import sys
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import redis

from orchestrator import centre, children
from orchestrator.centre import Centre
from tasks import connection
from tasks.app import connect_by
from tests.machine import free_port, is_listening, redis_7, wait_until

PROGRAM = Path(sys.executable).with_name("fedelta")


@dataclass
class RunningCentre:
    """A centre and its Redis."""

    centre: Centre
    port: int
    log: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """The centre's."""
        return self.centre.folder

    @property
    def conf(self) -> Path:
        """Its Redis's settings."""
        return self.folder / "redis" / "redis.conf"

    def start(self) -> None:
        """Start its Redis, and wait until it answers the admin."""
        process = children.start([redis_7(), str(self.conf)], self.log)
        self.processes.append(process)
        wait_until(lambda: is_listening(self.port) or process.poll() is not None)
        if process.poll() is not None:
            pytest.fail(f"the centre's Redis, which needs TLS, does not start: {self.log.read_text()}")

    def stop(self) -> None:
        """End its Redis."""
        children.end(self.processes, grace_seconds=5.0)
        self.processes.clear()

    def file(self, role: str) -> Path:
        """The connection's file of one of the centre's own, or of a site that was unpacked."""
        if role == "admin":
            return self.centre.authority / "connection.toml"
        own = self.folder / role / "connection.toml"
        return own if own.exists() else self.unpacked(role) / "site.toml"

    def connect(self, role: str) -> redis.Redis:
        """A client of its own of that user's."""
        return connect_by(connection.read(self.file(role)))

    def unpacked(self, site: str) -> Path:
        """The folder of a hospital, from its bundle if it is not unpacked yet."""
        folder = self.folder.parent / "hospitals" / site
        if not folder.exists():
            with tarfile.open(self.centre.bundle(site)) as archive:
                archive.extractall(folder.parent, filter="tar")
        return folder

    def secrets(self) -> list[str]:
        """Every secret there is in the centre's folder and its hospitals'."""
        found = []
        for path in (*self.folder.rglob("*"), *self.folder.parent.glob("hospitals/*/*")):
            if path.name in ("password", "login"):
                found.append(path.read_text().strip().removeprefix("fedelta:"))
            elif path.suffix == ".key":
                found.extend(path.read_text().splitlines()[1:-1])
        assert len(found) >= 10
        return found


def make(folder: Path) -> RunningCentre:
    """A centre whose Redis does not run yet."""
    port = free_port()
    made = centre.create(folder / "centre", host="localhost", port=port, uses_docker=False)
    return RunningCentre(centre=made, port=port, log=folder / "redis.log")


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `fedelta` with no other FEDELTA_ variables than these."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FEDELTA_")}
    return subprocess.run(
        [PROGRAM, *map(str, arguments)],
        env={**kept, "NO_COLOR": "1", "COLUMNS": "100", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


def a_name() -> str:
    """A site's name that nobody had before."""
    return f"site-{secrets.token_hex(4)}"
