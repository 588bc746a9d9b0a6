"""The file of an experiment at rest: a zip, whose members anybody can look at.

member              what
snapshot.json       format, name, when it was taken, by which software, how much is in it: `Contents`
experiment.toml     the experiment as its author wrote it, or where nobody has that, as the spec says it
spec, head          messages, as in the ledger
sites               {"v": 1, "sites": {site: its record, a message}}
model, memory       trees, as in the ledger: the current version's parameters, and what the strategy remembers
history, metrics, events, evaluations/<site>    rows, oldest first: each a message in a msgpack byte string

It has no order, no credentials and no examples in it. All of it is checked before any of it is used.
"""

import dataclasses
import datetime
import json
import os
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import msgpack
from pydantic import AwareDatetime, TypeAdapter, ValidationError

from orchestrator import experiment, inspection, members
from orchestrator.members import Members
from tasks import codec, messages, turn
from tasks.presence import SOFTWARE
from tasks.snapshot import Snapshot, Stream, streams
from tasks.state import Head, SiteRecord, State
from workers.errors import ExperimentError, MalformedMessage
from workers.params import Params
from workers.settings import Name, NonNegativeInt, explain, settings
from workers.spec import Spec
from workers.strategies import Server

FORMAT = 1
CONTENTS, FILE = "snapshot.json", "experiment.toml"
SINGLE = (CONTENTS, FILE, "spec", "head", "sites", "model", "memory")
MAX_TEXT = 16 * 2**20  # bytes of a member that lists sites or features
MAX_ROWS = 2**30  # bytes of all rows together, ...
MAX_TREES = 2**30  # bytes of model and memory together, or as many as the file has
MAX_RATIO = 100  # ... or so many times the file's; the coordinator's are packed to a tenth
PACKED = 64 * 2**20  # bytes of a member that is packed: more are a model's numbers, which hardly pack
EARLIEST = 315_532_800  # seconds since 1970, the first that a zip knows


@settings
class Contents:
    """What the file says of itself."""

    format: NonNegativeInt
    name: Name
    exported: AwareDatetime
    software: str
    version: NonNegativeInt
    applied: NonNegativeInt
    rows: dict[str, NonNegativeInt]


@dataclass(frozen=True, kw_only=True)
class Archive:
    """What is in a file, all of it checked; its rows are read again when they are asked for."""

    snapshot: Snapshot
    experiment_text: str


def write(path: Path, snapshot: Snapshot, experiment_text: str) -> None:
    """Write the file beside its place and put it there: complete or not at all, and its owner's alone.

    Raises:
        ExperimentError: there is one already, or none can be written there.
        MalformedMessage: what was taken from the ledger is not complete.
    """
    _refuse_existing(path)
    unfinished = None
    try:
        handle, unfinished = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            _write_members(file, snapshot, experiment_text)
            file.flush()
            os.fsync(file.fileno())
        _refuse_existing(path)
        os.replace(unfinished, path)
    except OSError as error:
        raise ExperimentError(f"{path}: cannot be written: {error.strerror}") from error
    finally:
        if unfinished is not None:
            Path(unfinished).unlink(missing_ok=True)


@contextmanager
def opened(path: Path) -> Iterator[Archive]:
    """What is in the file, while it is open.

    Raises:
        ExperimentError: it cannot be read, or is not such a file; names the member that is wrong.
    """
    try:
        found = Members(path)
    except OSError as error:
        raise ExperimentError(f"{path}: cannot be read: {error.strerror}") from error
    except MalformedMessage as error:
        raise ExperimentError(f"{path}: nothing was imported: {error}") from error
    try:
        yield _read(found)
    except MalformedMessage as error:
        raise ExperimentError(f"{path}: nothing was imported: {error}") from error
    finally:
        found.close()


def _refuse_existing(path: Path) -> None:
    if os.path.lexists(path):
        raise ExperimentError(f"{path}: is there already; nothing is overwritten")


def _write_members(file: IO[bytes], snapshot: Snapshot, experiment_text: str) -> None:
    head, sites = snapshot.state.head, snapshot.state.sites
    records = {site: messages.encode(record) for site, record in sites.items()}
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in {
            FILE: _faithful(experiment_text, snapshot.spec).encode(),
            "spec": messages.encode_spec(snapshot.spec),
            "head": messages.encode(head),
            "sites": msgpack.packb({"v": 1, "sites": records}),
            "model": snapshot.model,
            "memory": snapshot.memory,
        }.items():
            is_packed = len(data) <= PACKED
            archive.writestr(_info(name, snapshot), data, None if is_packed else zipfile.ZIP_STORED)
        counts = {
            stream.name: _write_rows(archive, snapshot, stream)
            for stream in streams(snapshot.spec.experiment)
        }
        if counts["history"] != head.applied:
            found = counts["history"]
            raise MalformedMessage(f"history: expected {head.applied} rows in the ledger, got {found}")
        archive.writestr(_info(CONTENTS, snapshot), _described(snapshot, counts))


def _write_rows(archive: zipfile.ZipFile, snapshot: Snapshot, stream: Stream) -> int:
    count = 0
    with archive.open(_info(stream.name, snapshot), "w", force_zip64=True) as member:
        for row in snapshot.rows(stream):
            member.write(members.pack_row(row))
            count += 1
    return count


def _described(snapshot: Snapshot, counts: dict[str, int]) -> str:
    contents = Contents(
        format=FORMAT,
        name=snapshot.name,
        exported=datetime.datetime.fromtimestamp(snapshot.taken, datetime.UTC),
        software=SOFTWARE,
        version=snapshot.state.head.version,
        applied=snapshot.state.head.applied,
        rows=counts,
    )
    return json.dumps(TypeAdapter(Contents).dump_python(contents, mode="json"), indent=2) + "\n"


def _info(name: str, snapshot: Snapshot) -> zipfile.ZipInfo:
    """A member's heading."""
    year, month, day, hour, minute, second, *_ = time.gmtime(max(snapshot.taken, EARLIEST))
    info = zipfile.ZipInfo(name, (year, month, day, hour, minute, second))
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = 0o600 << 16  # what is unpacked is its owner's alone
    return info


def _read(found: Members) -> Archive:
    contents = _contents(found.read(CONTENTS, MAX_TEXT))
    spec = _decoded("spec", Spec, found.read("spec", MAX_TEXT))
    names = [stream.name for stream in streams(spec.experiment)]
    found.expect([*SINGLE, *names])
    found.bound(names, least=MAX_ROWS, ratio=MAX_RATIO)
    found.bound(["model", "memory"], least=MAX_TREES, ratio=1)
    exact_in = "model" if spec.experiment.compression.down is None else "memory"
    like = inspection.model_like(spec, found.size(exact_in))
    head = _decoded("head", Head, found.read("head", messages.MAX_BYTES))
    coding = messages.coding_of_model(spec.experiment, head.version)
    model, params = _tree(found, "model", like, coding)
    server = Server(params=params, version=head.version, memory=spec.experiment.strategy.init(params))
    memory, _ = _tree(found, "memory", turn.with_exact(spec.experiment, server))
    snapshot = Snapshot(
        spec=spec,
        state=State(head=head, sites=_sites(found.read("sites", MAX_TEXT), len(spec.experiment.sites))),
        memory=memory,
        model=model,
        taken=contents.exported.timestamp(),
        rows=lambda stream: found.rows(stream.name),
    )
    _compare(contents, snapshot, inspection.check(snapshot))
    text = found.read(FILE, MAX_TEXT).decode(errors="replace")
    return Archive(snapshot=snapshot, experiment_text=_faithful(text, spec))


def _contents(data: bytes) -> Contents:
    """What the file says of itself; if it is of another format, no more than that is asked of it."""
    try:
        written = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise MalformedMessage(f"{CONTENTS}: is not JSON: {error}") from error
    if isinstance(written, dict) and (given := written.get("format")) != FORMAT:
        by = messages.one_line(f"written by {written.get('software')}")
        raise MalformedMessage(
            f"{CONTENTS}: expected format {FORMAT}, got {given!r:.20}, {by:.{members.SHOWN}}"
        )
    try:
        return TypeAdapter(Contents).validate_python(written)
    except ValidationError as error:
        raise MalformedMessage(f"{CONTENTS}: {messages.one_line(explain(error, written)[0])}") from error


def _compare(contents: Contents, snapshot: Snapshot, counts: dict[str, int]) -> None:
    head = snapshot.state.head
    is_so = {"name": snapshot.name, "version": head.version, "applied": head.applied}
    is_so |= {f"rows of {name}": count for name, count in counts.items()}
    says = {"name": contents.name, "version": contents.version, "applied": contents.applied}
    says |= {f"rows of {name}": count for name, count in contents.rows.items()}
    for what in sorted(is_so.keys() | says.keys()):
        if (told := says.get(what)) != (true := is_so.get(what)):
            raise MalformedMessage(f"{CONTENTS}: {what!r:.{members.SHOWN}}: expected {true}, got {told}")


def _tree(found: Members, name: str, like: Params, coding: codec.Coding = codec.RAW) -> tuple[bytes, Params]:
    data = found.read(name, codec.size_limit(like))
    try:
        return data, codec.decode_tree(data, like, coding)
    except MalformedMessage as error:
        raise MalformedMessage(f"{name}: {error}") from error


def _sites(data: bytes, num_sites: int) -> dict[str, SiteRecord]:
    try:
        fields = codec.unpack(data, num_sites)
    except MalformedMessage as error:
        raise MalformedMessage(f"sites: {error}") from error
    records = fields.get("sites")
    if fields.keys() != {"v", "sites"} or fields["v"] != 1 or not isinstance(records, dict):
        raise MalformedMessage("sites: expected the sites' records, of format 1")
    return {site: _decoded("sites", SiteRecord, record) for site, record in sorted(records.items())}


def _decoded(name: str, kind: type[messages.Message], data: bytes) -> messages.Message:
    if type(data) is not bytes:
        raise MalformedMessage(f"{name}: expected bytes, got {type(data).__name__}")
    try:
        return messages.decode(kind, data)
    except MalformedMessage as error:
        raise MalformedMessage(f"{name}: {error}") from error


def _faithful(text: str, spec: Spec) -> str:
    """The text if it says what the spec says, which is what counts; else one that does.

    People edit files, and what a file leaves out another version of this software may take otherwise.
    """
    try:
        written = experiment.parse(text, FILE)
    except ExperimentError:
        return experiment.text(spec.experiment)
    is_so = dataclasses.replace(written, name=spec.experiment.name) == spec.experiment
    return text if is_so else experiment.text(spec.experiment)
