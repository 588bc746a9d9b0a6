"""Files of experiments: written, read with suspicion, and moved by the command line."""

import dataclasses
import json
import os
import random
import signal
import stat
import struct
import zipfile
from pathlib import Path

import msgpack
import numpy as np
import pytest
import redis

from orchestrator import archive, control, experiment, inspection, moving, runs
from orchestrator.runs import Run
from tasks import codec, dispatch, keys, messages, progress, snapshot, state
from tasks.ledger import Ledger
from tasks.messages import EvaluationRow, Event
from tasks.site_ledger import SiteLedger
from tests.conftest import constant, drain, make_spec, submit, zeros
from tests.machine import wait_until
from tests.test_run import Place, descendants
from workers.errors import ExperimentError, MalformedMessage, NotFound, Unavailable

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.toml"))


@pytest.fixture(autouse=True)
def nothing_is_sent(monkeypatch):
    monkeypatch.setattr(dispatch, "follow", lambda *_: None)


def fill(client, **changes):
    """An experiment with two updates, a refusal, two scores."""
    Ledger(client).create("trial", make_spec(**changes), zeros())
    for version in (0, 1):
        SiteLedger(client).put_evaluation("trial", "ab", version, 10, {"mse": 1.5, "r2": None})
    for order, value in (("a/1", 1.0), ("c/1", 2.0)):
        submit(client, order, constant(value))
        drain(client)
    if "stop" not in changes:
        submit(client, "ab/1", {"weight": zeros()["weight"]})
        drain(client)


@pytest.fixture
def taken(client):
    fill(client)
    return snapshot.take(client, "trial")


@pytest.fixture
def file(taken, tmp_path):
    path = tmp_path / "trial.zip"
    archive.write(path, taken, experiment.text(taken.spec.experiment))
    return path


def members(path):
    with zipfile.ZipFile(path) as found:
        return {name: found.read(name) for name in found.namelist()}


def repack(path, changed, compression=zipfile.ZIP_DEFLATED):
    """The file with other members; None leaves one out."""
    kept = {name: data for name, data in {**members(path), **changed}.items() if data is not None}
    with zipfile.ZipFile(path, "w", compression) as written:
        for name, data in kept.items():
            written.writestr(name, data)


def refusal(path):
    with pytest.raises(ExperimentError) as raised, archive.opened(path):
        pytest.fail("it was accepted")
    text = str(raised.value)
    assert text.startswith(f"{path}: nothing was imported: ") and "\n" not in text and len(text) < 1500
    return text.removeprefix(f"{path}: nothing was imported: ")


def test_what_is_written_is_what_is_read(taken, file):
    with archive.opened(file) as found:
        again = found.snapshot
        assert (again.spec, again.state, again.taken) == (taken.spec, taken.state, taken.taken)
        assert (again.memory, again.model) == (taken.memory, taken.model)
        counts = {}
        for stream in snapshot.streams(taken.spec.experiment):
            rows = list(again.rows(stream))
            assert rows == list(taken.rows(stream)) == list(again.rows(stream))
            counts[stream.name] = len(rows)
    assert counts == {
        **{"history": 2, "metrics": 0, "events": 1},
        **{"evaluations/a": 0, "evaluations/ab": 2, "evaluations/c": 0},
    }


def test_the_file_is_a_zip_that_says_what_it_is_and_is_its_owners_alone(file):
    found = members(file)
    assert set(found) == {
        *("snapshot.json", "experiment.toml", "spec", "head", "sites", "model", "memory"),
        *("history", "metrics", "events", "evaluations/a", "evaluations/ab", "evaluations/c"),
    }
    says = json.loads(found["snapshot.json"])
    assert (says["format"], says["name"], says["applied"], says["version"]) == (1, "trial", 2, 2)
    assert says["rows"]["history"] == 2 and says["software"].startswith("fedelta ")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in file.parent.glob(".trial*")] == []
    with zipfile.ZipFile(file) as zipped:
        assert zipped.getinfo("model").date_time[0] >= 2024
        assert zipped.getinfo("model").external_attr >> 16 == 0o600


def test_a_file_that_is_there_is_not_overwritten(taken, file):
    before = file.read_bytes()
    with pytest.raises(ExperimentError, match="trial.zip: is there already; nothing is overwritten"):
        archive.write(file, taken, "")
    assert file.read_bytes() == before


def test_a_file_that_cannot_be_written_is_told_and_leaves_nothing(taken, tmp_path):
    with pytest.raises(ExperimentError, match="cannot be written: No such file or directory"):
        archive.write(tmp_path / "none" / "x.zip", taken, "")

    def full(stream):
        raise OSError(28, "No space left on device")

    with pytest.raises(ExperimentError, match=r"x\.zip: cannot be written: No space left on device"):
        archive.write(tmp_path / "x.zip", dataclasses.replace(taken, rows=full), "")
    with pytest.raises(KeyboardInterrupt):
        archive.write(tmp_path / "x.zip", dataclasses.replace(taken, rows=interrupted), "")
    assert not [path for path in tmp_path.iterdir() if "x.zip" in path.name]


def interrupted(stream):
    raise KeyboardInterrupt


def test_a_history_that_has_lost_a_row_is_not_exported(client, tmp_path):
    fill(client)
    client.xtrim(keys.history("trial"), maxlen=1, approximate=False)
    with pytest.raises(MalformedMessage, match="history: expected 2 rows in the ledger, got 1"):
        archive.write(tmp_path / "x.zip", snapshot.take(client, "trial"), "")
    assert not (tmp_path / "x.zip").exists()


def test_the_authors_file_is_kept_word_for_word_and_one_that_says_something_else_is_not(taken, tmp_path):
    own = experiment.text(taken.spec.experiment)
    commented = f"# mine\n{own}".replace('"trial"', '"another-name"')  # `trial-2` is `trial`'s file
    for number, (given, kept) in enumerate(
        ((commented, commented), (own.replace("0.5", "0.25"), own), ("", own), ("no = [toml", own))
    ):
        archive.write(tmp_path / f"{number}.zip", taken, given)
        with archive.opened(tmp_path / f"{number}.zip") as found:
            assert found.experiment_text == kept
    repack(tmp_path / "0.zip", {"experiment.toml": own.replace('"ab"', '"--loglevel"').encode()})
    with archive.opened(tmp_path / "0.zip") as found:
        assert found.experiment_text == own


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_experiment_is_written_as_a_file_that_says_the_same(example):
    read = experiment.read(example)
    assert experiment.parse(experiment.text(read), "x") == read


@pytest.mark.parametrize("name", ["snapshot.json", "spec", "head", "model", "history", "evaluations/c"])
def test_a_missing_member_is_named(file, name):
    repack(file, {name: None})
    assert refusal(file) == f"{name}: is missing"


def test_a_member_too_many_is_named(file):
    repack(file, {"../../evil\x1b[31m": b""})
    assert refusal(file) == r"'../../evil\x1b[31m': is no part of an experiment"


def test_a_member_that_is_there_twice_is_refused(file):
    with zipfile.ZipFile(file, "a") as written, pytest.warns(UserWarning, match="Duplicate name"):
        written.writestr("head", b"")
    assert refusal(file) == "a member is there more than once"


def test_a_file_that_is_no_zip_or_cut_off_is_refused(file, tmp_path):
    whole = file.read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        assert refusal(file).startswith("it is no zip, or damaged: ")
    for path, why in ((tmp_path / "none", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(ExperimentError, match=f"{path}: cannot be read: {why}"), archive.opened(path):
            pass


def test_whichever_byte_is_flipped_nothing_else_is_read_than_was_written(taken, file):
    whole, rng = file.read_bytes(), random.Random(7)
    refused = 0
    for place in rng.sample(range(len(whole)), 400):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.randrange(8)
        file.write_bytes(damaged)
        try:
            with archive.opened(file) as found:  # a date, say, which nobody reads
                assert (found.snapshot.spec, found.snapshot.state) == (taken.spec, taken.state)
                assert (found.snapshot.model, found.snapshot.memory) == (taken.model, taken.memory)
        except ExperimentError as error:
            assert str(error).startswith(f"{file}: nothing was imported: ")
            refused += 1
    assert refused > 250


def json_with(**changed):
    return lambda found: {
        "snapshot.json": json.dumps({**json.loads(found["snapshot.json"]), **changed}).encode()
    }


def message_with(name, kind, **changed):
    def change(found):
        return {name: messages.encode(dataclasses.replace(messages.decode(kind, found[name]), **changed))}

    return change


def spec_with(**changed):
    def change(found):
        fields = msgpack.unpackb(found["spec"])
        for path, value in changed.items():
            *outer, last = path.split("__")
            table = fields
            for part in outer:
                table = table[part]
            table[last] = value
        return {"spec": msgpack.packb(fields)}

    return change


def record_with(site, **changed):
    def change(found):
        table = msgpack.unpackb(found["sites"])
        fields = msgpack.unpackb(table["sites"][site])
        table["sites"][site] = msgpack.packb({**fields, **changed})
        return {"sites": msgpack.packb(table)}

    return change


def sites_with(change_records):
    def change(found):
        table = msgpack.unpackb(found["sites"])
        change_records(table["sites"])
        return {"sites": msgpack.packb(table)}

    return change


def head_with(**changed):
    return lambda found: {"head": msgpack.packb({**msgpack.unpackb(found["head"]), **changed})}


def rows_with(name, change_rows):
    def change(found):
        unpacker = msgpack.Unpacker()
        unpacker.feed(found[name])
        return {name: b"".join(msgpack.packb(row) for row in change_rows(list(unpacker)))}

    return change


def row_with(**changed):
    """The first row of the history with other fields."""
    return rows_with(
        "history", lambda rows: [msgpack.packb({**msgpack.unpackb(rows[0]), **changed}), rows[1]]
    )


def tree(**shapes):
    return codec.encode_tree({name: np.zeros(shape, np.float32) for name, shape in shapes.items()})


EVENT = messages.encode(Event(time=1.0, kind="refused", detail="\x1b]0;owned\x07"))
SCORE = messages.encode(EvaluationRow(time=1.0, version=0, num_examples=1, metrics={}))
MLP = {"experiment__model": {"kind": "mlp", "hidden": [2**40]}}
WIDE = {"experiment__model": {"kind": "mlp", "hidden": [100_000, 100_000]}}
MANY = {"experiment__model": {"kind": "mlp", "hidden": [4000] * 1000}}
EMPTY = {"fill": [], "shift": [], "scale": []}
NOTHING = {"schema__features": [], "schema__preprocessing": EMPTY, **MLP}
HOSTILE = {
    "no JSON": (lambda _: {"snapshot.json": b"{"}, "snapshot.json: is not JSON: "),
    "nested JSON": (lambda _: {"snapshot.json": b"[" * 100_000}, "snapshot.json: is not JSON: "),
    "a list": (lambda _: {"snapshot.json": b"[]"}, "snapshot.json: "),
    "another format": (
        json_with(format=2, software="fedelta 9\n"),
        "snapshot.json: expected format 1, got 2, written by fedelta 9 ",
    ),
    "no format": (json_with(format=None), "snapshot.json: expected format 1, got None"),
    "a field too many": (json_with(strange=1), "snapshot.json: strange: is not a field that is known here"),
    "a time without its place": (json_with(exported="2025-01-01T00:00:00"), "snapshot.json: exported: "),
    "another name": (json_with(name="other"), "snapshot.json: 'name': expected trial, got other"),
    "another count": (json_with(applied=3), "snapshot.json: 'applied': expected 2, got 3"),
    "another number of rows": (
        json_with(rows={}),
        "snapshot.json: 'rows of evaluations/a': expected 0, got None",
    ),
    "no spec": (lambda _: {"spec": b"\xc1"}, "spec: expected a msgpack map, got 1 bytes that are not"),
    "a path for a name": (
        spec_with(experiment__name="../evil"),
        "spec: Spec: experiment.name: expected lower-case letters, digits and hyphens, at most 63",
    ),
    "an absolute path": (
        spec_with(experiment__name="/etc"),
        "spec: Spec: experiment.name: expected lower-case",
    ),
    "a name with braces": (
        spec_with(experiment__name="a}b"),
        "spec: Spec: experiment.name: expected lower-case",
    ),
    "a site for a path": (
        spec_with(experiment__sites=["..", "ab", "c"]),
        "spec: Spec: experiment.sites.0: expec",
    ),
    "another site": (spec_with(experiment__sites=["b", "ab", "c"]), "evaluations/b: is missing"),
    "features without a mean": (
        spec_with(schema__preprocessing=EMPTY),
        "spec: Spec: schema.preprocessing: expected numbers for each of 1 inputs",
    ),
    "a layer without end": (spec_with(**MLP), "model: expected more than 119 bytes, by the spec"),
    "layers too wide": (spec_with(**WIDE), "model: expected more than 119 bytes, by the spec"),
    "layers too many": (spec_with(**MANY), "model: expected more than 119 bytes, by the spec"),
    "no features": (spec_with(**NOTHING), "spec: such a model cannot be made: "),
    "inputs of nobody knows what scale": (
        spec_with(schema__preprocessing=None),
        "spec: expected the preprocessing that all sites share",
    ),
    "a scale of 0": (
        spec_with(schema__preprocessing={"fill": [0.0], "shift": [0.0], "scale": [0.0]}),
        "spec: Spec: schema.preprocessing.scale.0: should be greater than 0, got 0.0",
    ),
    "another model": (
        spec_with(experiment__model={"kind": "mlp", "hidden": [2]}),
        "model: leaf 'bias' is unexpected",
    ),
    "one that runs": (
        head_with(phase="running"),
        "head: expected an experiment at rest, got one that is running",
    ),
    "one that is not described": (
        head_with(is_described=False),
        "head: expected an experiment whose sites have described their examples",
    ),
    "one that evaluates": (head_with(evaluating=2), "head: expected an experiment at rest"),
    "no end": (head_with(finished=None), "head: expected an experiment at rest"),
    "no outcome": (head_with(outcome=""), "head: expected an experiment at rest"),
    "an end before its start": (
        head_with(started=2e10),
        "head: expected a start, an end after it, and pauses",
    ),
    "a pause that is none": (head_with(paused=-1.0), "head: expected a start, an end after it, and pauses"),
    "an end that no clock shows": (head_with(finished=1e300), "head: expected a start, an end after it"),
    "no number": (head_with(started=float("nan")), "head: Head: started: "),
    "a count that no float holds": (head_with(version=2**60), "head: expected counts below 9007199254740992"),
    "a reason that rings": (head_with(reason="\x07"), r"head: expected a line of text, got '\x07'"),
    "a field of the head too many": (head_with(strange=1), "head: Head: strange: is not a field"),
    "another version": (head_with(version=1), "snapshot.json: 'version': expected 1, got 2"),
    "more updates than rows": (head_with(applied=3), "history: expected 3 rows, got 2"),
    "fewer updates than rows": (head_with(applied=1), "history: expected at most 1 rows"),
    "no sites": (lambda _: {"sites": b""}, "sites: expected a msgpack map"),
    "no map of sites": (
        lambda _: {"sites": msgpack.packb({"v": 1, "sites": 7})},
        "sites: expected the sites'",
    ),
    "a site too few": (sites_with(lambda table: table.pop("a")), "sites: 'a' is missing"),
    "a site too many": (
        sites_with(lambda table: table.update(b=table["a"])),
        "sites: 'b' is not one of the spec's",
    ),
    "a record that is text": (
        sites_with(lambda table: table.update(a="x")),
        "sites: expected bytes, got str",
    ),
    "an open order": (record_with("a", base_version=0), "sites: expected no open order, got a/2"),
    "another site's updates": (record_with("a", updates=2), "history: expected 2 rows of site a, got 1"),
    "software in colours": (record_with("a", software="\x1b[31m"), "sites: expected a line of text, got "),
    "a sequence without end": (record_with("a", sequence=2**60), "sites: expected counts below "),
    "a model of another shape": (
        lambda _: {"model": tree(weight=(2, 1), bias=1)},
        "model: leaf 'weight': expected float32 (1, 1), got float32 (2, 1)",
    ),
    "a model with a leaf too few": (lambda _: {"model": tree(bias=1)}, "model: leaf 'weight' is missing"),
    "a memory of another strategy": (
        lambda _: {"memory": tree(count=())},
        "memory: leaf 'count' is unexpected",
    ),
    "a row too few": (rows_with("history", lambda rows: rows[:1]), "history: expected 2 rows, got 1"),
    "a row too many": (rows_with("history", lambda rows: rows * 2), "history: expected at most 2 rows"),
    "a row of nobody's": (row_with(site="b"), "history, row 1: expected one of the spec's sites, got 'b'"),
    "a row of the future": (row_with(version=9), "history, row 1: expected versions up to 3, got 9"),
    "a row without a time": (
        row_with(time=-5.0),
        "history, row 1: expected a time in seconds since 1970, got -5",
    ),
    "a row that is none": (rows_with("history", lambda rows: [b"x", *rows]), "history, row 1: "),
    "a row of another format": (row_with(v=2), "history, row 1: HistoryRow: expected format 1, got 2"),
    "a list for a row": (rows_with("metrics", lambda _: [[]]), "metrics: expected byte strings, got list"),
    "a text for a row": (
        rows_with("metrics", lambda _: ["x"]),
        "metrics: expected rows of at most 16384 bytes",
    ),
    "a row too large": (
        rows_with("metrics", lambda _: [bytes(16_385)]),
        "metrics: expected rows of at most 163",
    ),
    "half a row": (lambda found: {"history": found["history"][:-1]}, "history: ends within a row"),
    "a row that claims more than there is": (
        lambda _: {"metrics": b"\xc6\x00\x00\x10\x00"},
        "metrics: ends within a row",
    ),
    "a row that claims what nobody holds": (
        lambda _: {"metrics": b"\xc6\xff\xff\xff\xff" + bytes(200_000)},
        "metrics: expected rows of at most 16384 bytes",
    ),
    "an event in colours": (
        rows_with("events", lambda _: [EVENT]),
        "events, row 1: event: expected a line of",
    ),
    "a score too many": (
        rows_with("evaluations/c", lambda _: [SCORE] * 20_001),
        "evaluations/c: expected at most 20000 rows",
    ),
    "zeros for a model": (
        lambda _: {"model": bytes(2**26)},
        "model: expected at most 5128 bytes, got 67108864",
    ),
    "zeros for a memory": (
        lambda _: {"memory": bytes(2**26)},
        "memory: expected at most 4096 bytes, got 6710",
    ),
    "zeros for a spec": (
        lambda _: {"spec": bytes(2**24 + 1)},
        "spec: expected at most 16777216 bytes, got 167772",
    ),
    "zeros for a head": (
        lambda _: {"head": bytes(2**24)},
        "head: expected at most 16384 bytes, got 16777216",
    ),
    "zeros for rows": (lambda _: {"metrics": bytes(2**24)}, "metrics: expected byte strings, got int"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_member_that_is_not_what_it_should_be_is_named(file, case):
    change, expected = HOSTILE[case]
    repack(file, change(members(file)))
    assert refusal(file).startswith(expected)


def test_rows_that_unpack_to_far_more_than_the_file_are_not_unpacked(file, monkeypatch):
    repack(file, {"metrics": bytes(2**22), "evaluations/c": bytes(2**22)})
    monkeypatch.setattr(archive, "MAX_ROWS", 2**22)
    assert refusal(file).startswith(
        "history, metrics, events, evaluations/a, evaluations/ab, evaluations/c: expec"
    )
    assert refusal(file).endswith(f", got {2 * 2**22 + sum(len(members(file)[name]) for name in few())}")


def few():
    return ("history", "events", "evaluations/a", "evaluations/ab")


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA], ids=["bzip2", "lzma"])
def test_a_packing_whose_cost_is_not_known_is_refused(file, compression):
    repack(file, {}, compression)
    assert refusal(file) == "snapshot.json: expected a member that is stored or deflated"


@pytest.mark.parametrize("more", [-3, 3])
def test_a_member_that_lies_about_its_size_is_refused(file, more):
    data = bytearray(file.read_bytes())
    place = data.rindex(b"PK\x01\x02", 0, data.rindex(b"history"))  # its heading in the directory
    (size,) = struct.unpack_from("<L", data, place + 24)
    struct.pack_into("<L", data, place + 24, size + more)
    file.write_bytes(data)
    assert refusal(file).startswith("history: ")


def test_an_encrypted_member_is_refused(file):
    data = bytearray(file.read_bytes())
    for mark, offset in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        place = data.index(mark)
        while place >= 0:
            data[place + offset] |= 1
            place = data.find(mark, place + 1)
    file.write_bytes(data)
    assert refusal(file).startswith("snapshot.json: is damaged: ")


def test_the_memory_of_every_server_optimizer_is_as_it_is_at_the_beginning(client, tmp_path):
    """Otherwise an experiment that has taken a step could not be imported."""
    for number, name in enumerate(("sgd", "adam", "adamw", "adagrad", "yogi", "rmsprop")):
        client.flushall()
        fill(client, strategy={"kind": "fedbuff", "buffer_size": 2, "server_optimizer": optimizer(name)})
        found = snapshot.take(client, "trial")
        assert found.state.head.version == 1
        archive.write(tmp_path / f"{number}.zip", found, "")
        with archive.opened(tmp_path / f"{number}.zip") as again:
            assert again.snapshot.memory == found.memory


def optimizer(name):
    return {"name": name, "learning_rate": 0.1, **({"momentum": 0.9} if name == "sgd" else {})}


def test_a_model_is_outlined_only_if_the_file_has_as_many_bytes():
    spec = make_spec(model={"kind": "mlp", "hidden": [3, 2]})
    assert {path: leaf.shape for path, leaf in inspection.model_like(spec, 68).items()} == {
        **{"layer0/weight": (1, 3), "layer0/bias": (3,), "layer1/weight": (3, 2), "layer1/bias": (2,)},
        **{"layer2/weight": (2, 1), "layer2/bias": (1,)},
    }
    with pytest.raises(MalformedMessage, match="model: expected more than 67 bytes, by the spec"):
        inspection.model_like(spec, 67)


# Moving


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder for runs, and no broker."""
    for name in ("FEDELTA_BROKER_URL", "FEDELTA_LEDGER_URL", "FEDELTA_CONNECTION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FEDELTA_RUNS_DIR", str(tmp_path / "runs"))
    return tmp_path / "runs"


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_without_a_broker_an_import_is_a_run_that_was_stopped(taken, file, here, tmp_path):
    moving.import_(file)
    (run,) = runs.every(here)
    assert (run.name, run.is_here, run.broker_url) == ("trial", True, None)
    assert (run.summary["outcome"], run.summary["applied"]) == ("stopped", 2)
    assert [path.name for path in here.iterdir()] == ["trial"]
    assert experiment.read(run.experiment_file) == taken.spec.experiment

    before = contents(run.redis_folder)
    found = moving.export(run, tmp_path / "again.zip")  # from a copy of its data
    assert (found.state.sites, found.model, found.was_running) == (taken.state.sites, taken.model, False)
    assert contents(run.redis_folder) == before
    with archive.opened(tmp_path / "again.zip") as again:
        told = [messages.decode(Event, row).kind for row in again.snapshot.rows(events(found))]
    assert told == ["refused", "imported"]


def test_an_export_of_a_run_that_was_stopped_does_not_write_to_its_data(file, here, tmp_path, monkeypatch):
    moving.import_(file)
    (run,) = runs.every(here)
    before, take = contents(run.redis_folder), snapshot.take

    def take_and_write(client, name):
        client.set("strange", "value")
        return take(client, name)

    monkeypatch.setattr(snapshot, "take", take_and_write)
    moving.export(run, tmp_path / "again.zip")
    assert contents(run.redis_folder) == before


def events(found):
    return snapshot.streams(found.spec.experiment)[2]


def test_with_a_broker_an_import_goes_into_the_ledger_and_has_a_folder(
    taken, file, here, client, monkeypatch
):
    monkeypatch.setenv("FEDELTA_BROKER_URL", client_url(client))
    client.flushall()
    moving.import_(file)
    (run,) = runs.every(here)
    assert (run.name, run.is_here) == ("trial", False)
    assert progress.read(client, "trial").head.applied == 2
    assert experiment.read(run.experiment_file) == taken.spec.experiment
    control.resume(client, "trial")
    assert {site.record.base_version for site in progress.read(client, "trial").sites} == {2}


def client_url(client):
    return f"redis+socket://{client.connection_pool.connection_kwargs['path']}"


@pytest.mark.parametrize("has_broker", [False, True])
def test_a_folder_that_is_there_is_left_alone(file, here, client, monkeypatch, has_broker):
    if has_broker:
        monkeypatch.setenv("FEDELTA_BROKER_URL", client_url(client))
        client.flushall()
    (here / "trial").mkdir(parents=True)
    (here / "trial" / "notes.txt").write_text("mine")
    with pytest.raises(ExperimentError, match="runs/trial: is there already; nothing was imported"):
        moving.import_(file)
    assert [path.name for path in here.rglob("*")] == ["trial", "notes.txt"]
    assert not has_broker or client.keys() == []


def test_a_name_that_the_ledger_has_is_left_alone(file, here, client, monkeypatch):
    monkeypatch.setenv("FEDELTA_BROKER_URL", client_url(client))
    before = {key: client.dump(key) for key in client.keys()}
    with pytest.raises(
        ExperimentError, match="the ledger has an experiment 'trial' already; nothing was imported"
    ):
        moving.import_(file)
    assert {key: client.dump(key) for key in client.keys()} == before
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("has_broker", [False, True])
def test_a_file_that_is_refused_changes_nothing(file, here, client, monkeypatch, has_broker):
    if has_broker:
        monkeypatch.setenv("FEDELTA_BROKER_URL", client_url(client))
    client.flushall()
    repack(file, {"evaluations/c": b"\xc4"})  # the last that is looked at
    with pytest.raises(ExperimentError, match="evaluations/c: ends within a row"):
        moving.import_(file)
    assert client.keys() == [] and not here.exists()


def test_an_import_that_breaks_off_leaves_nothing_that_hinders_the_next(file, here, monkeypatch):
    put = snapshot.put
    monkeypatch.setattr(snapshot, "put", lambda *_: interrupted(None))
    with pytest.raises(KeyboardInterrupt):
        moving.import_(file)
    assert list(here.iterdir()) == []
    (here / ".import-killed" / "trial").mkdir(parents=True)  # as `kill -9` leaves it
    (here / ".import-killed" / "trial" / "run.json").write_text("{}")
    monkeypatch.setattr(snapshot, "put", put)
    moving.import_(file)
    assert [run.name for run in runs.every(here)] == ["trial"]


def test_what_had_come_to_its_end_is_imported_with_its_results_and_nothing_to_go_on_with(
    client, here, tmp_path
):
    fill(client, stop={"updates": 2})
    archive.write(tmp_path / "x.zip", snapshot.take(client, "trial"), "")
    moving.import_(tmp_path / "x.zip")
    run = Run(folder=here / "trial")
    assert run.summary["outcome"] == "completed" and not run.redis_folder.exists()
    with pytest.raises(NotFound) as raised:
        moving.export(run, tmp_path / "y.zip")
    assert str(raised.value) == (
        "trial has no state to export: a run on this machine keeps it until it is complete; its results are "
        f"in {here}/trial/"
    )


def test_an_experiment_whose_sites_are_still_to_describe_their_examples_is_not_exported(
    client, here, tmp_path, monkeypatch
):
    layout = {"features": ["x"], "target": {"kind": "regression", "column": "y"}}
    spec = make_spec(data={"dataset": "ours", "layout": layout})
    Ledger(client).create("trial", spec, zeros())
    monkeypatch.setenv("FEDELTA_BROKER_URL", client_url(client))
    run = runs.adopt(here, "trial")
    with pytest.raises(ExperimentError) as raised:
        moving.export(run, tmp_path / "x.zip")
    assert str(raised.value) == (
        "trial cannot be exported yet: it has not begun to train, since its sites are still to describe "
        "their examples"
    )
    assert not (tmp_path / "x.zip").exists()
    with Ledger(client).turn("trial") as turn:
        begun = state.begin_training(turn.state, is_synchronous=False, now=turn.now)
        turn.commit(begun, spec=dataclasses.replace(spec, schema=make_spec().schema))
    moving.export(run, tmp_path / "x.zip")
    with archive.opened(tmp_path / "x.zip") as found:
        assert found.snapshot.spec.schema == make_spec().schema


def test_an_experiment_whose_sites_each_standardize_for_themselves_is_exported_without_a_preprocessing(
    client, tmp_path
):
    spec = make_spec(data={"dataset": "two-hospitals", "standardize": "local"})
    spec = dataclasses.replace(spec, schema=dataclasses.replace(spec.schema, preprocessing=None))
    Ledger(client).create("trial", spec, zeros())
    archive.write(tmp_path / "x.zip", snapshot.take(client, "trial"), "")
    with archive.opened(tmp_path / "x.zip") as found:
        assert found.snapshot.spec == spec


def test_a_redis_that_goes_away_meanwhile_is_told(client, here, tmp_path, monkeypatch):
    fill(client)
    monkeypatch.setenv("FEDELTA_BROKER_URL", client_url(client))

    def gone(*_):
        raise redis.ConnectionError("connection reset")

    monkeypatch.setattr(snapshot, "take", gone)
    with pytest.raises(Unavailable, match="connection reset"):
        moving.export(runs.adopt(here, "trial"), tmp_path / "x.zip")


def head(place, field):
    """What the run's head says, asked of its own Redis: `status` is a process."""
    if not place.path("address.json").exists():
        return None
    url = json.loads(place.path("address.json").read_text())["broker_url"]
    try:
        with redis.Redis.from_url(url.replace("redis+socket://", "unix://")) as private:
            return private.hget(keys.head("small"), field)
    except redis.ConnectionError:
        return None


@pytest.mark.faults
def test_a_run_is_moved_while_it_lives_and_when_it_is_stopped_and_goes_on_elsewhere(place):
    process = place.start("run", place.write(updates=35, strategy='kind = "fedbuff"\nbuffer_size = 7'))
    wait_until(lambda: int(head(place, "applied") or 0) > 5, "some updates")
    (worker,) = [pid for pid, args in descendants(place.host()).items() if "tasks.site_worker" in args]
    os.kill(worker, signal.SIGSTOP)  # so that the run is not over before we are done
    live = place.run("export", "small", "live.zip", "--json")
    assert live.returncode == 0, live.stderr
    says = json.loads(live.stdout)
    assert (says["name"], says["was_running"], says["file"]) == ("small", True, "live.zip")
    process.send_signal(signal.SIGINT)
    wait_until(lambda: head(place, "phase") not in (b"running", None), "the stop")
    os.kill(worker, signal.SIGCONT)
    process.communicate(timeout=60)
    done = place.run("export", "small", "stopped.zip")
    applied = json.loads(place.path("summary.json").read_text())["applied"]
    assert 35 > applied >= says["applied"] > 5
    assert f"as it is after {applied} updates" in " ".join(done.stdout.split())

    place.environment["FEDELTA_RUNS_DIR"] = str(place.folder / "elsewhere" / "runs")
    place.folder = place.folder / "elsewhere"
    place.folder.mkdir()
    told = place.run("import", "../live.zip")
    assert (told.returncode, told.stderr) == (0, "")
    assert " ".join(told.stdout.split()) == (
        f"small is here, stopped after {says['applied']} updates; nothing trains until fedelta resume small"
    )
    resumed = place.run("resume", "small", "--json")
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads(resumed.stdout)["applied"] == 35
    rows = place.history()
    assert [sum(row["version"] == str(version) for row in rows) for version in range(1, 6)] == [7] * 5
    for site in ("east", "west", "south"):
        orders = [int(row["order"]) for row in rows if row["site"] == site]
        assert orders == sorted(set(orders))


@pytest.fixture
def place(tmp_path):
    place = Place(tmp_path)
    yield place
    place.end()


def test_the_text_of_an_experiment_has_names_of_any_kind_in_it():
    read = experiment.read(next(path for path in EXAMPLES if path.stem == "own-data"))
    classes = {"dead or dependent": ("1", "2"), 'says "né" 😀': ("3",)}
    target = dataclasses.replace(read.data.layout.target, classes=classes)
    layout = dataclasses.replace(read.data.layout, target=target)
    changed = dataclasses.replace(read, data=dataclasses.replace(read.data, layout=layout))
    assert experiment.parse(experiment.text(changed), "x") == changed
