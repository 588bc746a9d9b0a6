import base64
import dataclasses
import io
import json
import re
from html.parser import HTMLParser

import matplotlib.image
import numpy as np
import pytest

from orchestrator import report, results
from orchestrator.runs import Run
from tests.conftest import make_spec
from workers import model_file
from workers.errors import DataError, NotFound
from workers.schema import Schema
from workers.standardization import Preprocessing

EVALUATION_COLUMNS = ("seconds", "version", "applied", "site", "num_examples")
EVENT_COLUMNS = ("seconds", "kind", "site", "order", "detail")
PICTURES = {"metric-over-time", "metric-over-updates", "loss", "staleness", "timeline"}
IN_ORDER = {"absences": 0, "resent": 0, "refused": 0, "is_dropped": False}
NASTY = '<script>alert("&")</script>'

CLASSES = dataclasses.replace(
    make_spec(data={"dataset": "breast-cancer"}, model={"kind": "logistic-regression"}),
    schema=Schema(
        features=("x", "z"),
        target="diagnosis",
        target_kind="binary",
        classes=("sick", "well"),
        preprocessing=Preprocessing(fill=(0.0, 0.0), shift=(0.0, 0.0), scale=(1.0, 1.0)),
    ),
)
LINE = make_spec(sites=["hospital-1", "hospital-2"], data={"dataset": "two-hospitals"})


def update(site, *, seconds=1.0, staleness=0, num_examples=10, training_seconds=1.0):
    row = dict.fromkeys(results.HISTORY_COLUMNS, 1)
    row |= {"seconds": seconds, "site": site, "staleness": staleness, "num_examples": num_examples}
    return row | {"loss": 0.5, "started": seconds - training_seconds, "training_seconds": training_seconds}


def score(site, version, num_examples="", **metrics):
    place = {"seconds": version, "version": version, "applied": version if site == "global" else ""}
    return {**place, "site": site, "num_examples": num_examples, **metrics}


def summary_of(spec, **changed):
    return {
        **{"name": "trial", "strategy": "fedasync", "outcome": "completed", "reason": "it is enough"},
        **{"applied": 0, "versions": 0, "refused": 0, "resent": 0, "bytes_up": 0, "bytes_down": 0},
        "faults": {},
        **{"seconds": 10.0, "first_update_seconds": None, "updates_per_second": 0.0},
        "metrics": {"global": {}, "sites": {}},
        "sites": {
            site: {**IN_ORDER, "updates": 0, "held_out_examples": None} for site in spec.experiment.sites
        },
        **changed,
    }


def run_of(folder, spec, metrics, summary, *, history=(), evaluations=(), events=(), written=None):
    """A run's folder with these tables, as `results` writes them."""
    params = spec.experiment.model.init(
        np.random.default_rng(0), spec.schema.input_shape, spec.schema.num_outputs
    )
    results._write_csv(folder / "history.csv", results.HISTORY_COLUMNS, history)
    results._write_csv(folder / "evaluations.csv", (*EVALUATION_COLUMNS, *metrics), evaluations)
    results._write_csv(folder / "events.csv", EVENT_COLUMNS, events)
    model_file.save(folder / "model.safetensors", spec, params, version=0)
    (folder / "summary.json").write_text(json.dumps(summary))
    if written is not None:
        (folder / "experiment.toml").write_text(written, "utf-8")
    return Run(folder=folder)


class Page(HTMLParser):
    """What a page has: the cells of its tables' rows, its images, its text, its tags."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.images, self.tags, self.attributes, self.text = [], {}, [], [], ""
        self._is_in_cell = False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self._is_in_cell = True
        elif tag == "img":
            self.images[dict(attributes)["alt"]] = dict(attributes)["src"]

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._is_in_cell = False

    def handle_data(self, data):
        self.text += data
        if self._is_in_cell:
            self.rows[-1][-1] += data

    def row(self, first):
        (found,) = [row[1:] for row in self.rows if row[:1] == [first]]
        return found


def is_coloured(picture):
    """Whether something is drawn in it that is neither black nor white nor grey."""
    pixels = matplotlib.image.imread(picture)[..., :3]
    return bool((np.ptp(pixels, axis=2) > 0.2).any())


def is_blank(picture):
    return np.ptp(matplotlib.image.imread(picture)) < 0.5


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two sites have trained, the third has not; name, reason and event are nothing for a browser to run."""
    run = run_of(
        tmp_path_factory.mktemp("trial"),
        CLASSES,
        ("auroc", "accuracy", "log_loss"),
        summary_of(
            CLASSES,
            name=NASTY,
            outcome="stopped",
            reason=f"because {NASTY}",
            applied=3,
            versions=3,
            refused=4,
            resent=5,
            seconds=8.0,
            first_update_seconds=2.25,
            updates_per_second=0.375,
            bytes_up=1234567,
            bytes_down=89,
            compression={"up": "int8", "down": None},
            metrics={
                "global": {"auroc": 0.875, "accuracy": 0.75, "log_loss": 0.12345},
                "sites": {
                    "a": {"auroc": None, "accuracy": 1.0, "log_loss": 0.1},
                    "ab": {"auroc": 0.875, "accuracy": 0.5, "log_loss": 0.25},
                },
            },
            sites={
                "a": {**IN_ORDER, "updates": 1, "held_out_examples": 5},
                "ab": {**IN_ORDER, "updates": 2, "held_out_examples": 15},
                "c": {**IN_ORDER, "updates": 0, "held_out_examples": None},
            },
        ),
        history=[
            update("ab", seconds=2.0, staleness=1, num_examples=30, training_seconds=1.0),
            update("a", seconds=3.0, staleness=2, num_examples=10, training_seconds=2.0),
            update("ab", seconds=6.0, staleness=4, num_examples=30, training_seconds=3.0),
        ],
        evaluations=[
            score("global", 0, auroc=0.5, accuracy=0.25, log_loss=0.7),
            score("global", 3, auroc=0.875, accuracy=0.75, log_loss=0.12345),
            score("a", 0, 5, auroc="", accuracy=0.25, log_loss=0.7),
            score("a", 3, 5, auroc="", accuracy=1.0, log_loss=0.1),
            score("ab", 3, 15, auroc=0.875, accuracy=0.5, log_loss=0.25),
        ],
        events=[{"seconds": 7.5, "kind": "refused", "site": "c", "order": "c/1", "detail": NASTY}],
        written=f"# {NASTY}\nname = 'trial'\n",
    )
    report.write(run)
    return run


@pytest.fixture(scope="module")
def text(run):
    return (run.folder / "report.html").read_text("utf-8")


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_the_page_needs_no_other_file_and_no_network(text, page):
    assert text.startswith("<!doctype html>")
    assert re.findall("https?://", text) == []
    assert [value[:22] for name, value in page.attributes if name in ("src", "href")] == [
        "data:image/png;base64,"
    ] * len(PICTURES)
    assert set(page.tags).isdisjoint({"script", "link", "iframe", "object"})


def test_names_reasons_events_and_the_file_are_text_whatever_they_look_like(text, page):
    assert NASTY not in text
    assert f"{NASTY}: fedasync" in page.text  # as a reader sees it
    assert f"stopped: because {NASTY}" in page.text
    assert f"# {NASTY}\nname = 'trial'\n" in page.text
    assert page.row("7.5") == ["refused", "c", "c/1", NASTY]


def test_the_page_tells_the_run_in_numbers(page):
    assert page.row("updates applied") == ["3"]
    assert ["seconds", "8.0"] in page.rows
    assert page.row("updates per second") == ["0.375"]
    assert page.row("seconds from the command to the first update") == ["2.25"]
    assert page.row("updates refused") == ["4"]
    assert page.row("orders sent again") == ["5"]
    assert page.row("bytes from the sites") == ["1,234,567 (411,522 an update, as int8)"]
    assert page.row("bytes to the sites") == ["89 (30 an update)"]


def test_the_page_has_a_row_for_each_site_and_their_mean(page):
    columns = ["trained on", "held out", "updates", "mean staleness", "at work"]
    metrics = ["auroc", "accuracy", "log_loss"]
    assert ["", *columns, *metrics] in page.rows
    assert page.row("a") == ["10", "5", "1", "2", "25%", "-", "1", "0.1"]
    assert page.row("ab") == ["30", "15", "2", "2.5", "50%", "0.875", "0.5", "0.25"]
    assert page.row("c") == ["-", "-", "0", "-", "0%", "-", "-", "-"]
    assert page.row("weighted mean") == ["", "", "3", "", "", "0.875", "0.75", "0.1235"]


@pytest.mark.parametrize("name", sorted(PICTURES))
def test_every_picture_is_a_file_with_something_in_it_and_the_same_in_the_page(run, page, name):
    file = run.folder / f"{name}.png"
    assert is_coloured(file)
    embedded = base64.b64decode(page.images[name].removeprefix("data:image/png;base64,"))
    assert embedded == file.read_bytes()
    assert np.array_equal(matplotlib.image.imread(io.BytesIO(embedded)), matplotlib.image.imread(file))


def test_there_are_no_other_pictures(run, page):
    assert set(page.images) == {path.stem for path in run.folder.glob("*.png")} == PICTURES


def test_a_run_without_updates_where_a_metric_is_nowhere_defined_has_a_report(tmp_path):
    metrics = {"auroc": None, "accuracy": 0.5, "log_loss": 0.7}
    run = run_of(
        tmp_path,
        CLASSES,
        tuple(metrics),
        summary_of(CLASSES, metrics={"global": metrics, "sites": {"a": metrics}}),
        evaluations=[
            score("global", 0, auroc="", accuracy=0.5, log_loss=0.7),
            score("a", 0, 5, auroc="", accuracy=0.5, log_loss=0.7),
        ],
    )
    report.write(run)
    page = Page((tmp_path / "report.html").read_text("utf-8"))
    assert page.row("a") == ["-", "-", "0", "-", "0%", "-", "0.5", "0.7"]
    assert page.row("weighted mean") == ["", "", "0", "", "", "-", "0.5", "0.7"]
    assert "Nothing." in page.text  # no events
    assert "submitted elsewhere" in page.text  # no experiment file
    assert set(page.images) == PICTURES
    assert not any(is_blank(tmp_path / f"{name}.png") for name in PICTURES)
    assert not is_coloured(tmp_path / "loss.png")


def test_a_run_that_ended_before_anything_was_scored_has_a_report(tmp_path):
    nothing = summary_of(CLASSES, seconds=0.0, updates_per_second=None)
    report.write(run_of(tmp_path, CLASSES, ("auroc", "accuracy", "log_loss"), nothing))
    page = Page((tmp_path / "report.html").read_text("utf-8"))
    assert page.row("updates per second") == ["-"]
    assert page.row("c") == ["-", "-", "0", "-", "-"]
    assert page.row("weighted mean") == ["", "", "0", "", ""]
    assert not any(is_blank(tmp_path / f"{name}.png") for name in PICTURES)


def test_a_regression_of_one_feature_has_a_picture_of_its_line(tmp_path):
    evaluations = [score("global", 0, mse=9.0, r2=0.1), score("hospital-2", 0, 50, mse=9.0, r2="")]
    report.write(run_of(tmp_path, LINE, ("mse", "r2"), summary_of(LINE), evaluations=evaluations))
    assert is_coloured(tmp_path / "fitted-line.png")
    page = Page((tmp_path / "report.html").read_text("utf-8"))
    assert set(page.images) == PICTURES | {"fitted-line"}


def test_only_the_newest_events_are_shown():
    events = [{**dict.fromkeys(EVENT_COLUMNS, ""), "detail": f"event {n}"} for n in range(250)]
    shown = Page(report._events(events)).rows[1:]
    assert [row[-1] for row in shown] == [f"event {n}" for n in range(50, 250)]


def test_a_run_without_results_has_no_report(tmp_path):
    with pytest.raises(NotFound) as raised:
        report.write(Run(folder=tmp_path))
    assert str(raised.value) == f"{tmp_path.name} has no results yet"
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_its_model_has_no_report(tmp_path):
    run = run_of(tmp_path, CLASSES, ("auroc", "accuracy", "log_loss"), summary_of(CLASSES))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(DataError, match="model.safetensors: cannot be read as safetensors"):
        report.write(run)
    assert not (tmp_path / "report.html").exists()


def section(run, heading, until):
    """The page's part between two headings."""
    text = (run.folder / "report.html").read_text("utf-8")
    return text.partition(f"<h2>{heading}</h2>")[2].partition(f"<h2>{until}</h2>")[0]


def report_of(folder, summary, **tables):
    run = run_of(folder, CLASSES, ("auroc", "accuracy", "log_loss"), summary, **tables)
    report.write(run)
    return run


def test_the_page_names_the_faults_with_times_counts_and_sites(tmp_path):
    happened = {
        "resent": {"count": 3, "first_seconds": 1.25, "last_seconds": 7.0, "sites": {"a": 1, "c": 2}},
        "gone": {"count": 1, "first_seconds": None, "last_seconds": 2.0, "sites": {"a": 1}},
    }
    sites = {
        "a": {**IN_ORDER, "absences": 1, "resent": 1},
        "ab": IN_ORDER,
        "c": {**IN_ORDER, "resent": 2, "refused": 5, "is_dropped": True},
    }
    summary = summary_of(
        CLASSES,
        faults={kind: {"is_at_least": False, **facts} for kind, facts in happened.items()},
        sites={site: {**facts, "held_out_examples": None} for site, facts in sites.items()},
    )
    events = [{"seconds": 2.0, "kind": "gone", "site": "a", "order": "", "detail": "never seen"}]
    found = Page(section(report_of(tmp_path, summary, events=events), "Faults", "The course"))
    assert found.rows == [
        ["", "times", "first", "last", "sites"],
        ["orders sent again", "3", "1.2 s", "7.0 s", "c 2, a 1"],
        ["sites gone", "1", "not known", "2.0 s", "a 1"],
        ["", "away", "sent again", "refused", "dropped"],
        ["a", "1", "1", "0", ""],
        ["c", "0", "2", "5", "yes"],
    ]


def test_a_run_without_faults_says_so(tmp_path):
    assert section(report_of(tmp_path, summary_of(CLASSES)), "Faults", "The course").strip() == "<p>None.</p>"


def test_faults_that_concern_no_site_have_no_table_of_sites(tmp_path):
    lapse = {"count": 1, "is_at_least": False, "first_seconds": 1.0, "last_seconds": 1.0, "sites": {}}
    written = report_of(tmp_path, summary_of(CLASSES, faults={"unattended": lapse}))
    found = Page(section(written, "Faults", "The course"))
    assert found.rows[1:] == [["without a coordinator", "1", "1.0 s", "1.0 s", ""]]


def test_a_summary_of_a_version_that_counted_no_faults_has_a_report(tmp_path):
    old = summary_of(CLASSES)
    del old["faults"]
    old["sites"] = {site: {"updates": 0, "held_out_examples": None} for site in old["sites"]}
    assert "Not counted" in section(report_of(tmp_path, old), "Faults", "The course")
