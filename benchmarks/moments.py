"""The moments in an update's life, in order; a stage is the time from one to the next.

The benchmark's own worker and coordinator (`watched_worker`, `watched_coordinator`) note them, each with the
monotonic clock that all processes of a machine share, in one file that `FEDELTA_BENCHMARK_MOMENTS` names.
"""

import functools
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

FILE = "FEDELTA_BENCHMARK_MOMENTS"
# By stage, the moment with which it ends. An update's life begins when the site gets the message.
STAGES: Mapping[str, str] = {
    "lease": "taken",  # site: the order and a lease on it
    "model": "model",  # site: fetch and decode the base model
    "train": "trained",  # site: nearly nothing, here
    "encode": "encoded",  # site: the delta as bytes
    "store": "stored",  # site: into Redis, with the site's call
    "notify": "heard",  # until the coordinator hears it
    "wait": "begun",  # ... until its turn comes to this delta
    "fetch": "fetched",  # coordinator: the delta out of Redis
    "decode": "decoded",  # coordinator: its arrays
    "fold": "folded",  # coordinator: check it and fold it in
    "turn": "committing",  # coordinator: the other deltas of the same turn
    "commit": "committed",  # coordinator: encode the model; model, history and next orders into Redis
    "order": "received",  # until the site gets the message of its next order
}
MOMENTS = ("received", *STAGES.values())


def note(moment: str, site: str) -> None:
    """This is the moment, for the site's update."""
    os.write(_file(), f"{time.monotonic_ns()} {moment} {site}\n".encode())


@functools.cache
def _file() -> int:
    return os.open(os.environ[FILE], os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def around(owner: Any, name: str, before: Callable[..., None], after: Callable[..., None]) -> None:
    """Call these around each call of the owner's function, with its arguments."""
    function = getattr(owner, name)

    @functools.wraps(function)
    def watched(*arguments: Any, **more: Any) -> Any:
        before(*arguments)
        try:
            return function(*arguments, **more)
        finally:
            after(*arguments)

    setattr(owner, name, watched)


def nothing(*_: object) -> None:
    """For `around`."""


def lives(path: Path) -> Iterator[dict[str, float]]:
    """Of each update that was seen whole, the seconds of its stages.

    Raises:
        SystemExit: none was, and which moment was not seen.
    """
    noted: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for line in path.read_text().splitlines():
        when, moment, site = line.split()
        noted[site].append((int(when), moment))
    seen = {moment for moments in noted.values() for _, moment in moments}
    if missing := [moment for moment in MOMENTS if moment not in seen]:
        raise SystemExit(
            f"no update was {', '.join(missing)}: has what `watched_*` watches another name now?"
        )
    for moments in noted.values():
        yield from _lives(sorted(moments))


def _lives(moments: Iterable[tuple[int, str]]) -> Iterator[dict[str, float]]:
    life: dict[str, int] = {}
    for when, moment in moments:
        if moment == "received":
            if len(life) == len(STAGES):
                yield _stages([*(life[passed] for passed in MOMENTS[:-1]), when])
            life = {}
        if moment != "heard" or "encoded" in life:  # else it is a late call of the update before
            life.setdefault(moment, when)


def _stages(times: list[int]) -> dict[str, float]:
    # A site may be seen to go on only after the coordinator has: what is later has not begun before.
    for place in reversed(range(len(times) - 1)):
        times[place] = min(times[place], times[place + 1])
    return {stage: (end - begin) / 1e9 for stage, (begin, end) in zip(STAGES, pairwise(times), strict=True)}
