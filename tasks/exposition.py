"""The coordinator's Prometheus metrics: what the ledger holds, read when asked, and what a turn has seen.

metric (after `fedelta_`)                type       labels                   from
updates_total                            counter    experiment, site         the ledger: updates applied
refusals_total                           counter    experiment               the ledger: submissions refused
resent_orders_total                      counter    experiment               the ledger: orders sent again
model_version                            gauge      experiment               the ledger
bytes_total                              counter    experiment, direction    the ledger: up and down
experiment_running                       gauge      experiment               1 while it is not finished
metric                                   gauge      experiment, metric       the mean over sites, last scored
site_last_seen_timestamp_seconds         gauge      site                     the site's announcement
site_refusals_total                      counter    experiment, site         the ledger: submissions refused
site_resent_orders_total                 counter    experiment, site         the ledger: orders sent again
site_absences_total                      counter    experiment, site         the ledger: times it went away
site_away                                gauge      experiment, site         1 while nothing is heard of it
site_dropped                             gauge      experiment, site         1 after too many refusals
update_staleness                         histogram  experiment               each update, in versions
stage_seconds                            histogram  experiment, stage        each update: see `STAGES`

What comes from the ledger is the same whoever is asked, and survives the coordinator; the histograms begin
anew with each coordinator, as Prometheus expects of them.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence

import redis
from prometheus_client import CollectorRegistry, Histogram, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tasks import progress
from tasks.app import connect
from tasks.ledger import Ledger
from tasks.messages import HistoryRow
from tasks.progress import Progress
from workers.errors import FedeltaError, MalformedMessage, NotFound, Unavailable

logger = logging.getLogger(__name__)

# train: at the site, from taking the order to its delta; wait: from there until a turn folded it in.
STAGES = ("train", "wait")
LONGEST_WAIT = 30 * 24 * 3600  # seconds that are believed

registry = CollectorRegistry()
_STALENESS = Histogram(
    "fedelta_update_staleness",
    "Versions committed between an update's base and its application.",
    ["experiment"],
    buckets=(0, 1, 2, 4, 8, 16, 32, 64, 128, 256),
    registry=registry,
)
_SECONDS = Histogram(
    "fedelta_stage_seconds",
    "Seconds that an update spent in each stage.",
    ["experiment", "stage"],
    buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000),
    registry=registry,
)


def observe(experiment: str, rows: Iterable[HistoryRow]) -> None:
    """Count updates that were committed."""
    for row in rows:
        _STALENESS.labels(experiment).observe(row.staleness)
        _SECONDS.labels(experiment, "train").observe(row.seconds)
        waited = row.time - row.started - row.seconds  # by the site's word, which may be anything
        if 0 <= waited < LONGEST_WAIT:
            _SECONDS.labels(experiment, "wait").observe(waited)


def serve(address: tuple[str, int] | None) -> None:
    """Answer Prometheus at this address and port; nothing if there is none.

    Raises:
        Unavailable: the port cannot be had.
    """
    if address is None:
        return
    try:
        start_http_server(address[1], address[0], registry=registry)
    except OSError as error:
        raise Unavailable(f"metrics cannot be served at {address[0]}:{address[1]}: {error}") from error


class LedgerCollector(Collector):
    """The metrics that the ledger holds."""

    def describe(self) -> Iterable[Metric]:
        """None beforehand: to be registered asks for no Redis."""
        return []

    def collect(self) -> Iterable[Metric]:
        """Read every experiment, once; without a Redis there is nothing to say."""
        try:
            client = connect()
            return families(list(_readable(client)))
        except (FedeltaError, redis.RedisError) as error:
            logger.warning("no metrics: %s", error)
            return []


registry.register(LedgerCollector())


def _readable(client: redis.Redis) -> Iterator[Progress]:
    """Every experiment; one that cannot be read must not hide the others."""
    for name in Ledger(client).names():
        try:
            yield progress.read(client, name, num_rows=1)
        except (MalformedMessage, NotFound, ValueError) as error:
            logger.warning("%s: no metrics: %s", name, error)


def families(experiments: Sequence[Progress]) -> list[Metric]:
    """What the ledger says of these experiments, as Prometheus has it."""
    return [*_of_experiments(experiments), *_of_sites(experiments)]


def _of_experiments(experiments: Sequence[Progress]) -> list[Metric]:
    labels = ["experiment"]
    refusals = CounterMetricFamily("fedelta_refusals", "Submissions refused.", labels=labels)
    resent = CounterMetricFamily("fedelta_resent_orders", "Orders sent again.", labels=labels)
    version = GaugeMetricFamily("fedelta_model_version", "Committed server steps.", labels=labels)
    running = GaugeMetricFamily("fedelta_experiment_running", "1 while not finished.", labels=labels)
    num_bytes = CounterMetricFamily(
        "fedelta_bytes", "Bytes of models and deltas.", labels=["experiment", "direction"]
    )
    scores = GaugeMetricFamily(
        "fedelta_metric", "Mean over sites, last scored.", labels=["experiment", "metric"]
    )
    for found in experiments:
        name, head = found.name, found.head
        refusals.add_metric([name], head.refused)
        resent.add_metric([name], head.resent)
        version.add_metric([name], head.version)
        running.add_metric([name], head.phase != "finished")
        num_bytes.add_metric([name, "up"], head.bytes_up)
        num_bytes.add_metric([name, "down"], head.bytes_down)
        for row in found.metrics[-1:]:
            for metric, value in row.metrics.items():
                if value is not None:
                    scores.add_metric([name, metric], value)
    return [refusals, resent, version, running, num_bytes, scores]


def _of_sites(experiments: Sequence[Progress]) -> list[Metric]:
    labels = ["experiment", "site"]
    updates = CounterMetricFamily("fedelta_updates", "Updates applied.", labels=labels)
    refusals = CounterMetricFamily("fedelta_site_refusals", "Submissions refused.", labels=labels)
    resent = CounterMetricFamily("fedelta_site_resent_orders", "Orders sent again.", labels=labels)
    absences = CounterMetricFamily("fedelta_site_absences", "Times it went away.", labels=labels)
    away = GaugeMetricFamily("fedelta_site_away", "1 while nothing is heard of it.", labels=labels)
    dropped = GaugeMetricFamily("fedelta_site_dropped", "1 after too many refusals.", labels=labels)
    seen = GaugeMetricFamily(
        "fedelta_site_last_seen_timestamp_seconds", "Last sign of life.", labels=["site"]
    )
    last_seen: dict[str, float] = {}
    for found in experiments:
        for site in found.sites:
            place, record = [found.name, site.name], site.record
            updates.add_metric(place, record.updates)
            refusals.add_metric(place, record.refused)
            resent.add_metric(place, record.resent)
            absences.add_metric(place, record.absences)
            # Nobody notes who is back once an experiment gives no more orders.
            away.add_metric(place, record.is_away and found.head.phase in ("describing", "running"))
            dropped.add_metric(place, record.is_dropped)
            if site.seen is not None:
                last_seen[site.name] = site.seen
    for site_name, when in sorted(last_seen.items()):
        seen.add_metric([site_name], when)
    return [updates, refusals, resent, absences, away, dropped, seen]
