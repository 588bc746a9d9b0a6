"""A whole run with personal models, on one machine: what people find when it is done."""

import csv
import json

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer

from tests.test_run import Place, check_history
from workers import data, inference, model_file, scoring

SITES = ("east", "west", "south")
WRITTEN = """
name = "small"
seed = 3
sites = ["east", "west", "south"]
baselines = ["alone", "pooled"]
[data]
dataset = "breast-cancer"
partition = { kind = "dirichlet", alpha = 2.0, min_examples = 40 }
[model]
kind = "logistic-regression"
[training]
epochs = 1
[strategy]
kind = "fedasync"
[evaluation]
every = 5
[stop]
updates = 24
[personal]
kind = "ditto"
penalty = 0.5
[seconds_per_order]
default = 0.05
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The place of a run that is done, and what its command printed."""
    place = Place(tmp_path_factory.mktemp("personal"))
    path = place.folder / "small.toml"
    path.write_text(WRITTEN)
    try:
        done = place.run("run", path)
        assert (done.returncode, done.stderr) == (0, "")
        yield place, done.stdout
    finally:
        place.end()


def summary_of(place):
    return json.loads(place.path("summary.json").read_text())


def table(place, name):
    with place.path(name).open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_site_has_its_own_model_beside_the_global_one_and_what_it_is_compared_with(run):
    place, _ = run
    summary = summary_of(place)
    assert (summary["outcome"], summary["applied"], summary["refused"]) == ("completed", 24, 0)
    check_history(place.history(), 24)
    assert set(summary["own_models"]) == {"personal", "alone", "pooled"}
    held_out = {site: facts["held_out_examples"] for site, facts in summary["sites"].items()}
    for found in summary["own_models"].values():
        assert set(found["sites"]) == {*SITES}
        accuracy = sum(held_out[site] * found["sites"][site]["accuracy"] for site in SITES)
        assert found["mean"]["accuracy"] == pytest.approx(accuracy / sum(held_out.values()))
        assert found["mean"]["accuracy"] > 0.85
    assert summary["metrics"]["sites"].keys() == {*SITES}
    assert all(set(m) == {"auroc", "accuracy", "log_loss"} for m in summary["metrics"]["sites"].values())


def test_the_tables_and_what_is_printed_have_them_too(run):
    place, printed = run
    summary = summary_of(place)
    for site in SITES:
        last = [row for row in table(place, "evaluations.csv") if row["site"] == site][-2:]
        (row,) = [row for row in last if row["personal auroc"]]
        assert row["version"] == "24"
        for model in ("personal", "alone"):
            measured = summary["own_models"][model]["sites"][site]
            assert {name: float(row[f"{model} {name}"]) for name in measured} == measured
    shown = [line.split() for line in printed.splitlines()]
    at = shown.index(["auroc", "global", "personal", "alone", "pooled"])
    for site, cells in zip(SITES, shown[at + 1 :], strict=False):
        found = [summary["metrics"], *summary["own_models"].values()]
        values = [of_model["sites"][site]["auroc"] for of_model in found]
        assert cells == [site, *(f"{value:.4g}" for value in values)]
    means = [summary["metrics"]["global"], *(found["mean"] for found in summary["own_models"].values())]
    assert shown[at + 4] == ["weighted", "mean", *(f"{mean['auroc']:.4g}" for mean in means)]


def test_the_report_has_a_table_for_each_metric(run):
    page = run[0].path("report.html").read_text()
    assert "Each site's own model" in page
    for metric in ("auroc", "accuracy", "log_loss"):
        assert f"<th>{metric}</th><th>global</th><th>personal</th><th>alone</th><th>pooled</th>" in page


@pytest.mark.parametrize("site", SITES)
def test_a_sites_own_model_lies_in_its_folder_and_predicts_what_was_measured(run, site):
    place, _ = run
    path = place.path(f"personal/small/{site}/model.safetensors")
    spec, params = model_file.load(path)
    _, shared = model_file.load(place.path("model.safetensors"))
    assert params.keys() == shared.keys() and not np.array_equal(params["weight"], shared["weight"])
    holdout = data.load_site(spec, site).holdout
    outputs = inference.outputs(spec.model, params, holdout.features)
    measured = scoring.measure(spec.schema.target_kind, outputs, holdout.targets)
    assert measured == summary_of(place)["own_models"]["personal"]["sites"][site]


def test_predict_takes_a_sites_own_model(run):
    place, _ = run
    path = place.path("personal/small/east/model.safetensors")
    features = model_file.load(path)[0].schema.features
    patients = load_breast_cancer()
    assert set(features) == set(patients.feature_names)
    order = [list(patients.feature_names).index(name) for name in features]
    with (place.folder / "patients.csv").open("w", newline="") as file:
        csv.writer(file).writerows([features, *patients.data[:50, order].tolist()])
    done = place.run("predict", path, place.folder / "patients.csv")
    assert (done.returncode, done.stderr) == (0, "")
    with (place.folder / "patients.predictions.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    right = [
        row[1] == patients.target_names[target]
        for row, target in zip(rows[1:], patients.target[:50], strict=True)
    ]
    assert np.mean(right) > 0.8


def test_a_finished_run_leaves_its_sites_folders_to_their_owner_alone(run):
    place, _ = run
    for site in SITES:
        folder = place.path(f"personal/small/{site}")
        assert folder.stat().st_mode & 0o077 == 0
        assert not list(folder.glob(".*"))
