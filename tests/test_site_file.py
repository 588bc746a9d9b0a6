import dataclasses

import pytest

from tasks import site_file
from workers.errors import SettingsError
from workers.source_settings import CsvSource, DicomSource, ImagesSource, NpzSource, ParquetSource

DATASETS = """
[[datasets]]
name = "stroke"
path = "data/stroke.csv"
format = "csv"
separator = ";"
decimal = ","
columns = { sex = "GESCHLECHT" }
values = { sex = { w = "F", m = "M" }, smoker = { "1" = "yes" } }
missing = ["", "-9"]
missing_in = { age = ["0", "999"] }

[[datasets]]
name = "genes"
path = "data/genes.parquet"
format = "parquet"
transposed = true

[[datasets]]
name = "arrays"
path = "data/arrays.npz"
format = "npz"
order = ["age"]

[[datasets]]
name = "skin"
path = "data/skin"
format = "images"
labels = "data/skin.csv"

[[datasets]]
name = "chests"
path = "data/chests"
format = "dicom"
labels = "data/chests.csv"
window_centre = -600
window_width = 1500.0
"""
HEAD = 'name = "lakeside"\nmin_count = 20\nmodels = ["hospital_models:small"]\n'


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data" / "skin").mkdir(parents=True)
    (tmp_path / "data" / "chests").mkdir()
    for name in ("stroke.csv", "genes.parquet", "arrays.npz", "skin.csv", "chests.csv"):
        (tmp_path / "data" / name).touch()
    return tmp_path


def read(folder, text):
    (folder / "site.toml").write_text(text)
    return site_file.read(folder / "site.toml")


def refusal(folder, text):
    with pytest.raises(SettingsError) as raised:
        read(folder, text)
    first, *mistakes = str(raised.value).splitlines()
    assert first == f"{folder}/site.toml: nothing was started, because of"
    return [mistake.strip() for mistake in mistakes]


def test_a_site_s_file_says_what_it_has_and_what_it_allows(folder):
    found = read(folder, HEAD + '[connection]\nurl = "x"\n' + DATASETS)
    assert (found.name, found.min_count, found.models) == ("lakeside", 20, ("hospital_models:small",))
    kinds = {"stroke": CsvSource, "genes": ParquetSource, "arrays": NpzSource}
    kinds |= {"skin": ImagesSource, "chests": DicomSource}
    assert {name: type(source) for name, source in found.sources.items()} == kinds
    stroke, genes, arrays, skin, chests = found.datasets
    assert (stroke.path, stroke.separator, stroke.decimal) == (folder / "data/stroke.csv", ";", ",")
    assert (stroke.missing, stroke.here("sex"), stroke.here("age")) == (("", "-9"), "GESCHLECHT", "age")
    assert stroke.values == {"sex": {"w": "F", "m": "M"}, "smoker": {"1": "yes"}}
    assert (stroke.missing_of("age"), stroke.missing_of("sex")) == (("", "-9", "0", "999"), ("", "-9"))
    assert genes.transposed and arrays.order == ("age",)
    assert (skin.path, skin.labels) == (folder / "data/skin", folder / "data/skin.csv")
    assert (chests.window_centre, chests.window_width) == (-600.0, 1500.0)
    assert dataclasses.astuple(skin.table)[:2] == (folder / "data/skin.csv", "skin")


def test_a_site_without_data_sets_has_none_and_tells_nothing_of_fewer_than_ten(folder):
    found = read(folder, 'name = "lakeside"\n')
    assert (found.sources, found.min_count, found.models) == ({}, 10, ())


def test_all_mistakes_are_told_at_once_with_their_fields(folder):
    spoiled = DATASETS.replace('format = "npz"', 'format = "xlsx"').replace(
        'separator = ";"', 'separator = ";;"'
    )
    spoiled = spoiled.replace("transposed = true", 'transposed = "yes"').replace("order", "sorder")
    spoiled = spoiled.replace('labels = "data/skin.csv"', "")
    found = refusal(folder, HEAD.replace("20", "0") + spoiled)
    assert found == [
        "datasets.0.separator: String should have at most 1 character, got ';;'",
        "datasets.1.transposed: should be a valid boolean, got 'yes'",
        "datasets.2.format: expected one of 'csv', 'parquet', 'npz', 'images', 'dicom', got 'xlsx'",
        "datasets.3.labels: is missing",
        "min_count: should be greater than 0",
    ]


SKIN, CSV = 'path = "data/skin"', 'separator = ";"'
OF_SEX, IN_AGE = 'sex = { w = "F", m = "M" }', 'missing_in = { age = ["0", "999"] }'


@pytest.mark.parametrize(
    ("old", "new", "mistake"),
    [
        ('"genes"', '"stroke"', "datasets.1: name: expected each once, got 'stroke' again"),
        ('"genes"', '"iris"', "datasets.1: name: 'iris' is one of fedelta's own; choose another"),
        ('name = "genes"', "", "datasets.1: name: is missing"),
        ("stroke.csv", "strike.csv", "datasets.0.path: there is no file {}/data/strike.csv"),
        (SKIN, 'path = "data/skin.csv"', "datasets.3.path: there is no folder {}/data/skin.csv"),
        ('labels = "data/skin.csv"', 'labels = "x.csv"', "datasets.3.labels: there is no file {}/x.csv"),
        ('path = "data/genes.parquet"', 'path = "data"', "datasets.1.path: there is no file {}/data"),
        ("window_width = 1500.0", "", "window_centre, window_width: expected both or neither"),
        (CSV, 'encoding = "klingon"', "datasets.0.encoding: expected an encoding of text"),
        (CSV, 'encoding = "rot13"', "datasets.0.encoding: expected an encoding of text"),
        (CSV, 'separator = ","', "separator: expected another character than ','"),
        (OF_SEX, "GESCHLECHT = {}", "datasets.0.values: expected the study's name of a column, sex, got"),
        (
            IN_AGE,
            "missing_in = { GESCHLECHT = [] }",
            "datasets.0.missing_in: expected the study's name of a column, sex",
        ),
        (OF_SEX, 'a = { 1 = "x", "1.0" = "y" }', "values: expected each value of a once, and 1 and 1.0 are"),
        (OF_SEX, "sex = { w = 0 }", "datasets.0.values.sex.w: should be a valid string, got 0"),
        (OF_SEX, 'sex = "F"', "datasets.0.values.sex: should be a valid dictionary, got 'F'"),
        (IN_AGE, 'missing_in = ["0"]', "datasets.0.missing_in: should be a valid dictionary"),
        (CSV, "sep = 1", "datasets.0.sep: is not a field that is known here; expected one of path, name"),
    ],
)
def test_a_mistake_in_a_data_set_is_named(folder, old, new, mistake):
    (found,) = refusal(folder, HEAD + DATASETS.replace(old, new, 1))
    assert mistake.format(folder) in found


def test_what_is_written_where_it_should_not_be_is_not_repeated(folder):
    (found,) = refusal(folder, 'password = "hunter2"\n' + HEAD)
    assert found.startswith("password: is not a field that is known here") and "hunter2" not in found


def test_of_too_many_data_sets_none_is_taken(folder):
    many = "".join(
        f'[[datasets]]\nname = "a{n}"\npath = "data/stroke.csv"\nformat = "csv"\n' for n in range(33)
    )
    assert "at most 32" in refusal(folder, HEAD + many)[0]


def test_a_process_has_the_file_that_the_environment_names_and_reads_it_once(folder, monkeypatch):
    assert site_file.current() is None
    read(folder, HEAD + DATASETS)
    monkeypatch.setenv("FEDELTA_SITE_FILE", str(folder / "site.toml"))
    found = site_file.current()
    assert found.name == "lakeside" and site_file.current() is found
