"""A real study to be mistreated: Redis, a network, coordinators, beat, workers, the command line."""

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis

from tasks import keys, messages
from tasks.messages import Event
from tasks.state import Head, SiteRecord
from tests.conftest import REPOSITORY
from tests.faults.parties import Keeper, Party, clean_environment
from tests.faults.plan import Plan
from tests.faults.proxy import Link, Network
from tests.faults.redis_server import RedisServer
from tests.machine import wait_until

NAME = "trial"  # of the experiment
FEDELTA = (sys.executable, "-m", "orchestrator")
FAKETIME = (
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
)


@dataclass
class Injected:
    """One fault, and when it was; times are those of the ledger's clock."""

    name: str
    detail: str
    site: str | None  # that is hit; None: nobody in particular
    begun: float
    over: float | None = None
    is_lasting: bool = False  # nothing is to recover

    def __str__(self) -> str:
        lasted = f" ({self.over - self.begun:.1f} s)" if self.over else ""
        return f"{self.name} {self.detail}{lasted}"


class Study:
    """The processes of one trial, from `start` to `end`."""

    def __init__(self, folder: Path, plan: Plan, cache: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.plan = folder, plan
        self.network, self.keeper = Network(), Keeper()
        self.server = RedisServer(folder / "redis")
        self.log: list[Injected] = []
        self.begun = time.time()
        self.gone: set[str] = set()  # sites that left for good
        self.redis = threading.Lock()  # one thing at a time is done to the server
        self._lock = threading.Lock()
        self._injecting: list[threading.Thread] = []
        self._links: dict[str, Link] = {}
        self.environment = {
            **clean_environment(),
            "FEDELTA_RUNS_DIR": str(folder / "runs"),
            "FEDELTA_CACHE_DIR": str(cache),
            "PYTHONPATH": str(REPOSITORY),
            "PYTHONFAULTHANDLER": "1",  # see `confess`
            "FEDELTA_OWN_BEAT": "no" if plan.has_beat else "yes",
        }

    @property
    def client(self) -> redis.Redis:
        """Redis, past the network."""
        return self.server.client

    def start(self) -> None:
        """Start everything, and submit the experiment."""
        self.network.__enter__()
        self.keeper.start()
        self.keeper.want(self.server)
        self.server.await_answer()
        for number in range(self.plan.num_coordinators):
            self.start_coordinator(f"coordinator{number + 1}")
        if self.plan.has_beat:
            self._party("beat", [*FEDELTA, "beat"])
        for site in self.plan.sites:
            if site != self.plan.late:
                self.start_worker(site)
        file = self.folder / "experiment.toml"
        file.write_text(self.plan.file())
        self._party("submit", [*FEDELTA, "submit", str(file)]).ends_well = True
        wait_until(lambda: self.head() is not None, f"the experiment is submitted; logs: {self.folder}")
        self._party("cli", [*FEDELTA, "watch", NAME, "--json"]).ends_well = True

    def end(self) -> None:
        """End everything."""
        self.keeper.end()
        self.network.__exit__()
        self.client.close()

    def start_coordinator(self, name: str) -> Party:
        """Another coordinator."""
        beat = [] if not self.plan.has_beat else ["--no-beat"]
        return self._party(name, [*FEDELTA, "coordinator", *beat])

    def start_worker(self, site: str, name: str | None = None, kind: str | None = None) -> Party:
        """A worker of the site; of the kind that the launcher knows, if it is not to be as it should."""
        command = [*FEDELTA, "worker", "--site", site]
        environment = {}
        seconds_off = self.plan.wrong_clock.get(site, 0)
        library = next((path for path in FAKETIME if os.path.exists(path)), None)
        if kind is None and seconds_off and library:
            environment = {
                "LD_PRELOAD": library,
                "FAKETIME": f"{seconds_off:+d}s",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            }
        elif kind is None and seconds_off:
            kind = f"clock:{seconds_off:+d}"
        if kind is not None:
            command = [sys.executable, "-m", "tests.faults.launcher", kind, site]
        return self._party(name or site, command, site, environment)

    def _party(
        self, name: str, command: list[str], site: str = "centre", more: dict[str, str] | None = None
    ) -> Party:
        link = self.link(site)
        url = f"redis://127.0.0.1:{link.port}/0"
        environment = {**self.environment, "FEDELTA_BROKER_URL": url, **(more or {})}
        return self.keeper.want(Party(name, command, environment, self.folder / f"{name}.log", link))

    def link(self, whose: str) -> Link:
        """A site's way to Redis, or the centre's."""
        with self._lock:
            if whose not in self._links:
                self._links[whose] = self.network.link(self.server.port)
            return self._links[whose]

    def links(self) -> list[Link]:
        """Everybody's."""
        return list(self._links.values())

    def party(self, name: str) -> Party:
        """The process of that name."""
        return self.keeper.parties[name]

    def workers(self, site: str) -> list[Party]:
        """A site's processes."""
        return [party for party in self.keeper.parties.values() if party.name.split("+")[0] == site]

    def present_sites(self) -> list[str]:
        """Sites that have not left for good, and have joined."""
        return [site for site in self.plan.sites if site not in self.gone and site in self.keeper.parties]

    def coordinators(self) -> list[Party]:
        """The coordinators."""
        return [party for name, party in self.keeper.parties.items() if name.startswith("coordinator")]

    # What the ledger says; None while Redis does not answer

    def head(self) -> Head | None:
        """The experiment in a line."""
        try:
            stored = self.client.hgetall(keys.head(NAME))
        except redis.RedisError:
            return None
        return messages.from_hash(Head, stored) if stored else None

    def is_finished(self) -> bool:
        """Whether it is over."""
        head = self.head()
        return head is not None and head.phase == "finished"

    def holder(self, site: str) -> bytes | None:
        """Who holds the site's lease; empty where Redis does not answer."""
        try:
            return self.client.get(keys.lease(NAME, site))
        except redis.RedisError:
            return b""

    def events(self) -> list[Event]:
        """All events."""
        try:
            found = self.client.xrange(keys.events(NAME))
        except redis.RedisError:
            return []
        return [messages.decode(Event, fields[b"row"]) for _, fields in found]

    # What is done to it

    @contextmanager
    def fault(
        self, name: str, detail: str = "", site: str | None = None, **facts: bool
    ) -> Iterator[Injected]:
        """Log what is done in the block."""
        injected = Injected(name, detail, site, time.time(), **facts)
        with self._lock:
            self.log.append(injected)
        try:
            yield injected
        finally:
            injected.over = time.time()

    def begin(self, function: Callable[["Study", random.Random], None], rng: random.Random) -> None:
        """Inject a fault in a thread of its own, so that it can overlap with others."""
        thread = threading.Thread(target=self._inject, args=(function, rng), daemon=True)
        self._injecting.append(thread)
        thread.start()

    def _inject(self, function: Callable[["Study", random.Random], None], rng: random.Random) -> None:
        try:
            function(self, rng)
        except redis.RedisError as error:  # another fault is in the way
            self.log.append(Injected("not possible", f"{function.__name__}: {error}", None, time.time()))

    def await_faults(self) -> None:
        """Wait until every fault is over."""
        for thread in self._injecting:
            thread.join(90.0)
            assert not thread.is_alive(), "a fault does not end"

    @property
    def is_under_attack(self) -> bool:
        """Whether a fault is being injected."""
        return any(thread.is_alive() for thread in self._injecting)

    def attacks_that_hide(self, fault: Injected) -> list[float]:
        """When others ended, or now: until then the centre cannot be expected to have noticed this one."""
        return [
            other.over or time.time() for other in self.log if other is not fault and other.site != fault.site
        ]

    def confess(self) -> None:
        """Let every process write into its log where its threads are, which ends it."""
        for party in self.keeper.parties.values():
            if party is not self.server:
                party.is_wanted = False
                party.signal(signal.SIGABRT)
                party.signal(signal.SIGCONT)
        for party in self.keeper.parties.values():
            if party is not self.server and party.process is not None:
                party.process.wait(10.0)

    def ledger(self) -> str:
        """The ledger's state, for a message."""
        try:
            records = self.client.hgetall(keys.sites(NAME))
            found = {site.decode(): messages.decode(SiteRecord, record) for site, record in records.items()}
            queues = {
                queue: self.client.llen(queue) for queue in ("coordinator", *(f"site.{s}" for s in found))
            }
            leases = {site: self.holder(site) for site in found}
            return f"{self.head()}, {found}, queues {queues}, leases {leases}"
        except redis.RedisError as error:
            return f"Redis does not answer: {error}"

    def story(self) -> str:
        """What was done, with seconds since the start."""
        return "; ".join(f"{fault.begun - self.begun:.1f} {fault}" for fault in self.log)

    def pause(self, seconds: float) -> None:
        """Let time pass, or the run end."""
        self.pause_until(lambda: False, seconds)

    def pause_until(self, holds: Callable[[], object], seconds: float) -> bool:
        """Wait until it holds; False if the time passed, or the run ended, before."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not self.is_finished():
            if holds():
                return True
            time.sleep(min(0.02, max(0.0, deadline - time.monotonic())))
        return False
