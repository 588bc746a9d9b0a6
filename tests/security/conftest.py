"""A Redis 7 as the centre runs it: our ACL file, no default user, and a user for the tests' own eyes."""

import os
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import redis

from orchestrator import access, children
from tasks.app import use_broker
from tasks.dispatch import follow
from tasks.ledger import Ledger
from tasks.state import State
from tests.conftest import make_spec, zeros
from tests.machine import free_port, is_listening, redis_7, wait_until

DEADLINE = 60.0  # seconds
SITES = ("a", "ab", "b")  # one name is how another begins
USERS = (access.ADMIN, access.COORDINATOR, access.OPERATOR, access.FLOWER, *map(access.site_user, SITES))
TESTER = "tester"  # may do everything: it is no user of ours


@dataclass
class GuardedRedis:
    """A server on a loopback port, and its users' passwords."""

    folder: Path
    port: int
    passwords: dict[str, str] = field(default_factory=lambda: {user: secrets.token_hex(32) for user in USERS})
    clients: dict[str, redis.Redis] = field(default_factory=dict)

    def start(self) -> subprocess.Popen[bytes]:
        """Start it, and wait until it answers."""
        acl = access.acl_file({user: access.hashed(password) for user, password in self.passwords.items()})
        self.passwords[TESTER] = secrets.token_hex(32)
        acl += f"user {TESTER} on #{access.hashed(self.passwords[TESTER])} +@all ~* &*\n"
        (self.folder / "users.acl").write_text(acl)
        settings = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "aclfile": str(self.folder / "users.acl"),
            "dir": str(self.folder),
            "appendonly": "yes",
            "save": "",
            "maxmemory-policy": "noeviction",
            "acllog-max-len": "10000",
            # What Redis itself would refuse by default is to be refused by our rules.
            "enable-debug-command": "yes",
            "enable-module-command": "yes",
        }
        arguments = [part for name, value in settings.items() for part in (f"--{name}", value)]
        log = self.folder / "log"
        process = children.start([redis_7(), *arguments], log)
        wait_until(lambda: is_listening(self.port) or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        return process

    def url(self, user: str) -> str:
        """As that user reaches it."""
        return f"redis://{user}:{self.passwords[user]}@127.0.0.1:{self.port}/0"

    def connect(self, user: str) -> redis.Redis:
        """A client of that user's, the same every time."""
        if user not in self.clients:
            self.clients[user] = redis.Redis.from_url(self.url(user))
        return self.clients[user]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedRedis]:
    found = GuardedRedis(folder=tmp_path_factory.mktemp("guarded"), port=free_port())
    process = found.start()
    yield found
    for client in found.clients.values():
        client.close()
    children.end([process], grace_seconds=5.0)


@pytest.fixture
def guarded(server: GuardedRedis) -> GuardedRedis:
    """The server, empty, with nothing in its ACL LOG."""
    tester = server.connect(TESTER)
    tester.flushall()
    tester.acl_log_reset()
    return server


@pytest.fixture
def coordinator(guarded: GuardedRedis) -> Iterator[redis.Redis]:
    """The coordinator's client; what is called here acts as the coordinator."""
    with acting_as(guarded, access.COORDINATOR) as client:
        yield client


@contextmanager
def acting_as(guarded: GuardedRedis, user: str) -> Iterator[redis.Redis]:
    """What is called in the block acts as that user; the user's client."""
    names = ("FEDELTA_BROKER_URL", "FEDELTA_LEDGER_URL", "FEDELTA_CONNECTION")
    before = {name: os.environ[name] for name in names if name in os.environ}
    use_broker(guarded.url(user))
    yield guarded.connect(user)
    for name in names:
        os.environ.pop(name, None)
    os.environ.update(before)


@pytest.fixture
def trial(guarded: GuardedRedis, coordinator: redis.Redis) -> GuardedRedis:
    """The server with "trial" running for all three sites."""
    new = begin(guarded)
    follow("trial", None, new)
    return guarded


def begin(guarded: GuardedRedis, name: str = "trial", **changes: object) -> State:
    """Submit an experiment for all three sites as the operator does, without its messages."""
    spec = make_spec(**{"name": name, "sites": list(SITES), **changes})
    new = Ledger(guarded.connect(access.OPERATOR)).create(name, spec, zeros())
    assert new is not None, f"there is a {name!r} already"
    return new
