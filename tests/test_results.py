import csv
import json

import numpy as np
import pytest
from safetensors import safe_open

from orchestrator import results
from orchestrator.runs import Run
from tasks import codec, keys, messages, progress
from tasks.ledger import Ledger
from tasks.messages import EvaluationRow, Event, HistoryRow, MetricsRow
from tasks.state import Head, SiteRecord
from tests.conftest import make_spec, zeros
from workers import model_file
from workers.errors import FedeltaError, NotFound

BEGUN = 1000.0
MODEL = {"weight": np.array([[3.5]], np.float32), "bias": np.array([0.25], np.float32)}


@pytest.fixture
def run(tmp_path):
    (tmp_path / "trial").mkdir()
    found = Run(folder=tmp_path / "trial")
    (found.folder / "run.json").write_text(json.dumps({"is_here": True, "launched": BEGUN - 1.5}))
    return found


def put(client, key, *rows):
    for row in rows:
        client.xadd(key, {"row": messages.encode(row)})


def put_head(client, **head):
    client.delete(keys.head("trial"))
    client.hset(keys.head("trial"), mapping=messages.to_hash(Head(started=BEGUN, **head)))


@pytest.fixture
def finished(client, run):
    """A run that ended at version 2: two sites trained, one of them scored the end, the third was dropped."""
    Ledger(client).create("trial", make_spec(), zeros())
    client.set(keys.model("trial", 2), codec.encode_tree(MODEL))
    records = {
        "a": SiteRecord(updates=1),
        "ab": SiteRecord(updates=1, absences=2, resent=3),
        "c": SiteRecord(is_dropped=True, refused=1),
    }
    client.hset(keys.sites("trial"), mapping={site: messages.encode(r) for site, r in records.items()})
    put(
        client,
        keys.history("trial"),
        HistoryRow(
            time=BEGUN + 2.5,
            site="ab",
            order=1,
            base_version=0,
            version=1,
            staleness=0,
            weight=0.5,
            num_examples=30,
            loss=8.0,
            bytes_up=300,
            bytes_down=200,
            started=BEGUN + 0.25,
            seconds=2.0,
        ),
        HistoryRow(
            time=BEGUN + 4.0,
            site="a",
            order=1,
            base_version=0,
            version=2,
            staleness=1,
            weight=0.25,
            num_examples=10,
            loss=4.0,
            bytes_up=301,
            bytes_down=201,
            started=BEGUN + 0.5,
            seconds=3.0,
        ),
    )
    put(
        client,
        keys.metrics("trial"),
        MetricsRow(time=BEGUN + 1, version=0, applied=0, num_sites=2, metrics={"mse": 9.0, "r2": None}),
        MetricsRow(time=BEGUN + 5, version=2, applied=2, num_sites=1, metrics={"mse": 2.0, "r2": 0.5}),
    )
    put(
        client,
        keys.evaluations("trial", "a"),
        EvaluationRow(time=BEGUN + 0.75, version=0, num_examples=5, metrics={"mse": 9.0, "r2": None}),
        EvaluationRow(time=BEGUN + 4.5, version=2, num_examples=5, metrics={"mse": 2.0, "r2": 0.5}),
    )
    put(
        client,
        keys.evaluations("trial", "ab"),
        EvaluationRow(time=BEGUN + 0.5, version=0, num_examples=15, metrics={"mse": 9.0, "r2": None}),
    )
    put(
        client,
        keys.events("trial"),
        Event(time=BEGUN + 3, kind="refused", site="c", order="c/1", detail='not finite, "weight"'),
        Event(time=BEGUN + 5, kind="finished", detail="stopped by hand"),
        Event(time=BEGUN + 6, kind="resumed", detail="after 1.0 s", pause=1.0),
        Event(time=BEGUN + 6, kind="finished", detail="2 updates are applied"),
    )
    put_head(
        client,
        phase="finished",
        outcome="completed",
        reason="2 updates are applied",
        version=2,
        applied=2,
        refused=1,
        bytes_up=601,
        bytes_down=401,
        first_update=BEGUN + 2.5,
        paused=1.0,
        finished=BEGUN + 6.0,
    )
    return run


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_write_says_how_the_run_ended_and_leaves_only_finished_files(client, finished):
    assert results.write(client, finished) == "completed"
    assert sorted(path.name for path in finished.folder.iterdir()) == [
        *("evaluations.csv", "events.csv", "history.csv", "model.safetensors", "run.json", "summary.json")
    ]


def test_the_history_has_a_row_for_each_update_with_times_since_the_beginning(client, finished):
    results.write(client, finished)
    first, second = rows_of(finished.folder / "history.csv")
    assert tuple(first) == results.HISTORY_COLUMNS
    assert first == {
        **{"seconds": "2.5", "site": "ab", "order": "1", "base_version": "0", "version": "1"},
        **{"staleness": "0", "weight": "0.5", "num_examples": "30", "loss": "8.0"},
        **{"bytes_up": "300", "bytes_down": "200", "started": "0.25", "training_seconds": "2.0"},
    }
    assert (second["seconds"], second["site"], second["staleness"]) == ("4.0", "a", "1")


def test_the_evaluations_have_the_means_and_then_every_site(client, finished):
    results.write(client, finished)
    rows = rows_of(finished.folder / "evaluations.csv")
    assert list(rows[0]) == ["seconds", "version", "applied", "site", "num_examples", "mse", "r2"]
    assert [tuple(row.values()) for row in rows] == [
        ("1.0", "0", "0", "global", "", "9.0", ""),
        ("5.0", "2", "2", "global", "", "2.0", "0.5"),
        ("0.75", "0", "", "a", "5", "9.0", ""),
        ("4.5", "2", "", "a", "5", "2.0", "0.5"),
        ("0.5", "0", "", "ab", "15", "9.0", ""),
    ]


def test_the_events_say_what_happened_when(client, finished):
    results.write(client, finished)
    assert [tuple(row.values()) for row in rows_of(finished.folder / "events.csv")] == [
        ("3.0", "refused", "c", "c/1", 'not finite, "weight"'),
        ("5.0", "finished", "", "", "stopped by hand"),
        ("5.0", "resumed", "", "", "after 1.0 s"),  # which are left out
        ("5.0", "finished", "", "", "2 updates are applied"),
    ]


def test_the_saved_model_is_that_of_the_last_version_with_its_description(client, finished):
    results.write(client, finished)
    path = finished.folder / "model.safetensors"
    spec, params = model_file.load(path)
    assert spec == make_spec()
    assert {leaf: array.tolist() for leaf, array in params.items()} == {"weight": [[3.5]], "bias": [0.25]}
    with safe_open(path, framework="numpy") as stored:
        assert stored.metadata()["version"] == "2"
        assert stored.metadata()["format"] == "fedelta 1"


def test_the_summary_counts_from_the_command_and_leaves_pauses_out(client, finished):
    results.write(client, finished)
    in_order = {"updates": 0, "absences": 0, "resent": 0, "refused": 0, "is_dropped": False}
    in_order |= {"held_out_examples": None}
    assert finished.summary == {
        "name": "trial",
        "strategy": "fedasync",
        "outcome": "completed",
        "reason": "2 updates are applied",
        "hospitals": None,
        "applied": 2,
        "versions": 2,
        "refused": 1,
        "resent": 0,
        "seconds": 5.0,
        "first_update_seconds": 4.0,
        "updates_per_second": 0.4,
        "bytes_up": 601,
        "bytes_down": 401,
        "compression": {"up": None, "down": None},
        "faults": {
            "refused": {
                **{"count": 1, "is_at_least": False, "first_seconds": 3.0, "last_seconds": 3.0},
                "sites": {"c": 1},
            },
            "resent": {
                **{"count": 3, "is_at_least": False, "first_seconds": None, "last_seconds": None},
                "sites": {"ab": 3},  # as the ledger has counted, though no event says when
            },
            "gone": {
                **{"count": 2, "is_at_least": False, "first_seconds": None, "last_seconds": None},
                "sites": {"ab": 2},
            },
            "back": {
                **{"count": 2, "is_at_least": False, "first_seconds": None, "last_seconds": None},
                "sites": {"ab": 2},
            },
        },
        "watched_metric": "mse",
        "metrics": {"global": {"mse": 2.0, "r2": 0.5}, "sites": {"a": {"mse": 2.0, "r2": 0.5}}},
        "own_models": {},
        "sites": {
            "a": {**in_order, "updates": 1, "held_out_examples": 5},
            "ab": {**in_order, "updates": 1, "absences": 2, "resent": 3},
            "c": {**in_order, "refused": 1, "is_dropped": True},
        },
    }


def test_a_run_adopted_from_elsewhere_counts_from_its_beginning(client, finished):
    (finished.folder / "run.json").write_text(json.dumps({"is_here": False, "launched": None}))
    results.write(client, finished)
    assert finished.summary["first_update_seconds"] == 2.5


def test_a_run_that_goes_on_has_results_too(client, run):
    Ledger(client).create("trial", make_spec(), zeros())
    put_head(client)
    assert results.write(client, run) == ""
    assert (run.summary["outcome"], run.summary["applied"]) == ("running", 0)
    assert run.summary["first_update_seconds"] is None
    assert run.summary["metrics"] == {"global": {}, "sites": {}}
    assert rows_of(run.folder / "history.csv") == []
    assert model_file.load(run.folder / "model.safetensors")[1]["weight"].tolist() == [[0.0]]


def test_a_run_that_took_no_time_has_no_rate(client, run):
    Ledger(client).create("trial", make_spec(), zeros())
    put_head(client, phase="finished", outcome="failed", finished=BEGUN)
    assert results.write(client, run) == "failed"
    assert (run.summary["seconds"], run.summary["updates_per_second"]) == (0.0, None)


def test_without_the_experiment_nothing_is_written(client, run):
    with pytest.raises(NotFound, match="^no experiment 'trial' in the ledger; there: none$"):
        results.write(client, run)
    assert [path.name for path in run.folder.iterdir()] == ["run.json"]


def test_a_long_history_is_written_whole_and_in_order(client, finished, monkeypatch):
    monkeypatch.setattr(progress, "PAGE", 1)
    results.write(client, finished)
    assert [row["site"] for row in rows_of(finished.folder / "history.csv")] == ["ab", "a"]


def test_what_a_table_has_no_column_for_is_left_out(tmp_path):
    results._write_csv(tmp_path / "table.csv", ("n", "m"), [{"n": 1, "surplus": 2}])
    assert rows_of(tmp_path / "table.csv") == [{"n": "1", "m": ""}]


def test_a_table_that_cannot_be_finished_leaves_the_former_one_as_it_was(tmp_path):
    table = tmp_path / "table.csv"
    results._write_csv(table, ("n",), [{"n": 1}])

    def fails():
        yield {"n": 2}
        raise RuntimeError("Redis went away")

    with pytest.raises(RuntimeError, match="Redis went away"):
        results._write_csv(table, ("n",), fails())
    assert rows_of(table) == [{"n": "1"}]


def test_the_report_of_a_run_without_results_says_so(run):
    with pytest.raises(FedeltaError, match="trial has no results yet$"):
        results.report(run)
