import json

import pytest
from rich.console import Console
from typer.testing import CliRunner

from orchestrator import cli, data_commands
from tests.conftest import PUBLISHED
from workers import originals
from workers.catalogue import CATALOGUE
from workers.errors import DataError


@pytest.fixture(autouse=True)
def empty(tmp_path, monkeypatch):
    """Neither a cache nor a folder with files."""
    monkeypatch.setattr(originals, "_folders", ())
    monkeypatch.setenv("FEDELTA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(data_commands, "console", Console(width=100, markup=False, highlight=False))
    monkeypatch.delenv("FEDELTA_DATA_DIR")


def fedelta(*arguments):
    return CliRunner().invoke(cli.app, ["data", *arguments])


def rows():
    """The table of `fedelta data list`: by name, the other columns."""
    heading, *lines = fedelta("list").stdout.splitlines()
    assert heading.split() == ["name", "examples", "sites", "features", "target", "licence", "here"]
    return {name: rest for name, *rest in (line.split() for line in lines)}


def test_every_data_set_is_listed_with_what_it_is():
    listed = rows()
    assert list(listed) == list(CATALOGUE)
    assert listed["iris"] == ["150", "-", "4", "multiclass", "CC", "BY", "4.0", "yes"]
    assert listed["tcga-brca"] == [
        *("1088", "(222", "test)", "6", "39", "survival"),
        *("open", "access", "no"),
    ]
    assert listed["pneumoniamnist"][:7] == ["5856", "(624", "test)", "-", "28", "x", "28"]


def test_it_says_whether_the_files_are_here(monkeypatch):
    without = {name for name, row in rows().items() if row[-1] == "no"}
    assert without == {name for name, entry in CATALOGUE.items() if entry.originals}
    monkeypatch.setenv("FEDELTA_DATA_DIR", str(PUBLISHED))
    assert {row[-1] for row in rows().values()} == {"yes"}


def test_it_says_where_a_file_is_not_the_published_one(monkeypatch, tmp_path):
    (tmp_path / "breastmnist.npz").write_text("something else")
    monkeypatch.setenv("FEDELTA_DATA_DIR", str(tmp_path))
    assert rows()["breastmnist"][-3:] == ["not", "as", "published"]


def test_a_script_reads_the_same_and_where_the_files_come_from():
    listed = {entry["name"]: entry for entry in json.loads(fedelta("list", "--json").stdout)}
    assert list(listed) == list(CATALOGUE)
    heart = listed["heart-disease"]
    assert (heart["num_examples"], heart["num_test"], heart["target"], heart["here"]) == (
        740,
        254,
        "binary",
        "no",
    )
    assert heart["sites"] == ["cleveland", "hungarian", "switzerland", "va"]
    assert [file["name"] for file in heart["originals"]][-1] == "processed.va.data"


def test_what_is_here_is_shown_and_not_fetched(monkeypatch):
    monkeypatch.setenv("FEDELTA_DATA_DIR", str(PUBLISHED))
    shown = fedelta("fetch", "tcga-brca").stdout.splitlines()
    assert shown == [f"{PUBLISHED}/tcga-brca/{name}" for name in ("brca.csv", "train_test_split.csv")]


def test_what_comes_with_fedelta_need_not_be_fetched():
    assert fedelta("fetch", "wine").stdout == "wine comes with fedelta: there is nothing to fetch\n"


def test_an_unknown_name_is_answered_with_those_that_are_known():
    error = fedelta("fetch", "khann").exception
    assert isinstance(error, DataError)
    assert str(error) == f"khann: expected one of {', '.join(CATALOGUE)}"
    assert cli.EXIT_CODES[DataError] == 2
