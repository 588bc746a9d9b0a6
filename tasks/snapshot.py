"""An experiment at rest: taken out of one ledger, put into another; `orchestrator.archive` is its file.

What is in flight is no part of it: no order is open, so there is no lease, no delta and no inbox. `resume`
gives new orders, wherever it is.
"""

import dataclasses
import itertools
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import redis

from tasks import codec, keys, messages, state, turn, values
from tasks.ledger import Ledger
from tasks.messages import EvaluationRow, Event, HistoryRow, MetricsRow
from tasks.progress import PAGE
from tasks.site_ledger import MAX_EVALUATIONS
from tasks.state import Head, Phase, SiteRecord, State
from tasks.turn import MAX_EVENTS
from workers.errors import MalformedMessage, NotFound
from workers.spec import Experiment, Spec

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Stream:
    """One of an experiment's append-only records."""

    name: str  # what it is called in a file
    key: str
    kind: type[HistoryRow] | type[MetricsRow] | type[Event] | type[EvaluationRow]
    max_rows: int | None = None  # twice of what Redis is told to keep, which it does about


Rows: TypeAlias = Callable[[Stream], Iterator[bytes]]  # a stream's rows, oldest first; can be asked again


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """An experiment as it is at one moment, with no order open."""

    spec: Spec
    state: State
    memory: codec.Buffer  # the strategy's, as the ledger has it
    model: codec.Buffer  # of the current version, likewise
    taken: float  # when, by the clock of the ledger that it was taken from
    rows: Rows

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self.spec.experiment.name

    @property
    def was_running(self) -> bool:
        """Whether it was not at rest when it was taken, and is so in the snapshot alone."""
        return self.state.head.finished == self.taken


def streams(experiment: Experiment) -> list[Stream]:
    """The experiment's records; each site writes its own evaluations."""
    name = experiment.name
    return [
        Stream(name="history", key=keys.history(name), kind=HistoryRow),
        Stream(name="metrics", key=keys.metrics(name), kind=MetricsRow),
        Stream(name="events", key=keys.events(name), kind=Event, max_rows=2 * MAX_EVENTS),
        *(
            Stream(
                name=f"evaluations/{site}",
                key=keys.evaluations(name, site),
                kind=EvaluationRow,
                max_rows=2 * MAX_EVALUATIONS,
            )
            for site in experiment.sites
        ),
    ]


def take(client: redis.Redis, name: str, reason: str = "exported while it ran") -> Snapshot:
    """The experiment as it is now; one that runs is not touched, and in the snapshot stopped for this reason.

    Raises:
        NotFound: there is none of that name.
    """
    spec = Ledger(client).spec(name)
    while True:
        head = messages.from_hash(Head, client.hgetall(keys.head(name)))
        if found := _read(client, spec, head.version, head.phase, reason):
            return found


def put(client: redis.Redis, snapshot: Snapshot) -> bool:
    """Make it an experiment of this ledger, in one transaction; the pause until now counts as one.

    False, and nothing is changed, if there is one of that name. Remains of one that this Redis has forgotten
    are removed.
    """
    name, experiment = snapshot.name, snapshot.spec.experiment
    with client.pipeline() as pipe:
        pipe.watch(keys.spec(name))
        if pipe.exists(keys.spec(name)):
            return False
        head, event = _arrived(snapshot, turn.now(pipe))
        nothing, new = State(head=head, sites={}), State(head=head, sites=snapshot.state.sites)
        written = {
            keys.model(name, head.version): codec.Parts(snapshot.model),
            keys.memory(name): codec.Parts(snapshot.memory),
        }
        with values.uploaded(client, written) as upload:
            upload.watch(pipe)
            pipe.multi()
            pipe.delete(*_leftovers(experiment))
            pipe.srem(keys.RUNNING, name)
            pipe.sadd(keys.EXPERIMENTS, name)
            pipe.set(keys.spec(name), messages.encode_spec(snapshot.spec))
            upload.put(pipe)
            turn.write_state(pipe, experiment, nothing, new)
            for stream in streams(experiment):
                for row in snapshot.rows(stream):
                    pipe.xadd(stream.key, {"row": row})
            pipe.xadd(keys.events(name), {"row": messages.encode(event)})
            try:
                pipe.execute()
            except redis.WatchError:
                return False
    return True


def _read(client: redis.Redis, spec: Spec, version: int, phase: Phase, reason: str) -> Snapshot | None:
    """What the experiment is in one moment; None if somebody commits meanwhile, or its version is another.

    To be too late again and again, one would have to be slower than a turn, which reads and writes models.
    """
    name, found = spec.experiment.name, streams(spec.experiment)
    model = values.read(client, keys.model(name, version))  # it stays, until the phase is another
    with client.pipeline() as pipe:
        pipe.watch(keys.head(name))
        memory = values.read(client, keys.memory(name))
        pipe.multi()
        pipe.time()
        pipe.hgetall(keys.head(name))
        pipe.hgetall(keys.sites(name))
        for stream in found:
            pipe.xrevrange(stream.key, count=1)
        try:
            (seconds, microseconds), stored, records, *last = pipe.execute()
        except redis.WatchError:
            return None
    now, head = seconds + microseconds / 1e6, messages.from_hash(Head, stored)
    if (head.version, head.phase) != (version, phase):
        return None
    if model is None or memory is None:
        raise NotFound(f"experiment {name}: the ledger has lost its model, or what its strategy remembers")
    sites = {
        site: messages.decode(SiteRecord, records[site.encode()]) for site in sorted(spec.experiment.sites)
    }
    ends = {stream.name: entries[0][0] for stream, entries in zip(found, last, strict=True) if entries}
    return Snapshot(
        spec=spec,
        state=state.at_rest(State(head=head, sites=sites), reason, now),
        memory=memory,
        model=model,
        taken=now,
        rows=lambda stream: _rows(client, stream, ends),
    )


def _rows(client: redis.Redis, stream: Stream, ends: Mapping[str, bytes]) -> Iterator[bytes]:
    """The stream's rows up to its end of that moment, a page at a time."""
    if stream.name not in ends:
        return iter(())
    return itertools.islice(_sound(stream, _entries(client, stream.key, ends[stream.name])), stream.max_rows)


def _entries(client: redis.Redis, key: str, end: bytes) -> Iterator[bytes]:
    start = "-"
    while entries := client.xrange(key, min=start, max=end.decode(), count=PAGE):
        yield from (fields.get(b"row", b"") for _, fields in entries)
        start = f"({entries[-1][0].decode()}"


def _sound(stream: Stream, rows: Iterator[bytes]) -> Iterator[bytes]:
    """The rows; what a site wrote that is none is left out, the coordinator has no excuse."""
    for number, row in enumerate(rows, 1):
        try:
            messages.decode(stream.kind, row)
        except MalformedMessage as error:
            if stream.kind is not EvaluationRow:
                raise MalformedMessage(f"{stream.name}, row {number}: {error}") from error
            logger.warning("%s: row %d is left out: %s", stream.name, number, error)
        else:
            yield row


def _arrived(snapshot: Snapshot, now: float) -> tuple[Head, Event]:
    """The head of an experiment that is here from now on, and the event that says so.

    Its clock stands while it is at rest, whatever the difference between the clocks of the two ledgers.
    """
    head = snapshot.state.head
    assert head.finished is not None  # it is at rest
    pause = max(now - head.finished, 0.0)
    exported = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(snapshot.taken))
    detail = f"exported on {exported} UTC after {head.applied} updates"
    event = Event(time=now, kind="imported", detail=detail, pause=pause)
    return dataclasses.replace(head, finished=now, paused=head.paused + pause), event


def _leftovers(experiment: Experiment) -> list[str]:
    """Keys that may be there and would be added to, or believed."""
    name = experiment.name
    own = [key(name) for key in (keys.head, keys.sites, keys.inbox, keys.chain)]
    return [*own, *(stream.key for stream in streams(experiment))]
