"""A trial of the real thing on this machine: the processes of `fedelta run`, with an echo for training."""

import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen
from typing import Any

import redis
from pydantic import TypeAdapter

from benchmarks.echo_model import FUNCTIONS
from orchestrator import children, experiment, submit
from orchestrator.private_redis import PrivateRedis
from orchestrator.runs import Run
from tasks import environment, keys, progress
from tasks.app import connect, use_broker
from workers.errors import NotFound
from workers.spec import Experiment

START_SECONDS = 300.0  # for every site's first update
SETTLE_SECONDS = 1.0  # between going on and a window
PROCESSES = ("coordinator", "worker", "redis")
MIN_UPDATES = 15  # in a window, at least
GRACE_SECONDS = 3.0  # for a process to end by itself
NAME = "trial"
SIZES = {"1 k": 1_000, "1 M": 1_000_000, "10 M": 10_000_000, "40 M": 40_000_000}  # parameters


@dataclass(frozen=True, kw_only=True)
class Window:
    """What a trial did in a while."""

    updates_per_second: float  # from the first turn to the last
    updates_per_turn: float
    cpu: Mapping[str, float]  # ms of processor time for an update, by process


@dataclass(kw_only=True)
class Trial:
    """One experiment, and the processes that carry it out."""

    run: Run
    sites: tuple[str, ...]
    client: redis.Redis
    server: Popen[bytes]
    processes: dict[str, Popen[bytes]] = field(default_factory=dict)

    def start_worker(self, module: str = "benchmarks.echo_worker") -> None:
        """Start one worker for all sites, whose Celery app is in this module."""
        self._start("worker", children.worker(self.sites), module)

    def start_coordinator(self, module: str = "tasks.coordinator") -> None:
        """Start the coordinator, likewise."""
        self._start("coordinator", children.coordinator(), module)

    def _start(self, name: str, command: list[str], module: str) -> None:
        command[command.index("--app") + 1] = module
        self.processes[name] = children.start(command, self.run.logs / f"{name}.log")

    def submit(self) -> None:
        """Submit the experiment."""
        submit.submit(self.run)

    def warm_up(self) -> None:
        """Wait until every site has had an update, and the first version is scored."""
        self.wait(self._is_warm, f"an update of each of {len(self.sites)} sites")

    def pause(self) -> None:
        """Let both processes stand still."""
        for process in self.processes.values():
            process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let them go on."""
        for process in self.processes.values():
            process.send_signal(signal.SIGCONT)

    def now(self) -> float:
        """Seconds since 1970 by the ledger's clock."""
        seconds, microseconds = self.client.time()
        return float(seconds + microseconds / 1e6)

    def cpu(self) -> dict[str, float]:
        """By process, the seconds of processor time that it has had."""
        found = {}
        for name, process in {**self.processes, "redis": self.server}.items():
            words = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            found[name] = (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
        return found

    def applied(self) -> int:
        """How many updates are committed."""
        return int(self.client.hget(keys.head(NAME), "applied") or 0)

    def bytes_up(self) -> int:
        """How many bytes of deltas that is."""
        return int(self.client.hget(keys.head(NAME), "bytes_up") or 0)

    def num_waiting(self) -> int:
        """How many deltas lie in Redis."""
        return int(self.client.exists(*(keys.delta(NAME, site) for site in self.sites)))

    def window(self, seconds: float) -> Window:
        """Let it go on for so long and a moment before, and stand still again.

        Raises:
            SystemExit: too little came of it.
        """
        self.go_on()
        time.sleep(SETTLE_SECONDS)
        begin, applied, cpu = self.now(), self.applied(), self.cpu()
        time.sleep(seconds)
        self.wait(lambda: self.applied() >= applied + MIN_UPDATES, f"{MIN_UPDATES} updates")
        end, num_updates, spent = self.now(), self.applied() - applied, self.cpu()
        self.pause()
        times = [row.time for row in progress.history(self.client, NAME) if begin <= row.time <= end]
        num_turns = len(set(times))
        if num_turns < 2:
            raise SystemExit(f"expected several turns in {end - begin:.1f} s, got {num_turns}")
        return Window(
            updates_per_second=sum(then > times[0] for then in times) / (times[-1] - times[0]),
            updates_per_turn=len(times) / num_turns,
            cpu={name: 1000 * (spent[name] - cpu[name]) / num_updates for name in cpu},
        )

    def wait(self, holds: Callable[[], object], what: str, seconds: float = START_SECONDS) -> None:
        """Wait until it holds.

        Raises:
            SystemExit: it does not in time, or a process has ended.
        """
        deadline = time.monotonic() + seconds
        while not holds():
            dead = [name for name, process in self.processes.items() if process.poll() is not None]
            if dead or time.monotonic() > deadline:
                why = f"ended: {', '.join(dead)}" if dead else f"not within {seconds:.0f} s"
                raise SystemExit(f"{what}: {why}\n{self.logs()}")
            time.sleep(0.02)

    def _is_warm(self) -> bool:
        try:
            found = progress.read(self.client, NAME, num_rows=1)
        except NotFound:
            return False
        return found.head.evaluating is None and all(site.record.updates for site in found.sites)

    def logs(self) -> str:
        """The ends of what the processes said."""
        return "\n".join(f"{log.name}: {log.read_text()[-2000:]}" for log in self.run.logs.glob("*.log"))


def settings(
    num_params: int,
    num_sites: int,
    table: Path,
    strategy: Mapping[str, Any] | None = None,
    compression: Mapping[str, Any] | None = None,
) -> Experiment:
    """An experiment that only moves parameters, and is never finished."""
    return TypeAdapter(Experiment).validate_python(
        {
            "name": NAME,
            "sites": [f"site{number}" for number in range(1, num_sites + 1)],
            "data": {
                "file": str(table),
                "site_column": "site",
                "layout": {"features": ["number"], "target": {"kind": "regression", "column": "y"}},
                "holdout": 0.5,
                "standardize": "none",
            },
            "model": {"kind": "own", "function": FUNCTIONS[num_params]},
            "training": {"epochs": 1},
            "strategy": strategy or {"kind": "fedasync"},
            "compression": compression or {},
            "evaluation": {"every": 10**9},
            "stop": {"updates": 10**9},
        }
    )


@contextmanager
def trial(num_params: int, num_sites: int, **tables: Mapping[str, Any]) -> Iterator[Trial]:
    """A Redis, and an experiment that is still to be submitted; all that is started ends with the block.

    `tables` are the experiment's: its strategy, its compression.
    """
    with tempfile.TemporaryDirectory(prefix="fedelta-benchmark-", ignore_cleanup_errors=True) as temporary:
        run = Run(folder=Path(temporary) / NAME)
        run.logs.mkdir(parents=True)
        os.environ["FEDELTA_CACHE_DIR"] = temporary
        table = Path(temporary) / "sites.csv"
        rows = (f"site{number},{number},0\n" for number in range(1, num_sites + 1) for _ in range(2))
        table.write_text("site,number,y\n" + "".join(rows))
        written = settings(num_params, num_sites, table, **tables)
        run.experiment_file.write_text(experiment.text(written))
        private = PrivateRedis(run.redis_folder, run.logs / "redis.log")
        living: dict[str, Popen[bytes]] = {}
        try:
            server = private.start()
            environment.set_broker(private.broker_url)
            use_broker(private.broker_url)
            made = Trial(run=run, sites=written.sites, client=connect(), server=server, processes=living)
            try:
                yield made
            finally:
                made.client.close()
                made.go_on()
                children.end(list(living.values()), GRACE_SECONDS)
                children.end([server], GRACE_SECONDS)
        finally:
            private.remove_home()


@contextmanager
def running(num_params: int, num_sites: int, **tables: Mapping[str, Any]) -> Iterator[Trial]:
    """The same, where every site has had an update."""
    with trial(num_params, num_sites, **tables) as made:
        made.start_coordinator()
        made.start_worker()
        made.submit()
        made.warm_up()
        yield made
