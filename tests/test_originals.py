import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

from orchestrator import submit
from orchestrator.runs import Run
from tasks.ledger import Ledger
from tests.conftest import PUBLISHED
from workers import data, datasets, originals
from workers.catalogue import CATALOGUE
from workers.errors import DataError

WITH_FILES = [name for name, entry in CATALOGUE.items() if entry.originals]

EXPERIMENT = """
name = "heart"
sites = ["cleveland", "hungarian", "switzerland", "va"]
data = { dataset = "heart-disease" }
model = { kind = "logistic-regression" }
training = { epochs = 1 }
strategy = { kind = "fedasync" }
stop = { updates = 1 }
"""


@pytest.fixture(autouse=True)
def folders_as_before(monkeypatch):
    """After the test; in it they are those of all tests, until it says otherwise."""
    monkeypatch.setattr(originals, "_folders", originals._folders)


@pytest.mark.parametrize("name", WITH_FILES)
def test_the_published_files_are_found_in_the_folder_of_each_data_set(name):
    paths = originals.paths(name)
    assert list(paths) == [original.name for original in CATALOGUE[name].originals]
    assert all(path.name == file and PUBLISHED in path.parents for file, path in paths.items())


def test_no_two_originals_have_the_same_name_or_url_and_all_come_over_https():
    every = [original for entry in CATALOGUE.values() for original in entry.originals]
    assert (
        len({original.name for original in every}) == len({original.url for original in every}) == len(every)
    )
    assert all(original.url.startswith("https://") and original.name in original.url for original in every)
    assert all(len(original.sha256) == 64 for original in every)


@pytest.mark.parametrize("name", WITH_FILES)
def test_a_data_set_that_is_not_here_is_not_fetched_but_asked_for(tmp_path, name):
    originals.use([tmp_path])
    with pytest.raises(DataError) as raised:
        datasets.load(name, 0)
    assert str(raised.value) == (
        f"{name}: {CATALOGUE[name].originals[0].name} is not here; fetch it (fedelta data fetch {name}), or "
        "let FEDELTA_DATA_DIR name a folder that has it"
    )
    assert not list(tmp_path.iterdir())


def test_without_any_folder_nothing_is_here():
    originals.use([])
    assert all(originals.find(original) is None for original in CATALOGUE["khan"].originals)


def test_a_file_may_lie_in_the_folder_itself_and_the_first_folder_counts(tmp_path):
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        shutil.copyfile(PUBLISHED / "medmnist" / "breastmnist.npz", tmp_path / folder / "breastmnist.npz")
    originals.use([tmp_path / "none", tmp_path / "first", tmp_path / "second"])
    assert originals.paths("breastmnist") == {"breastmnist.npz": tmp_path / "first" / "breastmnist.npz"}


def test_a_folder_of_that_name_is_not_the_file(tmp_path):
    (tmp_path / "breastmnist.npz").mkdir()
    originals.use([tmp_path])
    assert originals.find(CATALOGUE["breastmnist"].originals[0]) is None


def test_a_file_that_was_changed_is_refused_even_where_a_good_one_comes_after_it(tmp_path):
    shutil.copytree(PUBLISHED / "heart-disease", tmp_path / "heart")
    changed = tmp_path / "heart" / "processed.va.data"
    changed.chmod(0o600)
    changed.write_text(changed.read_text().replace("63,1,4,140", "64,1,4,140", 1))
    originals.use([tmp_path, PUBLISHED])
    with pytest.raises(DataError) as raised:
        datasets.load("heart-disease", 0)
    told = str(raised.value)
    assert told.startswith(
        f"heart-disease: {changed} is not the file that was published: expected sha256 e7c93d8d"
    )
    assert "64,1" not in told


def test_what_is_checked_is_the_sha256_of_the_catalogue(monkeypatch):
    entry = CATALOGUE["breastmnist"]
    (original,) = entry.originals
    monkeypatch.setitem(
        CATALOGUE, "breastmnist", replace(entry, originals=(replace(original, sha256="0" * 64),))
    )
    with pytest.raises(DataError, match="expected sha256 0000.*, got 3a22d2a4"):
        originals.paths("breastmnist")


def test_a_sites_worker_looks_where_the_environment_says(tmp_path):
    code = "from tasks import site_worker\nfrom workers import originals\nprint(*originals._folders)"
    environment = {**os.environ, "FEDELTA_DATA_DIR": "given", "FEDELTA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (done.stdout.split(), done.stderr) == (["given", f"{tmp_path}/data"], "")


def test_who_submits_looks_where_the_environment_says(client, monkeypatch, tmp_path):
    run = Run(folder=tmp_path / "heart")
    run.folder.mkdir()
    run.experiment_file.write_text(EXPERIMENT)
    monkeypatch.setattr(originals, "_folders", ())
    assert submit.submit(run)
    assert Ledger(client).spec(run.name).schema.target == "disease"
    monkeypatch.setenv("FEDELTA_DATA_DIR", str(tmp_path))
    data._whole_of.cache_clear()
    with pytest.raises(DataError, match="fedelta data fetch heart-disease"):
        submit.submit(run)
