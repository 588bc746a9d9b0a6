"""What tests ask of the machine that they run on: a port, a Redis 7, and that something comes to hold."""

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable

import pytest


def wait_until(
    holds: Callable[[], object],
    what: str = "what the test waits for",
    *,
    seconds: float = 90.0,
    pause: float = 0.01,
) -> None:
    """Wait for a condition, with a deadline."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(pause)


def free_port() -> int:
    """A loopback port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def is_listening(port: int) -> bool:
    """Whether somebody does."""
    with socket.socket() as found:
        return found.connect_ex(("127.0.0.1", port)) == 0


def redis_7() -> str:
    """Path of a Redis 7 or newer; its absence fails the tests, which prove nothing without."""
    found = []
    for folder in (*os.environ.get("PATH", "").split(os.pathsep), "/usr/bin", "/usr/local/bin"):
        program = shutil.which("redis-server", path=folder or os.curdir)
        if program is None:
            continue
        said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
        version = re.search(r"v=(\d+)", said)
        if version is not None and int(version[1]) >= 7:
            return program
        found.append(f"{program}: {said.strip()}")
    pytest.fail(f"a centre is tested with Redis 7 or newer, with TLS; there is {found or 'none'}")
