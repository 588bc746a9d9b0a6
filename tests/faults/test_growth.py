"""Nothing grows over 20,000 updates, with Redis killed and connections cut: keys, memory, connections."""

import os
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.faults import aof, faults
from tests.faults.oracle import check_end, judge
from tests.faults.plan import SITES, Plan
from tests.faults.study import NAME, Study
from tests.machine import wait_until

UPDATES = int(os.environ.get("FEDELTA_GROWTH_UPDATES", "20000"))
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Sample:
    """What a run takes at one moment."""

    applied: int
    rss: Mapping[str, int]  # bytes, by process; its incarnation is in the name
    num_keys: int
    num_clients: int
    queued: int

    def __str__(self) -> str:
        shown = "  ".join(f"{name} {size / 1e6:.1f}" for name, size in sorted(self.rss.items()))
        return f"{self.applied:6} updates: {self.num_keys} keys, {self.num_clients} clients, MB: {shown}"


def sample(study: Study) -> Sample:
    """Now, with a moment for what was killed to come back."""
    wait_until(
        lambda: study.head() is not None and all(p.pid for p in study.keeper.parties.values() if p.is_wanted)
    )
    rss = {}
    for party in study.keeper.parties.values():
        if party.is_wanted:
            pages = int(Path(f"/proc/{party.pid}/statm").read_text().split()[1])
            rss[f"{party.name}.{party.incarnations}"] = pages * PAGE
    client = study.client
    return Sample(
        applied=study.head().applied,
        rss=rss,
        num_keys=client.dbsize(),
        num_clients=client.info("clients")["connected_clients"],
        queued=sum(client.llen(queue) for queue in ("coordinator", *(f"site.{site}" for site in SITES))),
    )


def reach(study: Study, applied: int) -> None:
    """Wait until so many updates are applied."""
    wait_until(
        lambda: (head := study.head()) and head.applied >= applied,
        f"{applied} updates",
        seconds=400.0,
        pause=0.2,
    )


def harm(study: Study) -> None:
    """Cut every connection once, and kill Redis."""
    for link in study.links():
        link.reset()
    time.sleep(1.0)
    faults.kill_redis(study, random.Random(1))


def test_nothing_grows_over_twenty_thousand_updates(tmp_path):
    plan = Plan(strategy="fedasync", updates=UPDATES, seconds=dict.fromkeys(SITES, 0.0), every=200)
    study, samples = Study(tmp_path / "study", plan, tmp_path / "cache"), []
    begun = time.monotonic()
    try:
        study.start()
        for share in (0.05, 0.3, 0.5, 0.7):  # the first is after warming up
            reach(study, int(share * UPDATES))
            if share in (0.05, 0.5):
                samples.append(sample(study))
            harm(study)
        reach(study, int(0.97 * UPDATES))
        samples.append(sample(study))
        wait_until(study.is_finished, seconds=120.0)
    finally:
        study.end()
    print(*samples, f"{time.monotonic() - begun:.0f} s", sep="\n")
    found = judge(aof.units(study.server.folder), NAME)
    check_end(found, updates=UPDATES)
    check_bounds(*samples)


def check_bounds(start: Sample, middle: Sample, end: Sample) -> None:
    """Keys, connections and queues stay; of memory, only Redis's history grows."""
    assert abs(end.num_keys - start.num_keys) <= 6, (start, end)  # an order, a lease, a delta come and go
    assert abs(end.num_clients - start.num_clients) <= 4, (start, end)
    assert end.queued <= 20, end
    for name in start.rss.keys() & end.rss.keys():
        if not name.startswith("redis"):
            assert end.rss[name] < 1.05 * middle.rss[name] + 2e6, (name, middle, end)
            assert end.rss[name] < 1.3 * start.rss[name], (name, start, end)
