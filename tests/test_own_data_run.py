"""Hospitals with files of their own: real workers with their site.toml, a coordinator, the command line."""

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from tasks import progress
from tests.conftest import PUBLISHED
from workers import model_file
from workers.standardization import moments, standardizing

FEDELTA = [sys.executable, "-m", "orchestrator"]
COLUMNS = "age sex cp trestbps chol fbs restecg thalach exang oldpeak slope ca thal num".split()
FEATURES = ["age", "sex", "trestbps", "chol", "restecg", "thalach"]
HOSPITALS = ("cleveland", "hungarian", "va")

EXPERIMENT = """
name = "hearts"
sites = ["cleveland", "hungarian", "va"]
baselines = ["alone"]
[data]
dataset = "heart"
[data.layout]
features = ["age", "sex", "trestbps", "chol", "restecg", "thalach"]
categories = { sex = ["0", "1"], restecg = ["0", "1", "2"] }
target = { kind = "binary", column = "num", classes = { absent = ["0"], present = ["1", "2", "3", "4"] } }
[model]
kind = "logistic-regression"
[training]
steps = 50
[strategy]
kind = "fedbuff"
buffer_size = 3
[stop]
updates = 30
[personal]
kind = "local-layers"
layers = ["bias"]
"""

SITE = """
name = "{name}"
personal = "own-models"
[[datasets]]
name = "heart"
path = "heart.csv"
format = "csv"
header = {columns}
columns = {{ sex = "geschlecht" }}
"""


@pytest.fixture
def study(tmp_path, private_redis, client):
    """Three hospitals' folders, and their running processes."""
    broker = private_redis.broker_url
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FEDELTA_")}
    environment |= {"FEDELTA_BROKER_URL": broker, "FEDELTA_CACHE_DIR": str(tmp_path / "cache")}
    processes, logs = [], []

    def start(*arguments):
        logs.append((tmp_path / f"log-{len(logs)}").open("wb"))
        command = [*FEDELTA, *map(str, arguments)]
        processes.append(
            subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=logs[-1], stderr=logs[-1])
        )

    for name in HOSPITALS:
        folder = tmp_path / name
        folder.mkdir()
        text = (PUBLISHED / "heart-disease" / f"processed.{name}.data").read_text()
        (folder / "heart.csv").write_text(text)
        written = ["geschlecht" if column == "sex" else column for column in COLUMNS]
        (folder / "site.toml").write_text(SITE.format(name=name, columns=json.dumps(written)))
        start("worker", "--site", folder / "site.toml")
    start("coordinator")
    (tmp_path / "hearts.toml").write_text(EXPERIMENT)

    def run(*arguments):
        return subprocess.run(
            [*FEDELTA, *map(str, arguments)],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
        )

    yield run
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for log in logs:
        log.close()


def pooled(folder):
    """Every hospital's rows of the two features that are numbers everywhere, NaN where missing."""
    rows = []
    for name in HOSPITALS:
        with (folder / name / "heart.csv").open(newline="") as file:
            for row in csv.DictReader(file, COLUMNS):
                rows.append(
                    [float("nan") if row[column] == "?" else float(row[column]) for column in COLUMNS]
                )
    return np.array(rows)


def test_hospitals_train_on_their_own_files_and_nothing_of_these_leaves_them(study, tmp_path, client):
    checked = study("check", tmp_path / "va" / "site.toml", "--experiment", "hearts.toml")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    done = study("run", "hearts.toml", "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["outcome"], summary["applied"]) == ("completed", 30)
    assert set(summary["own_models"]) == {"personal", "alone"}
    assert all(set(model["sites"]) == set(HOSPITALS) for model in summary["own_models"].values())
    # Every feature of the model was prepared alike, by what the hospitals told of what they train on.
    spec, _ = model_file.load(tmp_path / "runs" / "hearts" / "model.safetensors")
    told = spec.schema.preprocessing
    of_all = standardizing(moments(pooled(tmp_path)))
    assert spec.schema.inputs == (
        *("age", "sex = 0", "sex = 1", "trestbps", "chol"),
        *("restecg = 0", "restecg = 1", "restecg = 2", "thalach"),
    )
    place = spec.schema.inputs.index("age")
    assert told.shift[place] == pytest.approx(of_all.shift[0], abs=0.5)  # a quarter is held out
    assert told.shift[1] + told.shift[2] == pytest.approx(1.0)
    # The own models lie at the hospitals and nowhere else.
    for name in HOSPITALS:
        assert (tmp_path / name / "own-models" / "hearts" / name / "model.safetensors").exists()
    predicted = study(
        *("predict", tmp_path / "va" / "own-models" / "hearts" / "va" / "model.safetensors"),
        *(patients(tmp_path), "-o", tmp_path / "chances.csv"),
    )
    assert predicted.returncode == 0, predicted.stderr
    assert len((tmp_path / "chances.csv").read_text().splitlines()) == 3
    assert [event.kind for event in progress.events(client, "hearts")] == ["described", "finished"]


def patients(folder):
    file = folder / "patients.csv"
    file.write_text("age,sex,trestbps,chol,restecg,thalach\n63,1,140,260,1,112\n44,0,,209,?,127\n")
    return file


def test_a_hospital_whose_file_is_wrong_says_so_without_a_value_of_it_and_the_others_train(
    study, tmp_path, client
):
    wrong = (tmp_path / "va" / "heart.csv").read_text().splitlines()
    wrong[6] = wrong[6].replace(wrong[6].split(",")[0], "sixty-two", 1)
    (tmp_path / "va" / "heart.csv").write_text("\n".join(wrong) + "\n")
    checked = study("check", tmp_path / "va" / "site.toml", "--experiment", "hearts.toml")
    assert checked.returncode == 1
    assert "row 7" in checked.stdout + checked.stderr and "age" in checked.stdout + checked.stderr
    done = study("run", "hearts.toml", "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["sites"]["va"]["is_dropped"] and summary["sites"]["cleveland"]["updates"] > 0
    details = [event.detail for event in progress.events(client, "hearts") if event.kind == "refused"]
    assert len(details) == 5 and all("row 7" in detail and "age" in detail for detail in details)
    assert not any("sixty" in detail for detail in details)
