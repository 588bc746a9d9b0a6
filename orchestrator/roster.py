"""The sites of an experiment: what each is doing, and who is missing."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from tasks import attendance
from tasks.progress import Progress, SiteProgress

MISSING_SECONDS = 5.0  # after the start, before anybody is called missing
MAX_NAMED = 5  # sites that are missing or waited for


def sites_table(progress: Progress) -> Table:
    """A row per site; what went wrong has a column where there is anything to show."""
    records = [site.record for site in progress.sites]
    troubles = {
        "away": [record.absences for record in records],
        "re-sent": [record.resent for record in records],
        "refused": [record.refused for record in records],
    }
    shown = {name: counts for name, counts in troubles.items() if any(counts)}
    own = ["examples"] if any(site.num_examples is not None for site in progress.sites) else []
    sites = Table(box=None, padding=(0, 1 if shown else 2))
    for name in ("site", "state", "updates", "staleness", "last seen", *own, *shown):
        is_text = name in ("site", "state", "last seen")
        sites.add_column(name, justify="left" if is_text else "right", overflow="fold")
    for site, *counts in zip(progress.sites, *shown.values(), strict=True):
        told = ["" if site.num_examples is None else f"{site.num_examples:,}"] * len(own)
        red = (Text(str(n), style="red" if n else "") for n in counts)
        sites.add_row(*_facts(progress, site), *told, *red)
    return sites


def site_state(progress: Progress, site: SiteProgress) -> str:
    """What the site is doing, in a word."""
    if site.record.is_dropped:
        return "dropped"
    if not is_present(progress, site) or (site.record.is_away and gives_orders(progress)):
        return "not there" if site.seen is None else "gone"
    if site.is_training:
        return "describing" if progress.head.phase == "describing" else "training"
    return "ordered" if site.record.base_version is not None else "waiting"


def gives_orders(progress: Progress) -> bool:
    """Whether the coordinator does, and so notes who is away."""
    return progress.head.phase in ("describing", "running")


def is_present(progress: Progress, site: SiteProgress) -> bool:
    """Whether the site's worker was heard of just now, whatever the coordinator has noted."""
    return site.seen is not None and bool(attendance.recent({site.name: site.seen}, progress.now))


def missing(progress: Progress) -> list[str]:
    """Who must be there for the experiment to go on, and is not."""
    if progress.head.phase == "finished" or progress.seconds < MISSING_SECONDS:
        return []
    absent = [
        site.name for site in progress.sites if not (site.record.is_dropped or is_present(progress, site))
    ]
    nobody = ["no coordinator"] * (not progress.has_coordinator)
    nobody += [f"no worker of {_named(absent)}"] * bool(absent)
    return nobody + quorum(progress)


def preparation(progress: Progress) -> str:
    """How far the sites are with what comes before training, and who is waited for; nothing after it."""
    if progress.head.phase != "describing":
        return ""
    records = {site.name: site.record for site in progress.sites}
    num_done = sum(record.is_done for record in records.values())
    lacking = [name for name, record in records.items() if not (record.is_done or record.is_dropped)]
    # Nobody waits for who is away, unless too few of the others are there.
    waited_for = [name for name in lacking if not records[name].is_away] or lacking
    told = f"{num_done} of {len(records)} sites have described their examples"
    return told + (f"; waiting for {_named(waited_for)}" if waited_for else "")


def quorum(progress: Progress) -> list[str]:
    """That a round cannot end before sites are back; nothing if it can."""
    strategy, num_sites = progress.spec.experiment.strategy, len(progress.sites)
    if not strategy.is_synchronous or progress.head.phase != "running":
        return []
    # Sites that are at work for this round, or have done so: any other is owed an order when it is back.
    num_taking_part = sum(not (site.record.is_dropped or site.record.is_owed) for site in progress.sites)
    if num_taking_part >= (needed := strategy.needed(num_sites)):
        return []
    return [f"a round needs {needed} of {num_sites} sites and has {num_taking_part}"]


def _named(sites: Sequence[str]) -> str:
    """The first of these sites, and how many more there are."""
    rest = f" and {len(sites) - MAX_NAMED} more" if len(sites) > MAX_NAMED else ""
    return ", ".join(sites[:MAX_NAMED]) + rest


def _facts(progress: Progress, site: SiteProgress) -> tuple[str | Text, ...]:
    last_update = max((row.time for row in progress.history if row.site == site.name), default=0.0)
    last = max(site.seen or 0.0, last_update)
    seen = f"{max(0.0, progress.now - last):.0f} s ago" if last else "never"
    state = site_state(progress, site)
    style = {"training": "green", "describing": "green", "gone": "red", "dropped": "red"}.get(state, "")
    record = site.record
    return site.name, Text(state, style=style), f"{record.updates}", f"{record.staleness}", seen
