"""One turn of an experiment: read the state, decide anything from it, write all of it or nothing.

`Ledger.turn` begins one. This is the only writer of what the coordinator owns; `keys` explains every key.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache

import redis

from tasks import attendance, cache, codec, differences, hooks, keys, messages, state, values
from tasks.messages import (
    Announcement,
    Asked,
    EvaluationRow,
    Event,
    HistoryRow,
    MetricsRow,
    Order,
    Submission,
)
from tasks.state import Head, Phase, SiteRecord, State
from workers import params as trees
from workers.errors import Conflict, ExperimentError, MalformedMessage, NotFound
from workers.params import Params
from workers.spec import Differences, Experiment, Spec
from workers.strategies import Server

logger = logging.getLogger(__name__)

MAX_EVENTS = 10_000  # kept per experiment, about; the oldest go first
EXACT = "exact model"  # where it is in the memory; no strategy's paths begin so
MAX_DRAIN = 1000  # entries of the inbox that one turn looks at
ASKED: Mapping[Phase, Asked] = {
    "describing": "describe",
    "running": "train",
    "finishing": "personalize",
    "finished": "train",  # it has no orders
}
# Models that this process remembers from one turn to the next.
remembered = cache.Cache(max_bytes=64 * 2**20)
MAX_LEASE = 160  # bytes: an order's id, when it was given, and its holder


class Turn:
    """One read of an experiment and, if nobody wrote in between, one write."""

    def __init__(self, client: redis.Redis, pipe: redis.client.Pipeline, name: str, spec: Spec) -> None:
        """Read the state; made by `Ledger.turn`."""
        self._redis = client
        self._pipe = pipe
        self._name = name
        self._models: dict[int, Params] = {}
        self._server: Server | None = None
        self._read_deltas: list[str] = []
        # Submissions that were read together with one that was asked for, or why not.
        self._ahead: dict[str, bytes | redis.RedisError] = {}
        self.spec = spec
        self.now = now(pipe)
        with client.pipeline(transaction=False) as reads:
            reads.hgetall(keys.head(name)).hgetall(keys.sites(name))
            reads.lrange(keys.inbox(name), 0, MAX_DRAIN - 1)
            head, records, self._entries = reads.execute()
        self.state = _state_of(head, records)
        self._num_entries = len(self._entries)
        self._unnamed: list[str] = []
        if self._num_entries == MAX_DRAIN:
            self._look_behind_the_flood()

    @property
    def has_mail(self) -> bool:
        """Whether anything is in the inbox, be it of use or not."""
        return bool(self._entries)

    @property
    def waiting(self) -> list[str]:
        """Sites with an unfinished order that say they have submitted, in the order in which they did."""
        outstanding = {site.encode(): site for site in self.state.outstanding}
        named = [outstanding[entry] for entry in dict.fromkeys(self._entries) if entry in outstanding]
        return list(dict.fromkeys([*named, *self._unnamed]))

    def server(self) -> Server:
        """The current model and what the strategy remembers."""
        if self._server is not None:
            return self._server
        version = self.state.head.version
        if is_large(self._models.get(version, {})):
            del self._models[version]  # `model` has promised that it stays as it is
        params, memory = exact(self._memory())
        found = Server(params=params or self.model(version), version=version, memory=memory)
        if self._is_compressed:
            for leaf in found.params.values():
                leaf.flags.writeable = False  # it stays as it is, for `base`
            self._server = found
        elif is_large(found.params):
            del self._models[version]  # its arrays become those of the next
        return found

    def model(self, version: int) -> Params:
        """The parameters of a version that is still needed, which nobody may change."""
        if version not in self._models:
            # Of large ones the last alone, and that is let go of before the next is read.
            self._models = {number: tree for number, tree in self._models.items() if not is_large(tree)}
            key = keys.model(self._name, version)
            coding = messages.coding_of_model(self.spec.experiment, version)
            found = remembered.tree(self._redis, key, lambda stored: codec.decode_tree(stored, None, coding))
            self._models[version] = self._there(key, found and found[0])
        return self._models[version]

    def base(self, version: int) -> Params:
        """What a strategy takes as the model that a site began with: C(x_base) + x - C(x), x the current one.

        C(x) is what sites get. To mix in C(x) itself would draw the model to what its coding can write, and
        changes smaller than that would never add up.
        """
        current = self.state.head.version
        if not self._is_compressed:
            return self.model(version)
        if version == current:
            return self.server().params
        x, sent = self.server().params, self.model(current)
        return {
            path: trees.blockwise(lambda base, x, sent: base + (x - sent), leaf, x[path], sent[path])
            for path, leaf in self.model(version).items()
        }

    def submission(self, site: str, reference: Params) -> tuple[Submission, int] | None:
        """What the site submitted for its unfinished order, and its bytes; None if there is nothing.

        Raises:
            MalformedMessage: there is something, and it is too large or not a submission.
        """
        key, limit = keys.delta(self._name, site), codec.size_limit(reference)
        stored = self._stored(site, limit)
        if not stored:
            if not self._pipe.exists(key):
                return None  # else it is empty, or has come this moment
            stored = values.read(self._redis, key, limit) or b""
        self._read_deltas.append(key)
        if len(stored) > limit:
            raise MalformedMessage(f"expected at most {limit} bytes, got {values.length(self._redis, key)}")
        submission = messages.decode(Submission, stored, reference)
        record = self.state.sites[site]
        is_asked = submission.order == f"{site}/{record.sequence}" and submission.issued == record.issued
        return (submission, len(stored)) if is_asked else None

    def evaluations(self) -> dict[str, EvaluationRow]:
        """By site, its score of the version that the sites are asked for, where it has come.

        A site may score two versions at once, the last one and another, so it may not be its newest row.

        Redis has no command that reads a row in part, so a row can be as large as Redis lets a site write it
        (`proto-max-bulk-len`); the same is true of the inbox. What is too large is not decoded.
        """
        with self._redis.pipeline(transaction=False) as reads:
            for site in self.state.active:
                reads.xrevrange(keys.evaluations(self._name, site), count=2)
            streams = zip(self.state.active, reads.execute(), strict=True)
        found = {}
        for site, entries in streams:
            for _, fields in entries:
                try:
                    row = messages.decode(EvaluationRow, fields.get(b"row", b""))
                except MalformedMessage as error:
                    logger.warning("%s %s: a score that is none: %s", self._name, site, error)
                    continue  # as if it had not come
                if row.version == self.state.head.evaluating:
                    found[site] = row
        return found

    def announced(self) -> dict[str, Announcement | MalformedMessage]:
        """By active site, what its worker last announced, or why that cannot be read."""
        return attendance.announced(self._redis, self.state.active)

    def present(self) -> set[str]:
        """Active sites whose worker lives."""
        return attendance.recent(attendance.last_seen(self._redis, self.state.active), self.now)

    def leases(self) -> dict[str, str]:
        """By site that is at work on its unfinished order, the worker that holds the lease."""
        with self._redis.pipeline(transaction=False) as reads:
            for site in self.state.outstanding:
                reads.getrange(keys.lease(self._name, site), 0, MAX_LEASE - 1)
            held = zip(self.state.outstanding, reads.execute(), strict=True)
        holders = {}
        for site, lease in held:
            held, _, holder = lease.decode(errors="replace").rpartition(" ")
            record = self.state.sites[site]
            if held == messages.claim(f"{site}/{record.sequence}", record.issued):
                holders[site] = holder
        return holders

    def submitted(self) -> set[str]:
        """Sites with an unfinished order whose submission no turn has looked at."""
        with self._redis.pipeline(transaction=False) as reads:
            for site in self.state.outstanding:
                reads.exists(keys.delta(self._name, site))
            return {
                site for site, found in zip(self.state.outstanding, reads.execute(), strict=True) if found
            }

    def commit(
        self,
        new: State,
        *,
        server: Server | None = None,
        history: Sequence[HistoryRow] = (),
        metrics: MetricsRow | None = None,
        events: Sequence[Event] = (),
        is_mail_handled: bool = False,
        ask_again: Sequence[str] = (),
        spec: Spec | None = None,
    ) -> State:
        """Write all of it, or nothing; returns what is now the state.

        `is_mail_handled`: what was in the inbox is done with. `ask_again`: sites to be put into the inbox,
        because they have submitted and it does not name them. `spec`: the experiment's, completed.

        Raises:
            Conflict: somebody committed since the state was read.
            ExperimentError: the new version cannot be sent as the experiment asks.
        """
        name, pipe = self._name, self._pipe
        new = state.counted(new)
        self._models.clear()
        written, unneeded = self._encoded(server, new.head.phase)
        unneeded += [
            keys.model(name, version) for version in self.state.needed_versions - new.needed_versions
        ]
        with values.uploaded(self._redis, written) as upload:
            if self.state.head.phase == "finished" != new.head.phase:
                pipe.sadd(keys.RUNNING, name)
            upload.watch(pipe)
            pipe.multi()
            write_state(pipe, self.spec.experiment, self.state, new)
            if is_mail_handled and self._entries:
                pipe.ltrim(keys.inbox(name), self._num_entries, -1)
            if ask_again:
                pipe.rpush(keys.inbox(name), *ask_again)
            upload.put(pipe)
            if spec is not None:
                pipe.set(keys.spec(name), messages.encode_spec(spec))
            if gone := [*self._read_deltas, *unneeded]:
                pipe.delete(*gone)
            _append(pipe, keys.history(name), history)
            _append(pipe, keys.metrics(name), [metrics] if metrics else [])
            _append(pipe, keys.events(name), events, maxlen=MAX_EVENTS)
            hooks.reached("commit.before")
            try:
                pipe.execute()
            except redis.WatchError as error:
                raise Conflict(f"experiment {name}: somebody else committed first") from error
            hooks.reached("commit.after")
        remembered.update(written, unneeded)
        if new.head.phase == "finished":
            self._redis.srem(keys.RUNNING, name)
        return new

    @property
    def _is_compressed(self) -> bool:
        """Whether sites get versions that are not exact."""
        return self.spec.experiment.compression.down is not None

    def _stored(self, site: str, limit: int) -> codec.Buffer | None:
        """What the site submitted; small ones are read several at once, in the order in which they came."""
        if limit >= values.PIECE:
            return values.read(self._redis, keys.delta(self._name, site), limit)
        if site not in self._ahead:
            waiting = self.waiting
            following = waiting[waiting.index(site) :] if site in waiting else [site]
            following = following[: values.PIECE // limit]
            with self._redis.pipeline(transaction=False) as reads:
                for one in following:
                    reads.getrange(keys.delta(self._name, one), 0, limit)
                self._ahead = dict(zip(following, reads.execute(raise_on_error=False), strict=True))
        found = self._ahead.pop(site)
        if isinstance(found, redis.RedisError):  # it is no string
            return values.read(self._redis, keys.delta(self._name, site), limit)
        return found

    def _memory(self) -> Params:
        """What the strategy remembers, for this turn to change: every other reads what this one writes."""
        key = keys.memory(self._name)
        found = remembered.take(self._redis, key, lambda stored: codec.decode_tree(stored, None))
        return self._there(key, found)

    def _there(self, key: str, found: Params | None) -> Params:
        """What a coordinator wrote, unless it is gone."""
        if found is None:
            commits = self._pipe.hgetall(keys.head(self._name)).get(b"commits")
            if commits != str(self.state.head.commits).encode():
                raise Conflict(f"experiment {self._name}: somebody else committed, and {key} is gone")
            raise NotFound(f"experiment {self._name}: the ledger has lost {key}")
        return found

    def _look_behind_the_flood(self) -> None:
        """See every site that has submitted, though somebody fills the inbox, and let all of that be handled.

        An entry is pushed in one transaction with its delta, so no delta of those entries is overlooked.
        """
        self._num_entries = self._pipe.llen(keys.inbox(self._name))
        self._unnamed = sorted(self.submitted())

    def _encoded(self, server: Server | None, phase: Phase) -> tuple[dict[str, codec.Parts], list[str]]:
        """What is new of it in this phase, by key, and keys of differences that nobody needs any more.

        The last version of an experiment is sent as it is.
        """
        experiment, before = self.spec.experiment, self.state.head.version
        written, unneeded = {}, list[str]()
        if server is not None:
            memory = with_exact(experiment, server)
            written[keys.memory(self._name)] = codec.tree_in_parts(memory)
        if self._is_compressed and self.state.head.phase == "running" != phase:
            last = server or self.server()
            whole = codec.tree_in_parts(last.params, identity=differences.identity(experiment))
            written[keys.model(self._name, last.version)] = whole
            unneeded = differences.all_keys(self._redis, self._name)
        elif server is not None and server.version != before:
            if isinstance(experiment.compression.down, Differences):
                sent = self.model(before)
                with _sendable(server):
                    new, unneeded = differences.publish(self._redis, experiment, server, before, sent)
                written |= new
            else:
                written[keys.model(self._name, server.version)] = published(experiment, server)
        return written, unneeded


def now(pipe: redis.client.Pipeline) -> float:
    """Seconds since 1970 by the ledger's clock."""
    seconds, microseconds = pipe.time()
    return float(seconds + microseconds / 1e6)


def _state_of(head: Mapping[bytes, bytes], records: Mapping[bytes, bytes]) -> State:
    return State(
        head=messages.from_hash(Head, head),
        sites={site.decode(): _record(record) for site, record in sorted(records.items())},
    )


@lru_cache(maxsize=2048)
def _record(written: bytes) -> SiteRecord:
    """Most sites' records are as they were a turn ago."""
    return messages.decode(SiteRecord, written)


def is_large(tree: Params) -> bool:
    """Whether one turn should not hold several of these."""
    return trees.num_bytes(tree) >= codec.APART


def with_exact(experiment: Experiment, server: Server) -> Params:
    """What the strategy remembers; and the model as it is, where its versions are written compressed."""
    if experiment.compression.down is None:
        return server.memory
    return {**server.memory, **trees.under(EXACT, server.params)}


def exact(memory: Params) -> tuple[Params, Params]:
    """The inverse: the model, if it is in there, and what the strategy remembers."""
    params = trees.below(EXACT, memory)
    return params, {path: leaf for path, leaf in memory.items() if not path.startswith(f"{EXACT}/")}


def published(experiment: Experiment, server: Server) -> codec.Parts:
    """The server's version of the model in full, as sites get it.

    Raises:
        ExperimentError: a value is too large for the experiment's compression.
    """
    coding = messages.coding_of_model(experiment, server.version)
    with _sendable(server):
        return codec.tree_in_parts(server.params, coding, differences.identity(experiment))


@contextmanager
def _sendable(server: Server) -> Iterator[None]:
    """What cannot be written in there cannot be sent."""
    try:
        yield
    except ValueError as error:
        version = f"version {server.version} of the model"
        raise ExperimentError(f"compression.down: {version} cannot be sent so: {error}") from error


def write_state(pipe: redis.client.Pipeline, experiment: Experiment, old: State, new: State) -> None:
    """Queue what differs: head, records, orders; and what a site left behind for an order that is gone."""
    name = experiment.name
    pipe.hset(keys.head(name), mapping=messages.to_hash(new.head))
    for site, record in new.sites.items():
        if record == old.sites.get(site):
            continue
        pipe.hset(keys.sites(name), site, messages.encode(record))
        if record.base_version is None:
            pipe.delete(keys.order(name, site))
        else:
            order = Order(
                site=site,
                sequence=record.sequence,
                base_version=record.base_version,
                issued=record.issued,
                attempt=record.attempt,
                seed=messages.seed_of(experiment, site, record.sequence),
                asks=ASKED[new.head.phase],
                updates=record.updates,
                begun=new.head.started,
            )
            pipe.set(keys.order(name, site), messages.encode(order))
        before = old.sites.get(site, record)
        if record.base_version is None or record.sequence != before.sequence:
            pipe.delete(keys.lease(name, site), keys.delta(name, site))
        elif record.attempt != before.attempt:
            pipe.delete(keys.lease(name, site))


def _append(pipe: redis.client.Pipeline, key: str, rows: Sequence[object], maxlen: int | None = None) -> None:
    for row in rows:
        pipe.xadd(key, {"row": messages.encode(row)}, maxlen=maxlen)
