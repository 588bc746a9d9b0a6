"""A hospital's own tables: real ones, and real ones that were spoiled."""

import csv
import gzip

import numpy as np
import polars as pl
import pytest
from PIL import Image
from pydantic import TypeAdapter

from tests.conftest import REPOSITORY
from workers import sources
from workers.data_settings import Layout
from workers.errors import DataError
from workers.mistakes import MAX_SHOWN, Mistakes
from workers.source_settings import CsvSource, ImagesSource, ParquetSource

DATA = REPOSITORY.parent / "shared" / "data"
HEADER = ("age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang")
HEADER += ("oldpeak", "slope", "ca", "thal", "num")
CLEVELAND = DATA / "heart-disease" / "processed.cleveland.data"
SWITZERLAND = DATA / "heart-disease" / "processed.switzerland.data"


def layout(**changes):
    written = {
        "features": ["age", "sex", "cp", "trestbps", "fbs"],
        "categories": {"sex": ["0", "1"], "cp": ["1", "2", "3", "4"]},
        "target": {"kind": "binary", "column": "num", "classes": {"no": ["0"], "yes": ["1", "2", "3", "4"]}},
        **changes,
    }
    return TypeAdapter(Layout).validate_python(written)


def heart(path=CLEVELAND, **options):
    return CsvSource(name="heart", path=path, **({"header": HEADER} | options))


def cells_of(path):
    return [line.split(",") for line in path.read_text().split()]


def written(folder, *lines, name="table.csv", encoding="utf-8"):
    path = folder / name
    path.write_bytes("".join(f"{line}\n" for line in lines).encode(encoding))
    return path


def mistakes_in(source, asked=None):
    """What a hospital is shown, and what may travel."""
    found = Mistakes(source.name, source.path)
    with pytest.raises(DataError) as raised:
        sources.read(source, asked or layout(), mistakes=found)
    return [str(mistake) for mistake in found.first], str(raised.value)


SMALL = layout(
    features=["age", "sex"],
    categories={"sex": ["f", "m"]},
    target={"kind": "binary", "column": "ill", "classes": {"no": ["0"], "yes": ["1"]}},
)
NUMBER = layout(features=["x"], categories={}, target={"kind": "regression", "column": "y"})


# Real tables


@pytest.mark.parametrize("path", [CLEVELAND, SWITZERLAND])
def test_a_table_is_read_as_the_study_lays_it_out(path):
    rows = cells_of(path)
    found = sources.read(heart(path), layout())
    assert found.feature_names == ("age", "sex", "cp", "trestbps", "fbs")
    assert (found.target_name, found.classes) == ("num", ("no", "yes"))
    assert dict(found.categories) == {"sex": ("0", "1"), "cp": ("1", "2", "3", "4")}
    expected = [
        [np.nan if row[place] == "?" else float(row[place]) for place in (0, 1, 2, 3, 5)] for row in rows
    ]
    np.testing.assert_array_equal(found.features, np.array(expected) - [0, 0, 1, 0, 0])
    np.testing.assert_array_equal(found.targets, [float(row[-1] != "0") for row in rows])
    assert found.features.dtype == found.targets.dtype == np.float64
    assert found.groups is None


def test_rows_with_a_missing_feature_are_dropped_where_the_study_says_so():
    rows = [row for row in cells_of(SWITZERLAND) if "?" not in (row[3], row[5])]
    assert 0 < len(rows) < 123
    found = sources.read(heart(SWITZERLAND), layout(missing="drop"))
    assert len(found) == len(rows) and not np.isnan(found.features).any()
    np.testing.assert_array_equal(found.features[:, 0], [float(row[0]) for row in rows])


def test_a_parquet_file_of_the_same_table_gives_the_same(tmp_path):
    def typed(cells):
        numbers = [None if cell == "?" else float(cell) for cell in cells]
        return pl.Series(numbers, dtype=pl.Float64)

    columns = dict(zip(HEADER, map(typed, zip(*cells_of(SWITZERLAND), strict=True)), strict=True))
    frame = pl.DataFrame(columns).with_columns(
        pl.col("num").cast(pl.Int8), pl.col("cp").cast(pl.Int64).cast(pl.String), sex=pl.col("sex").cast(bool)
    )
    frame.write_parquet(tmp_path / "heart.parquet")
    asked = layout(categories={"sex": ["false", "true"], "cp": ["1", "2", "3", "4"]})
    source = ParquetSource(name="heart", path=tmp_path / "heart.parquet")
    found, expected = sources.read(source, asked), sources.read(heart(SWITZERLAND), layout())
    np.testing.assert_array_equal(found.features, expected.features)
    np.testing.assert_array_equal(found.targets, expected.targets)
    assert sources.size(source) == (123, 14) == sources.size(heart(SWITZERLAND))


def test_the_stroke_trial_is_one_table_of_464_hospitals_with_known_outcomes():
    asked = layout(
        features=["AGE", "SEX", "RATRIAL", "RSBP"],
        categories={"SEX": ["F", "M"], "RATRIAL": ["N", "Y"]},
        target={
            "kind": "binary",
            "column": "OCCODE",
            "classes": {"independent": ["3", "4"], "dead or dependent": ["1", "2"]},
            "others": "drop",
        },
    )
    source = sources.of_file(DATA / "stroke-trial" / "ist.csv.gz")
    found = sources.read(source, asked, "HOSPNUM")
    with gzip.open(source.path, "rt") as text:
        names, *rows = [line.rstrip("\n").split(",") for line in text]
    outcome, hospital, age = (names.index(name) for name in ("OCCODE", "HOSPNUM", "AGE"))
    kept = [row for row in rows if row[outcome] in ("1", "2", "3", "4")]
    assert (len(rows), len(found), len(kept)) == (19_435, 19_285, 19_285)
    assert found.groups.tolist() == [row[hospital] for row in kept]
    assert len(set(found.groups)) == 464
    np.testing.assert_array_equal(found.features[:, 0], [float(row[age]) for row in kept])
    np.testing.assert_array_equal(found.targets, [float(row[outcome] in ("1", "2")) for row in kept])
    assert np.isnan(found.features[:, 2]).sum() == sum(not row[names.index("RATRIAL")] for row in kept)
    assert sources.size(source) == (19_435, 112)


@pytest.mark.parametrize("name", ["clinic.CSV", "clinic.csv.gz", "clinic.parquet"])
def test_a_file_is_a_table_of_the_format_that_its_name_says(tmp_path, name):
    source = sources.of_file(tmp_path / name)
    assert source.format == ("parquet" if name.endswith("parquet") else "csv")
    assert source.name is None


def test_a_file_that_is_no_table_by_its_name_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"table.xlsx: expected a table: .csv, .csv.gz or .parquet"):
        sources.of_file(tmp_path / "table.xlsx")


# What cells mean


def test_values_are_compared_as_text_and_numbers_by_their_value(tmp_path):
    lines = ["age,sex,ill", "1, f ,1.0", " 2.5 ,m,0", "1e1,f,1", "-0.5,m,0.00"]
    found = sources.read(CsvSource(name="a", path=written(tmp_path, *lines)), SMALL)
    np.testing.assert_array_equal(found.features, [[1, 0], [2.5, 1], [10, 0], [-0.5, 1]])
    np.testing.assert_array_equal(found.targets, [1, 0, 1, 0])


def test_a_number_with_a_zero_in_front_is_a_text_of_its_own(tmp_path):
    shown, _ = mistakes_in(CsvSource(name="a", path=written(tmp_path, "age,sex,ill", "1,f,01")), SMALL)
    assert shown == [f"{tmp_path}/table.csv, row 1, column ill: expected one of '0', '1', found '01'"]


@pytest.mark.parametrize("marker", ["", "NA", "N/A", "NaN", "nan", "null", "?", "  ", " NA "])
def test_the_usual_markers_are_missing_values_in_numbers_and_categories(tmp_path, marker):
    source = CsvSource(name="a", path=written(tmp_path, "age,sex,ill", f"{marker},{marker},1", "2,m,0"))
    np.testing.assert_array_equal(sources.read(source, SMALL).features, [[np.nan, np.nan], [2, 1]])


def test_a_site_has_markers_of_its_own_and_a_number_is_one_however_it_is_written(tmp_path):
    lines = ["age,sex,ill", "-9,unknown,1", "-9.0,m,0", "9,f,1"]
    source = CsvSource(name="a", path=written(tmp_path, *lines), missing=("-9", "unknown"))
    found = sources.read(source, SMALL)
    np.testing.assert_array_equal(found.features, [[np.nan, np.nan], [np.nan, 1], [9, 0]])
    shown, _ = mistakes_in(
        CsvSource(name="a", path=written(tmp_path, "age,sex,ill", "NA,f,1"), missing=("-9",)), SMALL
    )
    assert shown == [f"{tmp_path}/table.csv, row 1, column age: expected a number, found 'NA'"]


def test_a_value_that_the_study_lists_is_no_missing_one(tmp_path):
    asked = layout(
        features=["x"], categories={"x": ["NA", "EU"]}, target={"kind": "regression", "column": "y"}
    )
    source = CsvSource(name="a", path=written(tmp_path, "x,y", "NA,1", "?,2", "EU,3"))
    np.testing.assert_array_equal(sources.read(source, asked).features[:, 0], [0, np.nan, 1])


@pytest.mark.parametrize(
    "cell", ["inf", "-inf", "1e999", "1_000", "0x10", "1,5", "12 mm", "Infinity", "1.2.3"]
)
def test_what_is_no_finite_number_is_refused_in_a_column_of_numbers(tmp_path, cell):
    source = CsvSource(name="a", path=written(tmp_path, "x;y", "1;2", f"{cell};3"), separator=";")
    shown, told = mistakes_in(source, NUMBER)
    assert shown == [f"{tmp_path}/table.csv, row 2, column x: expected a number, found {cell!r}"]
    assert (
        told
        == "data set a: row 2, column x: expected a number; at the site, fedelta check says what was found"
    )


def test_a_comma_may_separate_the_fraction_and_then_a_point_may_not(tmp_path):
    source = CsvSource(name="a", path=written(tmp_path, "x;y", "1,5;2", ";-0,25"), separator=";", decimal=",")
    found = sources.read(
        source, layout(features=["x"], categories={}, target={"kind": "regression", "column": "y"})
    )
    np.testing.assert_array_equal(found.features, [[1.5], [np.nan]])
    np.testing.assert_array_equal(found.targets, [2, -0.25])
    spoiled = CsvSource(name="a", path=written(tmp_path, "x;y", "1.234;2"), separator=";", decimal=",")
    assert mistakes_in(spoiled, NUMBER)[0][0].endswith("row 1, column x: expected a number, found '1.234'")


def test_survival_is_a_time_and_whether_the_event_came(tmp_path):
    asked = layout(
        features=["x"], categories={}, target={"kind": "survival", "time": "days", "event": "died"}
    )
    lines = ["days,x,died", "10,1,1", "0.5,2,0.0", "7,3,1.0"]
    found = sources.read(CsvSource(name="a", path=written(tmp_path, *lines)), asked)
    np.testing.assert_array_equal(found.targets, [[10, 1], [0.5, 0], [7, 1]])
    assert (found.target_name, found.classes) == ("died", ())
    spoiled = written(tmp_path, "days,x,died", "-1,1,1", "?,2,0", "3,3,2", "4,4,")
    shown, _ = mistakes_in(CsvSource(name="a", path=spoiled), asked)
    assert [line.partition(", ")[2] for line in shown] == [
        "row 2, column days: expected a number, found nothing",
        "row 1, column days: expected a time that is not negative, found '-1.0'",
        "row 3, column died: expected 1 for an event, or 0 for none, found '2'",
        "row 4, column died: expected 1 for an event, or 0 for none, found nothing",
    ]


def test_the_survival_of_real_patients_is_as_in_their_table():
    path = DATA / "tcga-brca" / "brca.csv"
    with path.open(newline="") as text:
        names, *rows = csv.reader(text)
    features = [name.strip() for name in names if name not in ("", "pid", "E", "T")]
    asked = layout(features=features, categories={}, target={"kind": "survival", "time": "T", "event": "E"})
    found = sources.read(CsvSource(name="brca", path=path), asked)
    expected = [[float(row[names.index(name)]) for name in ("T", "E")] for row in rows]
    np.testing.assert_array_equal(found.targets, expected)
    assert found.features.shape == (len(rows), 39)


@pytest.mark.parametrize("cell", ["5", "", "?"])
def test_an_example_without_one_of_the_classes_is_refused_or_dropped_as_the_study_says(tmp_path, cell):
    path = written(tmp_path, "age,sex,ill", "1,f,1", f"2,m,{cell}", "3,f,0")
    shown, _ = mistakes_in(CsvSource(name="a", path=path), SMALL)
    assert shown[0].startswith(f"{path}, row 2, column ill: expected one of '0', '1', found")
    target = {
        "kind": "binary",
        "column": "ill",
        "classes": {"no": ["0"], "yes": ["1"]},
        "others": "drop",
    }
    dropped = layout(features=["age"], categories={}, target=target)
    found = sources.read(CsvSource(name="a", path=path), dropped)
    np.testing.assert_array_equal(found.features, [[1], [3]])
    np.testing.assert_array_equal(found.targets, [1, 0])


def test_a_missing_value_of_a_number_to_predict_is_refused(tmp_path):
    shown, _ = mistakes_in(CsvSource(name="a", path=written(tmp_path, "x,y", "1,", "2,3")), NUMBER)
    assert shown == [f"{tmp_path}/table.csv, row 1, column y: expected a number, found nothing"]


def test_columns_may_be_called_otherwise_at_a_site(tmp_path):
    path = written(tmp_path, "ALTER,GESCHLECHT,sex,krank", "1,m,egal,1", "2,x,egal,0")
    columns = {"age": "ALTER", "sex": "GESCHLECHT", "ill": "krank"}
    shown, told = mistakes_in(CsvSource(name="a", path=path, columns=columns), SMALL)
    assert shown == [f"{path}, row 2, column sex (GESCHLECHT here): expected one of 'f', 'm', found 'x'"]
    assert "GESCHLECHT" not in told and "'x'" not in told
    path.write_text("ALTER,GESCHLECHT,sex,krank\n1,m,egal,1\n2,f,egal,0\n")
    found = sources.read(CsvSource(name="a", path=path, columns=columns), SMALL)
    np.testing.assert_array_equal(found.features, [[1, 1], [2, 0]])


# A hospital's own way of writing


WRITTEN = ("alter,geschlecht,raucht,krank", "40,w,ja,2", "-9,m,nein,1", "50,W,,2", "-9.0,9,ja,1")
ASKED = layout(
    features=["age", "sex", "smoker"],
    categories={"sex": ["F", "M"]},
    target={"kind": "binary", "column": "ill", "classes": {"no": ["healthy"], "yes": ["ill"]}},
)
OWN_WAY = {
    "columns": {"age": "alter", "sex": "geschlecht", "smoker": "raucht", "ill": "krank"},
    "values": {
        "sex": {"w": "F", "W": "F", "m": "M", "d": "X"},
        "smoker": {"ja": "1", "nein": "0.5"},
        "ill": {"1": "healthy", "2.0": "ill"},
    },
    "missing_in": {"age": ("-9",), "sex": ("9",)},
}


def as_parquet(path):
    """The same table in a Parquet file, numbers as numbers."""
    frame = pl.read_csv(path, infer_schema_length=None)
    frame.write_parquet(path.with_suffix(".parquet"))
    return path.with_suffix(".parquet")


@pytest.mark.parametrize("kind", [CsvSource, ParquetSource])
def test_values_and_markers_of_a_column_mean_what_the_study_calls_them(tmp_path, kind):
    path = written(tmp_path, *WRITTEN)
    path = path if kind is CsvSource else as_parquet(path)
    found = sources.read(kind(name="a", path=path, **OWN_WAY), ASKED)
    expected = [[40, 0, 1], [np.nan, 1, 0.5], [50, 0, np.nan], [np.nan, np.nan, 1]]
    np.testing.assert_array_equal(found.features, expected)
    np.testing.assert_array_equal(found.targets, [1, 0, 1, 0])


def test_a_marker_of_one_column_is_a_value_in_another_and_those_of_all_hold_too(tmp_path):
    asked = layout(features=["x", "z"], categories={}, target={"kind": "regression", "column": "y"})
    path = written(tmp_path, "x,z,y", "9,9,1", "NA,NA,9")
    found = sources.read(CsvSource(name="a", path=path, missing_in={"z": ("9.0",)}), asked)
    np.testing.assert_array_equal(found.features, [[9, np.nan], [np.nan, np.nan]])
    np.testing.assert_array_equal(found.targets, [1, 9])


def test_what_values_mean_is_written_as_the_study_writes_and_is_never_missing(tmp_path):
    path = written(tmp_path, "x;y", "wenig;1", "1,5;2", ";3")
    values = {"x": {"wenig": "0.5", "": "0"}, "y": {"1": "-9"}}
    source = CsvSource(
        name="a", path=path, separator=";", decimal=",", values=values, missing=("0", "-9", "NA")
    )
    found = sources.read(source, NUMBER)
    np.testing.assert_array_equal(found.features[:, 0], [0.5, 1.5, 0])
    np.testing.assert_array_equal(found.targets, [-9, 2, 3])


def test_truth_values_of_a_parquet_file_have_meanings_too(tmp_path):
    path = tmp_path / "a.parquet"
    pl.DataFrame({"x": [True, False, None], "y": [True, False, True]}).write_parquet(path)
    source = ParquetSource(name="a", path=path, values={"x": {"true": "5"}, "y": {"false": "7"}})
    found = sources.read(source, NUMBER)
    np.testing.assert_array_equal(found.features[:, 0], [5, 0, np.nan])
    np.testing.assert_array_equal(found.targets, [1, 7, 1])


def test_values_of_a_table_of_labels_have_meanings_too(tmp_path):
    for name in ("a.png", "b.png"):
        Image.new("L", (2, 2)).save(tmp_path / name)
    labels = written(tmp_path, "file,num", "a.png,krank", "b.png,gesund")
    values = {"num": {"krank": "3", "gesund": "0"}}
    asked = layout(features=[], categories={}, image={"height": 2, "width": 2})
    source = ImagesSource(name="a", path=tmp_path, labels=labels, values=values)
    np.testing.assert_array_equal(sources.read(source, asked).targets, [1, 0])


def test_a_value_that_has_no_use_for_the_study_is_told_as_it_stands_there_and_what_it_was_made(tmp_path):
    path = written(tmp_path, "alter,geschlecht,raucht,krank", "40,d,manchmal,2", "41,x,ja,3")
    shown, told = mistakes_in(CsvSource(name="a", path=path, **OWN_WAY), ASKED)
    assert [line.partition(", ")[2] for line in shown] == [
        "row 1, column smoker (raucht here): expected a number, found 'manchmal'",
        "row 1, column sex (geschlecht here): expected one of 'F', 'M', found 'd', which values says is 'X'",
        "row 2, column sex (geschlecht here): expected one of 'F', 'M', found 'x'",
        "row 2, column ill (krank here): expected one of 'healthy', 'ill', found '3'",
    ]
    assert "manchmal" not in told and "raucht" not in told


@pytest.mark.parametrize("field", ["values", "missing_in"])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_column_of_values_or_markers_that_is_not_there_is_named(tmp_path, field, transposed):
    lines = ("gene,s1,s2", "x,1,2", "y,1,2", "note,a,b") if transposed else ("x,y,note", "1,1,a", "2,2,b")
    path = written(tmp_path, *lines)
    of_column = {"values": {"a": "1"}, "missing_in": ("-9",)}[field]

    def source(*columns):
        rewritten = {field: dict.fromkeys(columns, of_column)}
        return CsvSource(name="a", path=path, transposed=transposed, **rewritten)

    assert len(sources.read(source("x", "note"), NUMBER)) == 2  # another study may ask for the note
    shown, told = mistakes_in(source("x", "sx"), NUMBER)
    assert shown[0].removeprefix(f"{path}: ") == (
        "expected columns in values and missing_in that are there, "
        "found 'sx'; the columns are 'x', 'y', 'note'"
    )
    assert "sx" not in told
    found = Mistakes("a", path)
    with pytest.raises(DataError):
        sources.inventory(source("x", "sx"), found)
    assert [str(mistake) for mistake in found.first] == shown


def test_markers_of_a_column_are_missing_in_what_a_hospital_sees_of_its_files(tmp_path):
    path = written(tmp_path, *WRITTEN)
    source = CsvSource(name="a", path=path, **OWN_WAY)
    found = Mistakes("a", path)
    told = {facts.name: facts for facts in sources.inventory(source, found).columns}
    assert not found.total
    assert (told["alter"].num_missing, told["alter"].values) == (2, "40 to 50, median 45")
    assert (told["geschlecht"].num_missing, told["geschlecht"].values) == (1, "w 1, m 1, W 1")
    assert told["raucht"].num_missing == 1


# What is wrong is said with its place, all at once


def test_all_mistakes_of_a_table_are_shown_at_once_and_none_of_its_cells_travels(tmp_path):
    path = written(tmp_path, "age,sex,ill", "old,f,1", "2,divers,0", "3,m,perhaps")
    shown, told = mistakes_in(CsvSource(name="a", path=path), SMALL)
    assert shown == [
        f"{path}, row 1, column age: expected a number, found 'old'",
        f"{path}, row 2, column sex: expected one of 'f', 'm', found 'divers'",
        f"{path}, row 3, column ill: expected one of '0', '1', found 'perhaps'",
    ]
    assert told.startswith("data set a: row 1, column age: expected a number (and 2 more); ")
    assert not [word for word in ("old", "divers", "perhaps", str(tmp_path)) if word in told]


def test_of_many_mistakes_the_first_are_kept_and_all_are_counted(tmp_path):
    path = written(tmp_path, "x,y", *(f"no{row},1" for row in range(100)))
    found = Mistakes("a", path)
    with pytest.raises(DataError, match="and 99 more"):
        sources.read(CsvSource(name="a", path=path), NUMBER, mistakes=found)
    assert (len(found.first), found.total) == (MAX_SHOWN, 100)


def test_the_table_of_a_trial_is_nobodys_own_and_its_mistakes_are_told_in_full(tmp_path):
    path = written(tmp_path, "x,y", "no,1")
    with pytest.raises(DataError) as raised:
        sources.read(sources.of_file(path), NUMBER)
    assert str(raised.value) == f"{path}, row 1, column x: expected a number, found 'no'"


def test_columns_that_are_missing_or_there_twice_are_named_and_columns_that_nobody_asks_for_may_be(tmp_path):
    path = written(tmp_path, "age,age,note,note", "1,2,a,b")
    shown, told = mistakes_in(CsvSource(name="a", path=path), SMALL)
    listed = "'age', 'age', 'note', 'note'"
    assert shown == [
        f"{path}, column age: expected one column of that name, found 1, 2",
        f"{path}, column sex: expected a column of that name, found {listed}",
        f"{path}, column ill: expected a column of that name, found {listed}",
    ]
    assert "note" not in told
    path = written(tmp_path, "age,sex,ill,note,note", "1,f,1,a,b")
    assert len(sources.read(CsvSource(name="a", path=path), SMALL)) == 1


@pytest.mark.parametrize(
    ("lines", "mistake"),
    [
        ((), "expected a line with the names of the columns, found an empty file"),
        (("age,sex,ill",), "expected an example at least, found none among 0 rows"),
        (("age,sex,ill", "1,f,1", "2,m"), "row 2: expected 3 fields, found 2"),
        (("age,sex,ill", "1,f,1,9", "2,m,0"), "row 1: expected 3 fields, found 4"),
        (("age,sex,ill", "1,f,1", "", "2,m,0"), "row 2: expected 3 fields, found an empty line"),
        (("age,sex,ill", '1,"f,1'), "expected a table of text, found line 2: unexpected end of data"),
    ],
)
def test_a_file_that_is_no_whole_table_is_refused(tmp_path, lines, mistake):
    path = written(tmp_path, *lines)
    (shown,), told = mistakes_in(CsvSource(name="a", path=path), SMALL)
    assert shown.startswith(str(path)) and shown.removeprefix(str(path)).lstrip(":, ") == mistake
    assert told.startswith("data set a: ")


def test_a_row_that_is_none_shifts_no_other_and_hides_no_other_mistake(tmp_path):
    path = written(tmp_path, "age,sex,ill", "1,f,1", "2,f,0,9", "3,f", "4,M,1", "x,f,0")
    shown, _ = mistakes_in(CsvSource(name="a", path=path), SMALL)
    assert [line.removeprefix(f"{path}, ").partition(":")[0] for line in sorted(shown)] == [
        *("row 2", "row 3", "row 4, column sex", "row 5, column age"),
    ]


def test_empty_lines_at_the_end_are_none(tmp_path):
    assert len(sources.read(CsvSource(name="a", path=written(tmp_path, "x,y", "1,2", "", "")), NUMBER)) == 1


def test_rows_keep_their_numbers_where_others_are_dropped_or_hold_line_breaks(tmp_path):
    path = written(tmp_path, "note,x,y", '"two\nlines",1,2', "a,bad,3")
    assert mistakes_in(CsvSource(name="a", path=path), NUMBER)[0] == [
        f"{path}, row 2, column x: expected a number, found 'bad'"
    ]


def test_another_encoding_is_told_with_its_line_and_can_be_said(tmp_path):
    path = written(tmp_path, "x,Größe", "1,2", encoding="cp1252")
    (shown,), _ = mistakes_in(CsvSource(name="a", path=path), NUMBER)
    assert "expected text in utf-8, as the file's encoding is said to be, found line 1" in shown
    columns = {"y": "Größe"}
    for encoding in ("cp1252", "latin-1"):
        assert (
            len(sources.read(CsvSource(name="a", path=path, encoding=encoding, columns=columns), NUMBER)) == 1
        )
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        path = written(tmp_path, "x,Größe", "1,2", encoding=encoding)
        said = "utf-8" if encoding == "utf-8-sig" else encoding
        assert len(sources.read(CsvSource(name="a", path=path, encoding=said, columns=columns), NUMBER)) == 1


def test_a_compressed_file_that_is_cut_off_is_refused(tmp_path):
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"x,y\n" + b"1,2\n" * 1000)[:-12])
    (shown,), _ = mistakes_in(CsvSource(name="a", path=path), NUMBER)
    assert "expected a file that can be read, found Compressed file ended" in shown


@pytest.mark.parametrize("kind", [CsvSource, ParquetSource])
def test_a_file_that_is_gone_is_refused(tmp_path, kind):
    (shown,), told = mistakes_in(kind(name="a", path=tmp_path / "gone"), NUMBER)
    assert "No such file" in shown
    assert str(tmp_path) not in told


@pytest.mark.parametrize("data", [b"", b"PAR1", b"x,y\n1,2\n"])
def test_what_is_no_parquet_file_is_refused(tmp_path, data):
    (tmp_path / "a.parquet").write_bytes(data)
    (shown,), _ = mistakes_in(ParquetSource(name="a", path=tmp_path / "a.parquet"), NUMBER)
    assert "expected a Parquet file that can be read" in shown


def test_a_parquet_file_of_texts_and_dates_is_read_where_it_has_numbers(tmp_path):
    path = tmp_path / "a.parquet"
    frame = pl.DataFrame({"x": ["1", " 2.5", "NA", "x"], "y": [1.0, np.inf, 2.0, 3.0]})
    frame.with_columns(day=pl.date(2020, 1, 1)).write_parquet(path)
    shown, _ = mistakes_in(ParquetSource(name="a", path=path), NUMBER)
    assert shown == [
        f"{path}, row 4, column x: expected a number, found 'x'",
        f"{path}, row 2, column y: expected a number, found 'inf'",
    ]
    dates = layout(features=["day"], categories={}, target={"kind": "regression", "column": "y"})
    shown, _ = mistakes_in(ParquetSource(name="a", path=path), dates)
    assert shown[0] == f"{path}, column day: expected numbers or text, found a column of Date"


@pytest.mark.parametrize("missing", [("",), ("-9",)])
def test_nulls_and_not_a_number_are_missing_in_a_parquet_file_whatever_the_markers(tmp_path, missing):
    path = tmp_path / "a.parquet"
    columns = {"x": [1.0, None, np.nan, -9.0], "sex": ["f", None, "m", "m"], "y": [1, 2, 3, 4]}
    pl.DataFrame(columns).write_parquet(path)
    asked = layout(
        features=["x", "sex"], categories={"sex": ["f", "m"]}, target={"kind": "regression", "column": "y"}
    )
    found = sources.read(ParquetSource(name="a", path=path, missing=missing), asked)
    last = np.nan if missing == ("-9",) else -9
    np.testing.assert_array_equal(found.features[:, 0], [1, np.nan, np.nan, last])
    np.testing.assert_array_equal(found.features[:, 1], [0, np.nan, 1, 1])


# Gene expression


GENES = [f"V{number}" for number in range(1, 2309)]
KHAN = layout(
    features=GENES,
    categories={},
    target={
        "kind": "multiclass",
        "column": "tumour",
        "classes": {"BL": ["1"], "EWS": ["2"], "NB": ["3"], "RMS": ["4"]},
    },
)


@pytest.fixture(scope="module")
def khan():
    """Genes `(tumours, genes)` and kinds of tumour, as texts."""
    genes = [line.split(",") for line in (DATA / "khan" / "Khan_xtrain.csv").read_text().split()[1:]]
    kinds = (DATA / "khan" / "Khan_ytrain.csv").read_text().split()[1:]
    return genes, [kind.strip('"') for kind in kinds]


@pytest.mark.parametrize("format", ["csv", "parquet"])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_matrix_of_gene_expressions_is_read_upright_and_with_the_genes_in_lines(
    tmp_path, khan, format, transposed
):
    genes, kinds = khan
    table = [["tumour", *GENES], *([kind, *row] for kind, row in zip(kinds, genes, strict=True))]
    if transposed:
        table = [["gene", *(f"sample {n}" for n in range(len(kinds)))], *map(list, zip(*table, strict=True))]
        table[1][0] = "tumour"
    path = tmp_path / f"khan.{format}"
    if format == "csv":
        path.write_text("".join(",".join(row) + "\n" for row in table))
        source = CsvSource(name="khan", path=path, transposed=transposed)
    else:
        columns = list(zip(*table[1:], strict=True))
        series = [pl.Series(name, column) for name, column in zip(table[0], columns, strict=True)]
        first = 1 if transposed else 0
        frame = pl.DataFrame(series[:first] + [one.cast(pl.Float64) for one in series[first:]])
        frame.write_parquet(path)
        source = ParquetSource(name="khan", path=path, transposed=transposed)
    found = sources.read(source, KHAN)
    np.testing.assert_array_equal(found.features, np.array(genes, float))
    np.testing.assert_array_equal(found.targets, np.array(kinds, float) - 1)
    assert sources.size(source) == (63, 2309)


def test_a_mistake_in_a_transposed_table_is_told_by_its_example_and_feature(tmp_path):
    path = written(tmp_path, "gene,s1,s2,s3", "x,1,bad,3", "y,1,2,3", "x2,1,2,3")
    source = CsvSource(name="a", path=path, transposed=True)
    assert mistakes_in(source, NUMBER)[0] == [f"{path}, row 2, column x: expected a number, found 'bad'"]
    path = written(tmp_path, "gene,s1,s2,s3", "x,1,2,3", "x,1,2,3", "y,1,2,3")
    assert mistakes_in(source, NUMBER)[0] == [
        f"{path}, column x: expected one column of that name, found 1, 2"
    ]
    path = written(tmp_path, "gene,s1,s2,s3", "x,1,2", "y,1,2,3")
    assert mistakes_in(source, NUMBER)[0][0].endswith("row 1: expected 4 fields, found 3")


def test_parquet_with_a_gene_in_each_row_may_hold_texts(tmp_path):
    path = tmp_path / "a.parquet"
    pl.DataFrame({"gene": ["age", "sex", "ill"], "p1": ["1", "f", "0"], "p2": ["?", "m", "1"]}).write_parquet(
        path
    )
    found = sources.read(ParquetSource(name="a", path=path, transposed=True), SMALL)
    np.testing.assert_array_equal(found.features, [[1, 0], [np.nan, 1]])
    np.testing.assert_array_equal(found.targets, [0, 1])


# Sites of a trial's table


def test_the_values_of_a_column_of_sites_become_names(tmp_path):
    path = written(
        tmp_path, "x,y,site", "1,1,Göteborg / Östra", "2,2,12", "3,3,12.0", "4,4,St. Mary's", encoding="utf-8"
    )
    found = sources.read(sources.of_file(path), NUMBER, "site")
    assert found.groups.tolist() == ["goteborg-ostra", "12", "12", "st-mary-s"]


@pytest.mark.parametrize(
    ("names", "mistake"),
    [
        (("A b", "a-B"), "column site: expected sites whose names differ in letters or digits, "
         "found 'A b' and 'a-B', which both become 'a-b'"),
        (("a", "?"), "row 2, column site: expected the name or number of a site, found '?'"),
        (("-", "b"), "row 1, column site: expected the name or number of a site, found '-'"),
        (("a", ""), "row 2, column site: expected the name or number of a site, found nothing"),
    ],
)  # fmt: skip
def test_two_sites_of_one_name_and_a_site_of_none_are_refused(tmp_path, names, mistake):
    path = written(tmp_path, "x,y,site", *(f"1,2,{site}" for site in names))
    with pytest.raises(DataError) as raised:
        sources.read(sources.of_file(path), NUMBER, "site")
    assert str(raised.value) == f"{path}, {mistake}"


def test_a_study_of_images_is_no_study_of_a_table(tmp_path):
    asked = layout(features=[], categories={}, image={"height": 8, "width": 8})
    (shown,), _ = mistakes_in(heart(), asked)
    assert shown == f"{CLEVELAND}: expected images, for which the study asks, found a table (csv)"
