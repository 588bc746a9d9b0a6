"""Who is there: what sites last announced, and when a coordinator last looked after the experiments."""

from collections.abc import Mapping, Sequence

import redis

from tasks import keys, messages
from tasks.messages import Announcement
from tasks.site_ledger import LEASE
from workers.errors import MalformedMessage

# Seconds without a sign after which somebody counts as gone; leases and signs are renewed together.
PRESENCE = LEASE


def announced(client: redis.Redis, sites: Sequence[str]) -> dict[str, Announcement | MalformedMessage]:
    """By site, what its worker last announced, or why that cannot be read; a silent site is not in it."""
    with client.pipeline(transaction=False) as reads:
        for site in sites:
            reads.getrange(keys.site(site), 0, messages.MAX_BYTES)
        stored = dict(zip(sites, reads.execute(), strict=True))
    return {site: _decoded(announcement) for site, announcement in stored.items() if announcement}


def last_seen(client: redis.Redis, sites: Sequence[str]) -> dict[str, float]:
    """By site, when its worker last announced itself; a site that never did, legibly, is not in it."""
    found = announced(client, sites)
    return {site: said.seen for site, said in found.items() if isinstance(said, Announcement)}


def recent(seen: Mapping[str, float], now: float) -> set[str]:
    """The sites that were seen just now; a clock that was set back makes nobody immortal."""
    return {site for site, when in seen.items() if abs(now - when) < PRESENCE}


def announce_coordinator(client: redis.Redis, name: str) -> float | None:
    """Say that the coordinator of this name looks after the experiments, now.

    Returns for how many seconds none had done so, or None if none ever has.
    """
    seconds, microseconds = client.time()
    now = seconds + microseconds / 1e6
    client.set(keys.COORDINATOR, name, ex=int(PRESENCE))
    before = client.set(keys.ATTENDED, repr(now), get=True)
    return None if before is None else now - float(before)


def _decoded(stored: bytes) -> Announcement | MalformedMessage:
    try:
        return messages.decode(Announcement, stored)
    except MalformedMessage as error:
        return error
