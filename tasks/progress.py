"""The ledger as people look at it: how far an experiment is, what it did. Reads only."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import redis

from tasks import attendance, codec, keys, ledger, messages, values
from tasks.messages import Announcement, EvaluationRow, Event, HistoryRow, MetricsRow
from tasks.state import Head, SiteRecord
from workers import site_names
from workers.errors import MalformedMessage, NotFound
from workers.params import Params
from workers.spec import Spec

Row = TypeVar("Row")

logger = logging.getLogger(__name__)

PAGE = 1000  # rows read at once


@dataclass(frozen=True, kw_only=True)
class SiteProgress:
    """How one site is doing."""

    name: str
    record: SiteRecord
    is_training: bool
    seen: float | None  # when its worker last announced itself
    num_examples: int | None = None  # that it says it has of the experiment's data set, if they are its own


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far an experiment is, at one moment."""

    name: str
    spec: Spec
    now: float
    head: Head
    has_coordinator: bool
    sites: Sequence[SiteProgress]
    history: Sequence[HistoryRow]  # the newest rows, oldest first
    metrics: Sequence[MetricsRow]
    events: Sequence[Event]

    @property
    def seconds(self) -> float:
        """How long it has run, pauses left out."""
        return (self.head.finished or self.now) - self.head.started - self.head.paused


def read(client: redis.Redis, name: str, num_rows: int = 200) -> Progress:
    """The experiment's progress, with the newest `num_rows` rows of its records.

    Raises:
        NotFound: there is no experiment of that name.
    """
    spec = ledger.Ledger(client).spec(name)
    sites = site_names.in_order(spec.experiment.sites)
    with client.pipeline(transaction=False) as pipe:
        pipe.time()
        pipe.exists(keys.COORDINATOR)
        pipe.hgetall(keys.head(name))
        pipe.hgetall(keys.sites(name))
        for key in (keys.history(name), keys.metrics(name), keys.events(name)):
            pipe.xrevrange(key, count=num_rows)
        for site in sites:
            pipe.exists(keys.lease(name, site))
        (seconds, microseconds), coordinator, head, records, history, metrics, events, *leases = (
            pipe.execute()
        )
    announced = attendance.announced(client, sites)
    said = {site: known for site, known in announced.items() if isinstance(known, Announcement)}
    own = spec.experiment.data.dataset if spec.experiment.data.is_at_sites else None
    return Progress(
        name=name,
        spec=spec,
        now=seconds + microseconds / 1e6,
        head=messages.from_hash(Head, head),
        has_coordinator=bool(coordinator),
        sites=[
            SiteProgress(
                name=site,
                record=messages.decode(SiteRecord, records[site.encode()]),
                is_training=bool(lease),
                seen=said[site].seen if site in said else None,
                num_examples=said[site].num_examples(own) if site in said else None,
            )
            for site, lease in zip(sites, leases, strict=True)
        ],
        history=_rows(HistoryRow, history)[::-1],
        metrics=_rows(MetricsRow, metrics)[::-1],
        events=_rows(Event, events)[::-1],
    )


def history(client: redis.Redis, name: str) -> Iterator[HistoryRow]:
    """Every committed update, in order."""
    return _stream(client, keys.history(name), HistoryRow)


def metrics(client: redis.Redis, name: str) -> Iterator[MetricsRow]:
    """Every version scored, in order."""
    return _stream(client, keys.metrics(name), MetricsRow)


def events(client: redis.Redis, name: str) -> Iterator[Event]:
    """Every event, in order."""
    return _stream(client, keys.events(name), Event)


def evaluations(client: redis.Redis, name: str, site: str) -> Iterator[EvaluationRow]:
    """Every version that the site scored, in order; a row of its that is none is left out."""
    for fields in _entries(client, keys.evaluations(name, site)):
        try:
            yield messages.decode(EvaluationRow, fields.get(b"row", b""))
        except MalformedMessage as error:
            logger.debug("%s: an evaluation of site %s: %s", name, site, error)


def model(client: redis.Redis, name: str, version: int) -> Params:
    """The parameters of a version, as sites have them.

    Raises:
        NotFound: it is deleted, or never was.
    """
    stored = values.read(client, keys.model(name, version))
    if stored is None:
        raise NotFound(f"experiment {name}: no model of version {version} in the ledger")
    experiment = ledger.Ledger(client).spec(name).experiment
    return codec.decode_tree(stored, None, messages.coding_of_model(experiment, version))


def _rows(kind: type[Row], entries: Sequence[tuple[bytes, dict[bytes, bytes]]]) -> list[Row]:
    return [messages.decode(kind, fields[b"row"]) for _, fields in entries]


def _stream(client: redis.Redis, key: str, kind: type[Row]) -> Iterator[Row]:
    return (messages.decode(kind, fields[b"row"]) for fields in _entries(client, key))


def _entries(client: redis.Redis, key: str) -> Iterator[dict[bytes, bytes]]:
    start = "-"
    while entries := client.xrange(key, min=start, count=PAGE):
        yield from (fields for _, fields in entries)
        start = f"({entries[-1][0].decode()}"
