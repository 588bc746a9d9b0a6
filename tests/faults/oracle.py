"""The independent judge of a run: replays Redis's append-only file, and disbelieves everything else.

The file has every submission and every commit in order. What a row of the history says is folded with the
strategy itself, from the initial model; every model and memory that was stored must be the same bytes.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NoReturn

from tasks import codec, keys, messages
from tasks.messages import Event, HistoryRow, Order, Submission
from tasks.state import Head, SiteRecord
from tasks.turn import ASKED
from tests.faults.aof import Unit
from workers.errors import MalformedMessage
from workers.params import Params
from workers.spec import Spec
from workers.strategies import Server, Update


class Disagreement(AssertionError):
    """What was written contradicts itself; `check` is the rule that it breaks."""

    def __init__(self, check: str, detail: str) -> None:
        super().__init__(f"{check}: {detail}")
        self.check = check


@dataclass
class Judgement:
    """What the file says of one experiment, all of it checked."""

    rows: list[HistoryRow] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    orders: dict[str, Order] = field(default_factory=dict)  # that stand, by site
    deltas: dict[str, bytes] = field(default_factory=dict)
    models: dict[int, bytes] = field(default_factory=dict)
    records: dict[str, SiteRecord] = field(default_factory=dict)
    head: Head | None = None
    num_done_again: int = 0  # deltas of orders that were done more than once: the same


def judge(written: Iterable[Unit], name: str) -> Judgement:
    """Check every write of the experiment.

    Raises:
        Disagreement: one is wrong.
    """
    judge_of = Judge(name)
    for unit in written:
        judge_of.look_at(unit)
    return judge_of.found


def check_end(found: Judgement, outcome: str = "completed", updates: int | None = None) -> None:
    """What must be true of an experiment that is over."""
    head = found.head
    if head is None or (head.phase, head.outcome) != ("finished", outcome):
        _disagree("it ends", f"expected a finished experiment, {outcome}, got {head}")
    if updates is not None and head.applied != updates:
        _disagree("it stops exactly", f"expected {updates} updates, got {head.applied}")
    if found.orders or found.deltas:
        _disagree("nothing is left", f"orders of {list(found.orders)}, deltas of {list(found.deltas)}")
    if list(found.models) != [head.version]:
        _disagree("nothing is left", f"models {list(found.models)} at version {head.version}")


class Judge:
    """Follows the file, and keeps what a reader at each moment would see."""

    def __init__(self, name: str) -> None:
        self.found = Judgement()
        self._prefix = keys.head(name).removesuffix("head").encode()
        self._spec: Spec | None = None
        self._server = Server(params={}, version=0, memory={})
        self._params: dict[int, Params] = {}
        self._submissions: dict[str, list[tuple[Submission, int]]] = {}  # for the order that stands
        self._newest: dict[str, int] = {}  # order in the history, by site

    def look_at(self, unit: Unit) -> None:
        """One transaction, or one command."""
        changes = [change for command in unit for change in self._changes(command)]
        if any(kind == "spec" for _, kind, _, _ in changes):
            self._begin(changes)
        rows = [
            messages.decode(HistoryRow, row)
            for op, kind, _, row in changes
            if (op, kind) == ("add", "history")
        ]
        for place, row in enumerate(rows):
            self._fold(row)
            self._close(is_over=place + 1 < len(rows) and rows[place + 1].version > row.version)
        self._follow(changes)
        for op, kind, about, value in changes:
            if (op, kind) == ("set", "delta"):
                self._submitted(about, value)
        self._check(changes, rows)

    def _changes(self, command: list[bytes]) -> Iterator[tuple[str, str, str, bytes]]:
        """What a command changes of this experiment: set, del or add; the kind of key; whose; to what."""
        name, *words = command
        match name.upper():
            case b"SET":
                found = [("set", words[0], words[1])]
            case b"DEL" | b"UNLINK":
                found = [("del", key, b"") for key in words]
            case b"XADD":
                found = [("add", words[0], words[-1])]
            case b"HSET" | b"HMSET":
                found = [
                    ("hset " + f.decode(), words[0], v) for f, v in zip(words[1::2], words[2::2], strict=True)
                ]
            case _:
                found = []
        for op, key, value in found:
            if key.startswith(self._prefix):
                kind, _, about = key.removeprefix(self._prefix).decode().partition(":")
                yield op, kind, about, value

    def _begin(self, changes: list[tuple[str, str, str, bytes]]) -> None:
        if self._spec is not None:
            _disagree("a spec is written once", "it was written again")
        for op, kind, about, value in changes:
            if (op, kind) == ("set", "spec"):
                self._spec = messages.decode(Spec, value)
            elif (op, kind, about) == ("set", "model", "0"):
                self._params[0] = codec.decode_tree(value, reference=None)
        strategy = self._spec.experiment.strategy
        self._server = Server(params=self._params[0], version=0, memory=strategy.init(self._params[0]))

    def _submitted(self, site: str, value: bytes) -> None:
        try:
            submission = messages.decode(Submission, value, self._params[0])
        except MalformedMessage:
            return  # the coordinator has to refuse it
        order = self.found.orders.get(site)
        if order is None or (order.id, order.issued) != (submission.order, submission.issued):
            _disagree("a delta is stored for the order that stands", f"{submission.order}, {order} stands")
        earlier = self._submissions.setdefault(site, [])
        if earlier and submission.delta and earlier[-1][0].delta:
            self.found.num_done_again += 1
            if earlier[-1][0].delta != submission.delta:
                _disagree("an order done again gives the same delta", submission.order)
        earlier.append((submission, len(value)))

    def _fold(self, row: HistoryRow) -> None:
        """Fold in what the row names, and check what it says."""
        name, strategy = f"{row.site}/{row.order}", self._spec.experiment.strategy
        if row.order <= self._newest.get(row.site, 0):
            _disagree(
                "every update is in the history once", f"{name} after {row.site}/{self._newest[row.site]}"
            )
        self._newest[row.site] = row.order
        order = self.found.orders.get(row.site)
        if order is None or order.sequence != row.order:
            _disagree("an update ends the order that stands", f"{name}, {order} stands")
        if (row.base_version, row.staleness) != (order.base_version, row.version - 1 - order.base_version):
            _disagree("base and staleness are the order's", f"{row}, {order}")
        if row.version != self._server.version + 1:
            _disagree(
                "versions have no gap", f"{name} is in version {row.version}, after {self._server.version}"
            )
        submission = self._named_by(row)
        base = self._params[row.base_version]
        delta = codec.unpack_tree(submission.delta, base)
        update = Update(delta=delta, base=base, num_examples=row.num_examples, staleness=row.staleness)
        if row.weight != strategy.weight(update):
            _disagree("weights follow the strategy", f"{name}: {row.weight}")
        self._server = strategy.fold(self._server, update)
        self.found.rows.append(row)

    def _named_by(self, row: HistoryRow) -> Submission:
        """The submission that the row names: it was stored before, for the same order."""
        for submission, num_bytes in reversed(self._submissions.get(row.site, [])):
            said = (submission.loss, submission.num_examples, submission.seconds, num_bytes)
            if (
                said == (row.loss, row.num_examples, row.seconds, row.bytes_up)
                and submission.delta is not None
            ):
                return submission
        _disagree("an update was submitted before", f"{row.site}/{row.order}: no submission is like {row}")

    def _close(self, *, is_over: bool) -> None:
        """The server's step, if it is due; of a round it is what was written that says so."""
        strategy, before = self._spec.experiment.strategy, self._server
        if not strategy.is_synchronous:
            self._server = strategy.close(before, 1, len(self._spec.experiment.sites))
        elif is_over:
            self._server = strategy.close(before, 0, len(self._spec.experiment.sites))
            if self._server.version == before.version:
                _disagree("a round has its quorum", f"version {before.version + 1}: {before.memory['count']}")
        self._params[self._server.version] = self._server.params

    def _follow(self, changes: list[tuple[str, str, str, bytes]]) -> None:
        """What a reader sees after these changes; a round that was closed is closed here, too."""
        head = {op.removeprefix("hset ").encode(): value for op, kind, _, value in changes if kind == "head"}
        if head:
            self._has_next_head(messages.from_hash(Head, head))
        for op, kind, about, value in changes:
            if (op, kind) == ("add", "events"):
                self.found.events.append(messages.decode(Event, value))
            elif kind == "sites":
                self.found.records[op.removeprefix("hset ")] = messages.decode(SiteRecord, value)
            elif kind == "order":
                self._ordered(about, messages.decode(Order, value) if op == "set" else None)
            elif kind == "delta":
                self.found.deltas.pop(about, None)
                if op == "set":
                    self.found.deltas[about] = value
            elif kind == "model":
                self.found.models.pop(int(about), None)
                if op == "set":
                    self.found.models[int(about)] = value

    def _has_next_head(self, head: Head) -> None:
        before, self.found.head = self.found.head, head
        if before is not None and head.commits != before.commits + 1:
            _disagree("commits follow one another", f"{head.commits} after {before.commits}")
        if self._spec.experiment.strategy.is_synchronous and head.version > self._server.version:
            self._close(is_over=True)

    def _ordered(self, site: str, order: Order | None) -> None:
        old = self.found.orders.pop(site, None)
        if order is None:
            self._submissions.pop(site, None)
            return
        self.found.orders[site] = order
        if old is None or old.sequence != order.sequence:
            self._submissions.pop(site, None)
            if order.sequence <= self._newest.get(site, 0):
                _disagree("an order's number is new", order.id)
        elif dataclasses.replace(old, attempt=order.attempt) != order:
            _disagree("what is asked never changes", f"{order}, before {old}")
        if self.found.head is not None and order.asks != ASKED[self.found.head.phase]:
            _disagree("what is asked fits the phase", f"{order} while {self.found.head.phase}")
        self._check_what_counts(order)

    def _check_what_counts(self, order: Order) -> None:
        """An order names its experiment by when it began, and how many of its site's updates count."""
        updates = sum(row.site == order.site for row in self.found.rows)
        began = self.found.head.started if self.found.head else order.begun
        if (order.begun, order.updates) != (began, updates):
            _disagree("an order says what counts so far", f"{order}: began {began}, {updates} updates")

    def _check(self, changes: list[tuple[str, str, str, bytes]], rows: list[HistoryRow]) -> None:
        """After a commit: what is stored is what the history says."""
        head, server = self.found.head, self._server
        if head is None or not any(kind == "head" for _, kind, _, _ in changes):
            if rows:
                _disagree("a row is written with the head", str(rows))
            return
        if head.applied != len(self.found.rows):
            _disagree("applied is the history's length", f"{head.applied}, {len(self.found.rows)} rows")
        if head.version != server.version:
            _disagree("the version is the history's", f"{head.version}, and {server.version} by the history")
        if head.refused != sum(event.kind == "refused" for event in self.found.events):
            _disagree("every refusal is told", f"{head.refused} refused")
        self._check_trees(changes)
        self._check_records(head)

    def _check_trees(self, changes: list[tuple[str, str, str, bytes]]) -> None:
        """Model and memory are those of the replay, byte for byte."""
        for op, kind, about, value in changes:
            if (op, kind) == ("set", "model") and value != codec.encode_tree(self._params[int(about)]):
                _disagree("the model is what the history says", f"version {about} differs")
            if (op, kind) == ("set", "memory") and value != codec.encode_tree(self._server.memory):
                _disagree("the memory is what the history says", f"at version {self._server.version}")

    def _check_records(self, head: Head) -> None:
        """Each site's record agrees with its order, and every model is there that somebody may ask for."""
        for site, record in self.found.records.items():
            order = self.found.orders.get(site)
            if record.base_version != (order.base_version if order else None):
                _disagree("a record agrees with its order", f"{site}: {record}, {order}")
            if order and (order.sequence, order.issued) != (record.sequence, record.issued):
                _disagree("a record agrees with its order", f"{site}: {record}, {order}")
        needed = {head.version, head.evaluating, *(r.base_version for r in self.found.records.values())} - {
            None
        }
        if set(self.found.models) != needed:
            _disagree(
                "the models that are needed are kept", f"{sorted(self.found.models)}, needed {sorted(needed)}"
            )


def _disagree(check: str, detail: str) -> NoReturn:
    raise Disagreement(check, detail)
