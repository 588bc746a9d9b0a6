"""A Redis 7 with its append-only file, that can be killed, lose its last second, and be full."""

from pathlib import Path

import redis

from tests.faults import aof
from tests.faults.parties import Party, clean_environment
from tests.machine import free_port, redis_7, wait_until

SETTINGS = {
    "bind": "127.0.0.1",
    "appendonly": "yes",
    "appendfsync": "everysec",
    "auto-aof-rewrite-percentage": "0",  # the oracle reads all of it
    "save": "",
    "maxmemory-policy": "noeviction",
    "loglevel": "warning",
}


class RedisServer(Party):
    """The server; `client` goes to it straight, past every link."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder, self.port = folder, free_port()
        settings = {**SETTINGS, "port": str(self.port), "dir": str(folder)}
        arguments = [part for name, value in settings.items() for part in (f"--{name}", value)]
        super().__init__("redis", [redis_7(), *arguments], clean_environment(), folder / "log")
        self.client = redis.Redis(port=self.port, socket_timeout=5.0)

    def answers(self) -> bool:
        """Whether it does, and has read its file."""
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False

    def await_answer(self) -> None:
        """Wait until it answers."""
        wait_until(self.answers, "Redis answers", seconds=30.0)

    @property
    def num_bytes(self) -> int:
        """Written so far."""
        return aof.file(self.folder).stat().st_size

    def power_failure(self, lost: int, *, is_repaired: bool = True) -> None:
        """Kill it, with so many bytes gone of what it wrote last; its file is repaired before it is back."""
        process = self.process
        self.is_wanted = False
        self.kill()
        process.wait()
        aof.cut(self.folder, lost)
        if is_repaired:
            aof.repair(self.folder)
        self.is_wanted = True
