"""One trial: a real run, faults at seeded random moments until it ends, and the verdict."""

import random
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import redis

from tasks import keys
from tests.faults import aof, faults
from tests.faults.faults import FAULTS
from tests.faults.oracle import Judgement, check_end, judge
from tests.faults.plan import Plan, draw
from tests.faults.study import NAME, Injected, Study
from tests.machine import wait_until

STANDSTILL_SECONDS = 75.0  # without a commit, once every fault is over: the run needs a hand
TOTAL_SECONDS = 400.0
NOTICED_SECONDS = 15.0  # in which a dead site's lease is gone, and people are told
GAP_SECONDS = (0.5, 6.0)  # between faults
LONGEST_QUEUE = 20  # messages that may wait at the end for a site that is not there

Script = Callable[[Study], None]


class Failure(AssertionError):
    """A trial found something; `check` says which rule was broken."""

    def __init__(self, check: str, detail: str) -> None:
        super().__init__(f"{check}: {detail}")
        self.check = check


@dataclass
class Trial:
    """What came of one."""

    plan: Plan
    folder: Path
    log: Sequence[Injected] = ()
    story: str = ""
    seconds: float = 0.0
    found: Judgement = field(default_factory=Judgement)
    failure: AssertionError | None = None

    @property
    def check(self) -> str:
        """The rule that was broken; empty if none was."""
        return getattr(self.failure, "check", type(self.failure).__name__) if self.failure else ""

    def __str__(self) -> str:
        verdict = f"FAILED {self.failure}" if self.failure else "ok"
        names = ", ".join(fault.name for fault in self.log) or "no fault"
        return (
            f"seed {self.plan.seed}  {self.plan.strategy:8}  {self.seconds:5.0f} s  "
            f"{len(self.found.rows):4} updates  {verdict}  [{names}]"
        )


def trial(
    seed: int, folder: Path, cache: Path, strategy: str | None = None, num_faults: int | None = None
) -> Trial:
    """A trial of which everything is drawn from the seed."""
    rng = random.Random(seed)
    plan = draw(rng, seed, strategy)
    chosen = [rng.choice(list(FAULTS)) for _ in range(num_faults or rng.randint(4, 10))]
    if rng.random() < 0.35:
        chosen.insert(len(chosen) // 2, "site_leaves")
    if plan.late:
        chosen.insert(rng.randrange(3), "site_joins")
    gaps = [rng.uniform(*GAP_SECONDS) for _ in chosen]

    def script(study: Study) -> None:
        for number, (name, gap) in enumerate(zip(chosen, gaps, strict=True)):
            study.pause(gap)
            function = getattr(faults, name)
            study.begin(function, random.Random(f"{seed}/{number}"))

    return conduct(plan, script, folder, cache)


def conduct(plan: Plan, script: Script, folder: Path, cache: Path) -> Trial:
    """Run the plan while the script does what it does, and judge what came of it."""
    folder = Path(tempfile.mkdtemp(prefix=f"trial-{plan.seed}-", dir=folder))
    begun, study, done = time.monotonic(), Study(folder / "study", plan, cache), Trial(plan, folder)
    done.failure = _failure(lambda: _run(study, script))
    done.story, done.log = study.story(), study.log
    # What was written is judged in any case: it may say why the run failed.
    done.failure = _failure(lambda: _judge(study, done)) or done.failure
    done.seconds = time.monotonic() - begun
    return done


def _run(study: Study, script: Script) -> None:
    try:
        study.start()
        run_to_the_end(study, script)
    except AssertionError:
        study.confess()
        raise
    finally:
        study.end()


def _judge(study: Study, done: Trial) -> None:
    done.found = judge(aof.units(study.server.folder), NAME)
    if done.failure is None:
        check_end(done.found, updates=study.plan.updates)


def _failure(of: Callable[[], None]) -> AssertionError | None:
    """What the function finds; the driver's own mistakes are told like any other."""
    try:
        of()
    except AssertionError as failure:
        return failure
    except Exception as error:
        return AssertionError("".join(traceback.format_exception(error)))
    return None


def run_to_the_end(study: Study, script: Script) -> None:
    """Let the script do its worst; then the run ends with no hand on it, and leaves nothing behind."""
    watching = threading.Thread(target=script, args=(study,), daemon=True)
    watching.start()
    watch = Watch(study)
    while not study.is_finished():
        watch.look()
        time.sleep(0.1)
    watching.join(60.0)
    study.await_faults()
    watch.look()
    wait_until(lambda: not study.party("cli").is_wanted, "the command line has seen the end", seconds=60.0)
    nothing_is_left(study)


class Watch:
    """Looks at a run while it runs: that it goes on, and that a site that left is noticed."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self._commits, self._moved = -1, time.monotonic()
        self._begun = time.monotonic()

    def look(self) -> None:
        """Once.

        Raises:
            Failure: the run stands still, or nobody has noticed.
        """
        head, now = self._study.head(), time.monotonic()
        if head is None or head.commits != self._commits or self._study.is_under_attack:
            self._commits, self._moved = head.commits if head else -1, now
        if now - self._moved > STANDSTILL_SECONDS or now - self._begun > TOTAL_SECONDS:
            raise Failure(
                "the run ends by itself", f"after {now - self._begun:.0f} s: {self._study.ledger()}"
            )
        if head is not None and head.phase == "running":
            for fault in self._study.log:
                if fault.name == "site leaves":
                    self._check_noticed(fault)

    def _check_noticed(self, fault: Injected) -> None:
        since = max([fault.over or time.time(), *self._study.attacks_that_hide(fault)])
        if time.time() - since < NOTICED_SECONDS or self._study.head() is None:
            return
        if self._study.holder(fault.site):
            raise Failure(
                "a dead site's lease ends", f"{fault.site} holds one {time.time() - since:.0f} s later"
            )
        events = self._study.events()
        if not any(e.kind == "gone" and e.site == fault.site for e in events):
            record = self._study.ledger()
            raise Failure(
                "a dead site is noticed", f"{fault.site} left {time.time() - since:.0f} s ago: {record}"
            )


def nothing_is_left(study: Study) -> None:
    """After the end: no order, delta or lease, one model, no queue that grew.

    Raises:
        Failure: something is.
    """
    client, prefix = study.client, keys.head(NAME).removesuffix("head")
    study.server.await_answer()

    def left() -> list[bytes]:
        return [key for kind in ("order", "lease", "delta") for key in client.keys(f"{prefix}{kind}:*")]

    try:
        wait_until(lambda: not left(), seconds=20.0, pause=0.2)
    except AssertionError:
        raise Failure("nothing is left", str(left())) from None
    if client.sismember(keys.RUNNING, NAME):
        wait_until(
            lambda: not client.sismember(keys.RUNNING, NAME), "it is not among those that run", seconds=10.0
        )
    for queue in ("coordinator", *(f"site.{site}" for site in study.plan.sites)):
        try:
            waiting = client.llen(queue)
        except redis.RedisError:
            continue
        if waiting > LONGEST_QUEUE:
            raise Failure("no queue grows", f"{waiting} messages in {queue}")
