import dataclasses
import io

import numpy as np
import pytest

from orchestrator import pictures, results
from orchestrator.pictures import MAX_NAMED_SITES, Tables
from orchestrator.timeline import timeline
from tests.conftest import make_spec
from workers.schema import Schema
from workers.standardization import Preprocessing

SPEC = make_spec()  # sites a, ab and c; metrics mse and r2
BINARY = make_spec(
    data={"dataset": "breast-cancer"},
    model={"kind": "logistic-regression"},
    evaluation={"metric": "accuracy"},
)


def update(site, *, loss=1.0, staleness=0, started=0.0, training_seconds=1.0):
    facts = {"loss": loss, "staleness": staleness, "started": started, "training_seconds": training_seconds}
    return {"site": site, **{name: str(value) for name, value in facts.items()}}


def score(site, version, *, mse="", r2="", seconds="", applied=""):
    row = {"site": site, "version": version, "mse": mse, "r2": r2, "seconds": seconds, "applied": applied}
    return {name: str(value) for name, value in row.items()}


def tables_of(*, spec=SPEC, params=None, history=(), evaluations=(), events=(), seconds=9.0):
    found = {"history": history, "evaluations": evaluations, "events": events}
    return Tables(spec=spec, params=params or {}, seconds=seconds, **found)


def many_sites(count):
    return make_spec(sites=[f"site-{number}" for number in range(count)])


def lines(axes):
    """What is drawn, by label: x and y."""
    return {
        line.get_label(): (np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist())
        for line in axes.lines
    }


def can_be_saved(figure):
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue().startswith(b"\x89PNG")


def test_a_table_is_read_as_it_was_written(tmp_path):
    results._write_csv(tmp_path / "table.csv", ("site", "loss"), [{"site": 'a, "b"', "loss": 0.1}, {}])
    assert pictures.read_table(tmp_path / "table.csv") == [
        {"site": 'a, "b"', "loss": "0.1"},
        {"site": "", "loss": ""},
    ]


def test_metrics_are_those_of_the_target_the_watched_one_first():
    assert tables_of().metrics == ("mse", "r2")
    schema = Schema(
        features=("x",),
        target="y",
        target_kind="binary",
        classes=("n", "y"),
        preprocessing=Preprocessing(fill=(0.0,), shift=(0.0,), scale=(1.0,)),
    )
    spec = dataclasses.replace(BINARY, schema=schema)
    assert tables_of(spec=spec).metrics == ("accuracy", "auroc", "log_loss")


def test_scores_are_where_the_metric_is_defined():
    tables = tables_of(
        evaluations=[score("a", 0, mse=4.0), score("a", 5, mse=2.0, r2=0.5), score("global", 5, mse=3.0)]
    )
    assert tables.scores("a", "mse") == [("0", 4.0), ("5", 2.0)]
    assert tables.scores("a", "r2") == [("5", 0.5)]
    assert tables.scores("global", "mse") == [("5", 3.0)]
    assert tables.scores("c", "mse") == []


SCORED = [
    score("global", 0, mse=9.0, seconds=0.5, applied=0),
    score("global", 10, mse=2.0, r2=0.5, seconds=4.5, applied=12),
    score("a", 0, mse=8.0, seconds=0.25),
    score("a", 10, mse=1.0, r2=0.75, seconds=4.25),
    score("ab", 10, mse=3.0, seconds=4.0),
    score("ab", 11, mse=2.5, seconds=5.0),  # its mean is not there
]


@pytest.mark.parametrize(
    ("draw", "places", "label"),
    [
        (pictures.metric_over_time, [0.5, 4.5], "seconds since the start"),
        (pictures.metric_over_updates, [0.0, 12.0], "updates"),
    ],
)
def test_a_panel_for_each_metric_has_a_line_for_each_site_at_the_place_of_its_mean(draw, places, label):
    mse, r2 = draw(tables_of(evaluations=SCORED)).axes
    assert (mse.get_title(loc="left"), r2.get_title(loc="left")) == ("mse, held out", "r2, held out")
    assert mse.get_xlabel() == r2.get_xlabel() == label
    assert lines(mse) == {
        "a": (places, [8.0, 1.0]),
        "ab": (places[1:], [3.0]),
        "weighted mean": (places, [9.0, 2.0]),
    }
    assert lines(r2) == {"a": (places[1:], [0.75]), "weighted mean": (places[1:], [0.5])}


def test_a_metric_that_is_nowhere_defined_is_an_empty_panel():
    evaluations = [score("global", 0, mse=9.0, seconds=0.5, applied=0), score("a", 0, mse=9.0)]
    figure = pictures.metric_over_time(tables_of(evaluations=evaluations))
    assert lines(figure.axes[1]) == {}
    assert can_be_saved(figure)


def test_losses_are_drawn_by_site_against_the_number_of_the_update():
    history = [update("ab", loss=4.0), update("a", loss=2.0), update("ab", loss=1.0)]
    (axes,) = pictures.loss(tables_of(history=history)).axes
    assert lines(axes) == {"a": ([2], [2.0]), "ab": ([1, 3], [4.0, 1.0])}
    assert axes.get_yscale() == "log"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "ab"]


@pytest.mark.parametrize("losses", [[0.0, 0.0], [0.0, 3.0]], ids=["all", "some"])
def test_a_loss_of_zero_can_be_drawn(losses):
    figure = pictures.loss(tables_of(history=[update("a", loss=loss) for loss in losses]))
    assert can_be_saved(figure)


def test_staleness_has_a_place_for_each_site_with_its_number_of_updates():
    history = [update("ab", staleness=1), update("c", staleness=7), update("ab", staleness=3)]
    (axes,) = pictures.staleness(tables_of(history=history)).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a\n0", "ab\n2", "c\n1"]
    points = [line for line in axes.lines if line.get_marker() == "."]
    assert [np.asarray(line.get_ydata()).tolist() for line in points] == [[], [1, 3], [7]]
    for place, line in enumerate(points, start=1):
        assert all(abs(x - place) <= 0.15 for x in line.get_xdata())


@pytest.mark.parametrize(("count", "has_legend"), [(MAX_NAMED_SITES, True), (MAX_NAMED_SITES + 1, False)])
def test_a_legend_names_the_sites_unless_they_are_too_many(count, has_legend):
    spec = many_sites(count)
    history = [update(site) for site in spec.experiment.sites]
    (axes,) = pictures.loss(tables_of(spec=spec, history=history)).axes
    assert (axes.get_legend() is not None) is has_legend
    assert len(lines(axes)) == count


def test_the_fitted_line_goes_through_the_models_predictions():
    schema = dataclasses.replace(
        SPEC.schema, preprocessing=Preprocessing(fill=(5.0,), shift=(5.0,), scale=(2.0,))
    )
    spec = make_spec(sites=["a", "b"])
    params = {"weight": np.array([[4.0]], np.float32), "bias": np.array([1.0], np.float32)}
    tables = tables_of(spec=dataclasses.replace(spec, schema=schema), params=params)
    features = [np.array([[1.0], [2.0]]), np.array([[9.0]])]
    targets = [np.array([10.0, 20.0]), np.array([30.0])]
    (axes,) = pictures.fitted_line(tables, features, targets).axes
    drawn = lines(axes)
    assert drawn["a"] == ([1.0, 2.0], [10.0, 20.0])
    assert drawn["b"] == ([9.0], [30.0])
    xs, ys = (np.ravel(values) for values in drawn["the model"])
    assert (xs[0], xs[-1]) == (1.0, 9.0)
    np.testing.assert_allclose(ys, 4.0 * (xs - 5.0) / 2.0 + 1.0, atol=1e-5)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("x", "y")


@pytest.mark.parametrize(
    "draw",
    [
        pictures.metric_over_time,
        pictures.metric_over_updates,
        pictures.loss,
        pictures.staleness,
        timeline,
    ],
    ids=lambda draw: draw.__name__,
)
@pytest.mark.parametrize("count", [1, 3, 100], ids="{} sites".format)
def test_every_picture_of_a_run_without_updates_can_be_saved(draw, count):
    assert can_be_saved(draw(tables_of(spec=many_sites(count))))
