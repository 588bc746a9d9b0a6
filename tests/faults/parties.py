"""The processes of a study, and who starts them again when they die, as Docker's restart policy does."""

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.faults.proxy import Link

FIRST_DELAY, LAST_DELAY = (
    0.2,
    3.0,
)  # seconds until one that died is started again; doubled from death to death
STEADY_SECONDS = 10.0  # after which a death is a first one again
LOOK_EVERY = 0.05


class Party:
    """One process, or its successor; told to `leave`, it stays away."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: dict[str, str],
        log: Path,
        link: Link | None = None,
    ) -> None:
        self.name, self.link = name, link
        self.command, self.environment = list(command), environment
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None
        self.is_wanted = False
        self.once: dict[str, str] = {}  # the environment of the next incarnation alone
        self.ends_well = False  # exit code 0 is its end
        self.incarnations = 0
        self._begun, self._delay, self._again = 0.0, FIRST_DELAY, 0.0

    @property
    def pid(self) -> int | None:
        """Its process's, if that lives."""
        process = self.process
        return process.pid if process is not None and process.poll() is None else None

    @property
    def is_stopped(self) -> bool:
        """Whether it stands still (SIGSTOP)."""
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
        except OSError:
            return False

    def signal(self, number: signal.Signals) -> bool:
        """Send it a signal; False if it does not live."""
        process = self.process
        if process is None or process.poll() is not None:
            return False
        process.send_signal(number)
        return True

    def kill(self) -> bool:
        """`kill -9`."""
        return self.signal(signal.SIGKILL)

    def look_after(self) -> None:
        """Start it, if it is wanted and does not live, and its delay is over."""
        now = time.monotonic()
        if self.process is not None:
            if self.process.poll() is None:
                return
            if self.ends_well and self.process.returncode == 0:
                self.is_wanted = False
            self._delay = (
                FIRST_DELAY if now - self._begun > STEADY_SECONDS else min(2 * self._delay, LAST_DELAY)
            )
            self._again = now + self._delay
            self.process = None
        if self.is_wanted and now >= self._again:
            self._start()

    def _start(self) -> None:
        environment, self.once = {**self.environment, **self.once}, {}
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [*_mortal(), *self.command],
                env=environment,
                cwd=self.log.parent,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.incarnations += 1
        self._begun = time.monotonic()


class Keeper:
    """A thread that starts again whatever died and is wanted."""

    def __init__(self) -> None:
        self.parties: dict[str, Party] = {}
        self._stopping = threading.Event()
        # A process ends with the thread that started it, so all are started from this one.
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)

    def start(self) -> None:
        """Look after the parties from now on."""
        self._thread.start()

    def want(self, party: Party) -> Party:
        """Have it run from now on."""
        party.is_wanted = True
        self.parties[party.name] = party
        return party

    def end(self) -> None:
        """End every process."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(LOOK_EVERY):
            for party in list(self.parties.values()):
                party.look_after()
        kill_all(self.parties.values())


def kill_all(parties: Iterable[Party]) -> None:
    """Kill them, stopped or not, and wait until they are gone."""
    parties = list(parties)
    for party in parties:
        party.is_wanted = False
        party.kill()
    for party in parties:
        if party.process is not None:
            party.process.wait()


def _mortal() -> list[str]:
    """What goes before a command, so that it ends when the thread that starts it does, however that ends."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL"] if setpriv else []


def clean_environment() -> dict[str, str]:
    """Ours, without what would lead fedelta elsewhere."""
    return {name: value for name, value in os.environ.items() if not name.startswith("FEDELTA_")}
