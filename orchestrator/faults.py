"""What went wrong in an experiment, and what was done about it, as people read it.

How often comes from the ledger's counters where it has them, since the oldest events are forgotten; when
comes from the events.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.clock import Clock
from tasks import messages
from tasks.messages import Event, EventKind
from tasks.progress import Progress, SiteProgress
from tasks.turn import MAX_EVENTS

# By kind, in the order in which they are shown: many of them, one of them. Other kinds are no faults.
WORDS: Mapping[EventKind, tuple[str, str]] = {
    "refused": ("updates refused", "update refused"),
    "resent": ("orders sent again", "order sent again"),
    "gone": ("sites gone", "gone"),
    "back": ("sites back", "back"),
    "dropped": ("sites dropped", "dropped"),
    "software": ("other software", "other software"),
    "unattended": ("without a coordinator", "unattended"),
}
COLUMNS = ("", "times", "first", "last", "sites")  # of `rows`
SITE_COLUMNS = ("", "away", "sent again", "refused", "dropped")  # of `site_rows`
MAX_NAMED = 8  # sites in a row


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What of one kind has happened."""

    count: int
    is_at_least: bool  # there may have been more, which are forgotten
    first_seconds: float | None  # None: it is forgotten
    last_seconds: float | None
    sites: Mapping[str, int]  # how often at each


def of(found: Progress, events: Sequence[Event]) -> dict[str, Fault]:
    """What has happened, by kind; the events are all that the ledger has."""
    clock = Clock.of(found.head, events)
    has_forgotten = len(events) >= MAX_EVENTS
    counters = _counters(found.sites)
    happened = {}
    for kind in WORDS:
        noted = [event for event in events if event.kind == kind]
        sites = _by_site(found.sites, counters.get(kind, {}), noted)
        if count := max(sum(sites.values()), len(noted)):
            is_at_least = has_forgotten and kind not in counters
            is_whole = len(noted) == count and not is_at_least
            happened[str(kind)] = Fault(
                count=count,
                is_at_least=is_at_least,
                first_seconds=round(clock(noted[0].time), 3) if is_whole else None,
                last_seconds=round(clock(noted[-1].time), 3) if noted else None,
                sites=sites,
            )
    return happened


def noted(events: Iterable[Event]) -> list[Event]:
    """Those of the events that are faults."""
    return [event for event in events if event.kind in WORDS]


def told(event: Event, clock: Clock) -> tuple[str, str, str]:
    """When, where (if at one site) and what, as a terminal can show it."""
    word = WORDS[event.kind][1]
    what = f"{word}: {event.detail}" if event.detail else word
    return f"{clock(event.time):.1f} s", event.site, messages.one_line(what)


def rows(faults: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """A row for each kind of fault in a summary, with the columns `COLUMNS`."""
    return [
        (
            words[0],
            f"{'at least ' if fault['is_at_least'] else ''}{fault['count']}",
            _moment(fault["first_seconds"]),
            _moment(fault["last_seconds"]),
            _named(fault["sites"]),
        )
        for kind, words in WORDS.items()
        if (fault := faults.get(kind))
    ]


def site_rows(sites: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """A row for each site of a summary at which something went wrong, with the columns `SITE_COLUMNS`."""
    counted = {
        name: (facts["absences"], facts["resent"], facts["refused"], "yes" if facts["is_dropped"] else "")
        for name, facts in sites.items()
    }
    return [(name, *map(str, counts)) for name, counts in counted.items() if any(counts)]


def _counters(sites: Sequence[SiteProgress]) -> dict[EventKind, dict[str, int]]:
    """By kind and site, what the coordinator has counted."""
    records = {site.name: site.record for site in sites}
    return {
        "refused": {name: record.refused for name, record in records.items()},
        "resent": {name: record.resent for name, record in records.items()},
        "gone": {name: record.absences for name, record in records.items()},
        "back": {name: record.absences - record.is_away for name, record in records.items()},
    }


def _by_site(
    sites: Sequence[SiteProgress], counted: Mapping[str, int], noted: Sequence[Event]
) -> dict[str, int]:
    """How often at each site; an event can be newer than what was read of the counters."""
    events = Counter(event.site for event in noted)
    counts = {site.name: max(counted.get(site.name, 0), events[site.name]) for site in sites}
    return {name: count for name, count in counts.items() if count}


def _moment(seconds: float | None) -> str:
    return "not known" if seconds is None else f"{seconds:.1f} s"


def _named(sites: Mapping[str, int]) -> str:
    """Sites and how often, the most often first."""
    ranked = sorted(sites.items(), key=lambda counted: -counted[1])
    named = [f"{name} {count}" for name, count in ranked[:MAX_NAMED]]
    return ", ".join(named) + (f" and {len(ranked) - MAX_NAMED} more" if len(ranked) > MAX_NAMED else "")
