"""Whether a snapshot from a file is one: everything is looked at before anything of it is written.

Whoever made the file may be hostile, so nothing that it says of itself is believed: each part is held against
the spec, and the counts against the rows.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tasks import messages
from tasks.messages import Event, HistoryRow, MetricsRow
from tasks.snapshot import Snapshot, Stream, streams
from tasks.state import Head, SiteRecord
from workers import params as trees
from workers.errors import MalformedMessage
from workers.params import Params
from workers.spec import Spec

MAX_TIME = 1e11  # seconds since 1970, as in messages
MAX_COUNT = 2**53


def model_like(spec: Spec, limit: int) -> Params:
    """What the spec's model looks like, if it takes no more bytes than this.

    Raises:
        MalformedMessage: there is no such model, or it takes more.
    """
    try:
        model = spec.experiment.model.init(_Outline(limit), spec.schema.input_shape, spec.schema.num_outputs)
    except (ArithmeticError, MemoryError, ValueError) as error:
        raise MalformedMessage(f"spec: such a model cannot be made: {error}") from error
    if trees.num_bytes(model) > limit:
        raise _too_large(limit)
    return model


def check(found: Snapshot) -> dict[str, int]:
    """Look at the state and at every row; returns how many rows each stream has.

    Raises:
        MalformedMessage: a part is not what it should be; names it.
    """
    _check_head(found.state.head)
    if found.spec.schema.preprocessing is None and found.spec.experiment.data.standardize != "local":
        raise MalformedMessage("spec: expected the preprocessing that all sites share")
    _check_sites(found.state.sites, found.spec)
    history, *others = streams(found.spec.experiment)
    counts = {history.name: _check_history(found, history)}
    return counts | {stream.name: sum(1 for _ in _rows(found, stream)) for stream in others}


def _check_head(head: Head) -> None:
    is_at_rest = head.phase == "finished" and head.outcome and head.evaluating is None
    if not is_at_rest or head.finished is None:
        raise MalformedMessage(f"head: expected an experiment at rest, got one that is {head.phase}")
    if not 0 <= head.started <= head.finished <= MAX_TIME or not 0 <= head.paused <= MAX_TIME:
        raise MalformedMessage("head: expected a start, an end after it, and pauses that are not negative")
    if max(head.version, head.applied) >= MAX_COUNT:
        raise MalformedMessage(f"head: expected counts below {MAX_COUNT}")
    if not head.is_described:
        raise MalformedMessage("head: expected an experiment whose sites have described their examples")
    _check_text("head", head.reason)


def _check_sites(records: Mapping[str, SiteRecord], spec: Spec) -> None:
    if differing := sorted(records.keys() ^ set(spec.experiment.sites)):
        whose = "is not one of the spec's" if differing[0] in records else "is missing"
        raise MalformedMessage(f"sites: {differing[0]!r:.80} {whose}")
    for site, record in records.items():
        if record.base_version is not None:
            raise MalformedMessage(f"sites: expected no open order, got {site}/{record.sequence}")
        if record.sequence >= MAX_COUNT:
            raise MalformedMessage(f"sites: expected counts below {MAX_COUNT} of site {site}")
        _check_text("sites", record.software)


def _check_history(found: Snapshot, history: Stream) -> int:
    """Every update has its row, and every row is an update of the site that it names."""
    counted = Counter(row.site for row in _rows(found, history))
    total = counted.total()
    if total != found.state.head.applied:
        raise MalformedMessage(f"history: expected {found.state.head.applied} rows, got {total}")
    for site, record in found.state.sites.items():
        if (of_site := counted.pop(site, 0)) != record.updates:
            raise MalformedMessage(f"history: expected {record.updates} rows of site {site}, got {of_site}")
    return total


def _rows(found: Snapshot, stream: Stream) -> Iterator[Any]:
    """The stream's rows, each of which is one."""
    most = found.state.head.applied if stream.kind is HistoryRow else stream.max_rows
    for number, row in enumerate(found.rows(stream), 1):
        if most is not None and number > most:
            raise MalformedMessage(f"{stream.name}: expected at most {most} rows")
        try:
            decoded = messages.decode(stream.kind, row)
            _check_row(decoded, found)
        except MalformedMessage as error:
            raise MalformedMessage(f"{stream.name}, row {number}: {error}") from error
        yield decoded


def _check_row(row: object, found: Snapshot) -> None:
    sites, version = found.state.sites, found.state.head.version
    if isinstance(row, Event):
        _check_text("event", f"{row.site}{row.order}")
        _check_text("event", row.detail)
    elif isinstance(row, HistoryRow) and row.site not in sites:
        raise MalformedMessage(f"expected one of the spec's sites, got {row.site!r:.80}")
    if isinstance(row, HistoryRow | MetricsRow) and row.version > version + 1:
        raise MalformedMessage(f"expected versions up to {version + 1}, got {row.version}")
    if isinstance(row, HistoryRow | MetricsRow | Event) and not 0 <= row.time <= MAX_TIME:
        raise MalformedMessage(f"expected a time in seconds since 1970, got {row.time:g}")


def _check_text(where: str, text: str) -> None:
    """It will be shown in terminals."""
    if text != messages.one_line(text):
        raise MalformedMessage(f"{where}: expected a line of text, got {text!r:.80}")


def _too_large(limit: int) -> MalformedMessage:
    return MalformedMessage(f"model: expected more than {limit} bytes, by the spec")


class _Outline(np.random.Generator):
    """Draws zeros, and no more of them than so many bytes, whatever a hostile spec asks for."""

    def __init__(self, limit: int) -> None:
        super().__init__(np.random.PCG64(0))
        self._limit = self._left = limit

    def normal(self, loc: float, scale: float, size: tuple[int, ...]) -> np.ndarray:  # type: ignore[override]  # as models call it
        self._left -= 4 * math.prod(size)
        if self._left < 0:
            raise _too_large(self._limit)
        return np.zeros(size, np.float32)
