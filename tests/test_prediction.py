import csv
import dataclasses
import json
import math
import struct

import numpy as np
import polars as pl
import pytest
from pydantic import TypeAdapter

from orchestrator import prediction
from tests.conftest import make_spec
from workers import model_file
from workers.errors import DataError, SettingsError
from workers.schema import Schema
from workers.source_settings import CsvSource, NpzSource, ParquetSource
from workers.spec import Spec
from workers.standardization import Preprocessing

LN2, LN3, LN5 = math.log(2), math.log(3), math.log(5)
TOLERANCE = 1e-6  # six digits are written

REGRESSION = make_spec()
BINARY = make_spec(data={"dataset": "breast-cancer"}, model={"kind": "logistic-regression"})
SURVIVAL = make_spec(data={"dataset": "tcga-brca"}, model={"kind": "cox"})
MULTICLASS = make_spec(data={"dataset": "iris"}, model={"kind": "logistic-regression"})


def schema(features, target_kind, classes=(), mean=None, scale=None):
    mean = mean or (0.0,) * len(features)
    scale = scale or (1.0,) * len(features)
    return Schema(
        features=features,
        target="outcome",
        target_kind=target_kind,
        classes=classes,
        preprocessing=Preprocessing(fill=mean, shift=mean, scale=scale),
    )


@pytest.fixture
def save(tmp_path):
    """Saves a model as a run does; gives its path."""

    def save_model(spec, described, **params):
        path = tmp_path / "model.safetensors"
        arrays = {name.replace("__", "/"): np.asarray(leaf, np.float32) for name, leaf in params.items()}
        model_file.save(path, dataclasses.replace(spec, schema=described), arrays, version=7)
        return path

    return save_model


@pytest.fixture
def line(save):
    """y = 3 (x - 5) / 2 - 2 (z - 10) / 5 + 1."""
    described = schema(("x", "z"), "regression", mean=(5.0, 10.0), scale=(2.0, 5.0))
    return save(REGRESSION, described, weight=[[3.0], [-2.0]], bias=[1.0])


@pytest.fixture
def file(tmp_path):
    return tmp_path / "patients.csv"


@pytest.fixture
def output(tmp_path):
    return tmp_path / "predicted.csv"


def predicted(model, file, output, text):
    """The rows that are written for a file with this text, numbers as numbers."""
    file.write_text(text, "utf-8")
    num_rows = prediction.predict(model, file, output)
    with output.open(newline="", encoding="utf-8") as written:
        heading, *rows = csv.reader(written)
    assert [heading[0], *(row[0] for row in rows)] == ["row", *map(str, range(1, num_rows + 1))]
    return heading[1:], [[_number(cell) for cell in row[1:]] for row in rows]


def _number(cell):
    try:
        return pytest.approx(float(cell), abs=TOLERANCE)
    except ValueError:
        return cell


def refusal(model, file, output):
    """The error's text; nothing is written then."""
    with pytest.raises(DataError) as raised:
        prediction.predict(model, file, output)
    assert not output.exists()
    return str(raised.value)


def test_a_regression_gives_the_targets_value(line, file, output):
    heading, rows = predicted(line, file, output, "x,z\n5,10\n7,10\n5,15\n4,12.5\n")
    assert heading == ["outcome"]
    assert rows == [[1.0], [4.0], [-1.0], [-1.5]]


def test_survival_gives_the_risk_relative_to_an_example_of_means(save, file, output):
    described = schema(("x",), "survival", mean=(2.0,))
    model = save(SURVIVAL, described, weight=[[LN3]])
    heading, rows = predicted(model, file, output, "x\n2\n3\n1\n")
    assert heading == ["relative risk of outcome"]
    assert rows == [[1.0], [3.0], [1 / 3]]


def test_two_classes_give_the_probability_of_each_and_the_likeliest(save, file, output):
    model = save(BINARY, schema(("x",), "binary", ("sick", "well")), weight=[[LN3]], bias=[0.0])
    heading, rows = predicted(model, file, output, "x\n1\n-1\n0\n1000\n-1000\n")
    assert heading == ["outcome", "probability of sick", "probability of well"]
    assert rows == [
        ["well", 0.25, 0.75],
        ["sick", 0.75, 0.25],
        ["sick", 0.5, 0.5],
        ["well", 0.0, 1.0],
        ["sick", 1.0, 0.0],
    ]


def test_several_classes_give_the_probability_of_each_and_the_likeliest(save, file, output):
    described = schema(("x",), "multiclass", ("low", "middle", "high"))
    model = save(MULTICLASS, described, weight=[[0.0, LN2, LN5]], bias=[0.0, 0.0, 0.0])
    heading, rows = predicted(model, file, output, "x\n1\n-1\n0\n")
    assert heading == ["outcome", *(f"probability of {name}" for name in ("low", "middle", "high"))]
    assert rows == [
        ["high", 1 / 8, 2 / 8, 5 / 8],
        ["low", 10 / 17, 5 / 17, 2 / 17],
        ["low", 1 / 3, 1 / 3, 1 / 3],
    ]


def test_a_model_with_hidden_layers_predicts_from_its_file(save, file, output):
    spec = make_spec(model={"kind": "mlp", "hidden": [2]})
    model = save(
        spec,
        schema(("x",), "regression"),
        layer0__weight=[[1.0, -1.0]],
        layer0__bias=[0.0, 1.0],
        layer1__weight=[[10.0], [100.0]],
        layer1__bias=[0.5],
    )
    _, rows = predicted(model, file, output, "x\n2\n0\n-3\n")
    assert rows == [[20.5], [100.5], [400.5]]  # 10 max(0, x) + 100 max(0, 1 - x) + 0.5


def test_columns_may_be_in_another_order_among_others_and_quoted(line, file, output):
    text = '\ufeffz,name,"x",note\n15,Anna,5,"a, b"\n10,"Bo\nB", 7 ,\n'  # as Excel writes it: a BOM first
    assert predicted(line, file, output, text)[1] == [[-1.0], [4.0]]


def test_empty_lines_at_the_end_are_no_rows_and_one_between_rows_is_told(line, file, output):
    assert predicted(line, file, output, "x,z\r\n5,10\r\n7,10\r\n\r\n")[1] == [[1.0], [4.0]]
    output.unlink()
    file.write_text("x,z\n5,10\n\n7,10\n")
    assert refusal(line, file, output) == f"{file}, row 2: expected 2 fields, found an empty line"


def test_a_parquet_file_gives_the_same(line, tmp_path, output):
    file = tmp_path / "patients.parquet"
    pl.DataFrame({"z": [10, 15], "x": [7.0, 5.0]}).write_parquet(file)
    assert prediction.predict(line, file, output) == 2
    assert output.read_text().split() == ["row,outcome", "1,4", "2,-1"]


def test_a_file_that_is_no_table_by_its_name_is_refused(line, tmp_path, output):
    assert "expected a table: .csv, .csv.gz or .parquet" in refusal(line, tmp_path / "a.xlsx", output)


def test_a_former_output_is_replaced(line, file, output):
    output.write_text("a\nlot\nof\nlines\n")
    assert predicted(line, file, output, "x,z\n5,10\n")[1] == [[1.0]]


@pytest.mark.parametrize(
    ("text", "missing", "listed"),
    [
        ("x,y\n1,2\n", ("z",), "'x', 'y'"),
        ("X,Z\n1,2\n", ("x", "z"), "'X', 'Z'"),
        ("x;z\n1;2\n", ("x", "z"), "'x;z'"),
    ],
    ids=["one column", "other case", "other separator"],
)
def test_missing_columns_are_named_all_at_once(line, file, output, text, missing, listed):
    file.write_text(text)
    assert refusal(line, file, output).splitlines() == [
        f"{file}, column {name}: expected a column of that name, found {listed}" for name in missing
    ]


def test_a_file_without_rows_is_refused(line, file, output):
    file.write_text("x,z\n\n")
    assert refusal(line, file, output) == f"{file}: expected at least one row below the line of names"
    file.write_text("")
    assert "expected a line with the names of the columns, found an empty file" in refusal(line, file, output)


@pytest.mark.parametrize("text", ["tall", "1,5", "0x10", "--1", "inf", "-Infinity", "1e999"])
def test_what_is_no_finite_number_is_refused_with_its_place(line, file, output, text):
    file.write_text(f'x,note,z\n1,,2\n3,,"{text}"\n')
    assert refusal(line, file, output) == f"{file}, row 2, column z: expected a number, found {text!r}"


def test_all_that_is_wrong_is_told_at_once(stroke, file, output):
    file.write_text("sex,type,age\nM,2,old\nmale,1,1e300\nF,1\nmale,3,70\n")
    assert refusal(stroke, file, output).splitlines() == [
        f"{file}, row 1, column age: expected a number, found 'old'",
        f"{file}, row 3: expected 3 fields, found 2",
        f"{file}, row 2, column sex: expected one of 'F', 'M', found 'male', and so in 1 more row",
        f"{file}, row 4, column type: expected one of '1', '2', found '3'",
        f"{file}, row 2, column age: expected a number of at most 1e+30, found 1e+300",
    ]


def test_of_many_mistakes_the_first_are_told_and_the_others_counted(line, file, output):
    file.write_text("x,z\n" + "".join(f"{row}x,1\n" for row in range(30)))
    told = refusal(line, file, output).splitlines()
    assert (len(told), told[-1]) == (21, "and 10 more")


def test_a_file_that_is_not_there_is_named(line, file, output):
    message = refusal(line, file, output)
    assert message == f"{file}: expected a file that can be read, found No such file or directory"


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        (b"x,z\n1,\xff\n", "expected text in utf-8"),
        (b'x,z\n"' + b"1" * 200_000 + b'",2\n', "field larger than"),
    ],
    ids=["not UTF-8", "endless field"],
)
def test_a_file_that_is_not_csv_is_named(line, file, output, contents, words):
    file.write_bytes(contents)
    message = refusal(line, file, output)
    assert message.startswith(f"{file}: expected ")
    assert words in message


def safetensors(header, data=b""):
    packed = json.dumps(header).encode()
    return struct.pack("<Q", len(packed)) + packed + data


ONE_LEAF = {"weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}


@pytest.mark.parametrize(
    "contents",
    [b"", b"PK\3\4" + bytes(100), b"\xff" * 100, safetensors(ONE_LEAF), safetensors({"weight": 3})],
    ids=["empty", "a zip file", "garbage", "cut short", "wrong header"],
)
def test_a_model_that_is_not_a_safetensors_file_is_named(tmp_path, file, output, contents):
    file.write_text("x\n1\n")
    (tmp_path / "theirs").write_bytes(contents)
    message = refusal(tmp_path / "theirs", file, output)
    assert message.startswith(f"{tmp_path / 'theirs'}: cannot be read as safetensors: ")


def test_a_model_that_is_not_there_is_named(tmp_path, file, output):
    file.write_text("x\n1\n")
    message = refusal(tmp_path / "none", file, output)
    assert message.startswith(f"{tmp_path / 'none'}: cannot be read as safetensors: No such file")


@pytest.mark.parametrize(
    "metadata",
    [None, {"format": "pt"}, {"spec": "not JSON"}, {"spec": '{"experiment": {}}'}],
    ids=["no metadata", "another's metadata", "a spec that is no JSON", "a spec of something else"],
)
def test_a_safetensors_file_of_somebody_else_is_refused(tmp_path, file, output, metadata):
    file.write_text("x\n1\n")
    header = ONE_LEAF if metadata is None else {"__metadata__": metadata, **ONE_LEAF}
    (tmp_path / "theirs").write_bytes(safetensors(header, bytes(4)))
    message = refusal(tmp_path / "theirs", file, output)
    assert message == f"{tmp_path / 'theirs'}: expected a model saved by fedelta, with its spec beside it"


def test_load_gives_back_what_was_saved(line):
    spec, params = model_file.load(line)
    assert TypeAdapter(Spec).dump_python(spec)["schema"]["preprocessing"]["shift"] == (5.0, 10.0)
    assert spec.experiment == REGRESSION.experiment
    assert {leaf: array.tolist() for leaf, array in params.items()} == {
        "weight": [[3.0], [-2.0]],
        "bias": [1.0],
    }


def test_features_are_in_the_schemas_order_whatever_the_files(line, file):
    file.write_text("z,x\n1,2\n3,4\n")
    read = prediction.read_features(CsvSource(path=file), model_file.load(line)[0].schema)
    assert read.dtype == np.float64
    assert read.tolist() == [[2.0, 1.0], [4.0, 3.0]]


def test_a_model_whose_leaves_are_not_those_of_its_spec_is_refused(save, file, output):
    described = schema(("x",), "regression")
    model = save(REGRESSION, described, weight=[[1.0], [2.0]], bias=[0.0])
    file.write_text("x\n1\n")
    assert "expected the leaves {'weight': (1, 1), 'bias': (1,)}, as its spec says" in refusal(
        model, file, output
    )


def test_an_output_that_cannot_be_written_is_named_and_nothing_is_left(line, file, tmp_path):
    file.write_text("x,z\n1,2\n")
    nowhere = tmp_path / "nowhere" / "out.csv"
    assert str(nowhere) in refusal(line, file, nowhere)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.safetensors", "patients.csv"]


# Categories, and what is missing

STROKE = Schema(
    features=("age", "sex", "type"),
    categories={"sex": ("F", "M"), "type": ("1", "2")},
    drop_first=True,
    target="dead",
    target_kind="binary",
    classes=("no", "yes"),
    preprocessing=Preprocessing(fill=(70.0, 0.25, 0.5), shift=(70.0, 0.0, 0.0), scale=(10.0, 1.0, 1.0)),
)


@pytest.fixture
def stroke(save):
    """logit = (age - 70) / 10 + 2 [male] - 4 [type 2]."""
    return save(BINARY, STROKE, weight=[[1.0], [2.0], [-4.0]], bias=[0.0])


def test_categories_are_read_by_name_and_what_is_missing_is_imputed(stroke, file, output):
    file.write_text("sex,type,age\nM,2.0,80\n,1,\n F ,NA,90\n")
    prediction.predict(stroke, file, output)
    chances = [float(row["probability of yes"]) for row in csv.DictReader(output.read_text().splitlines())]
    logits = [1 + 2 - 4, 2 * 0.25, 2 - 4 * 0.5]
    assert chances == pytest.approx([1 / (1 + math.exp(-logit)) for logit in logits], rel=1e-5)


def test_a_model_of_sites_with_their_own_preprocessing_takes_the_file_for_one_of_them(save, file, output):
    local = dataclasses.replace(STROKE, preprocessing=None)
    data = dataclasses.replace(BINARY.experiment.data, standardize="local")
    spec = dataclasses.replace(BINARY, experiment=dataclasses.replace(BINARY.experiment, data=data))
    model = save(spec, local, weight=[[1.0], [0.0], [0.0]], bias=[0.0])
    file.write_text("sex,type,age\nM,2,60\nF,1,80\n")
    prediction.predict(model, file, output)
    chances = [float(row["probability of yes"]) for row in csv.DictReader(output.read_text().splitlines())]
    assert chances == pytest.approx([1 / (1 + math.e), 1 / (1 + 1 / math.e)], rel=1e-5)


def test_a_model_whose_experiment_never_began_to_train_predicts_nothing(save, file, output):
    model = save(BINARY, dataclasses.replace(STROKE, preprocessing=None), weight=[[1.0]] * 3, bias=[0.0])
    file.write_text("sex,type,age\nM,2,60\n")
    assert refusal(model, file, output).endswith("ended before any site had described its examples")


# A hospital's own way of writing


def written_here(folder, name="clinic", **options):
    """How a hospital writes; the file of its data set is not opened."""
    settings = {
        "columns": {"sex": "Geschlecht", "age": "Alter"},
        "values": {"sex": {"w": "F", "m": "M"}, "type": {"Blutung": "2", "Infarkt": "1"}},
        "missing_in": {"age": ("-9",)},
        "separator": ";",
        "decimal": ",",
        "encoding": "cp1252",
        **options,
    }
    return CsvSource(name=name, path=folder / "training.csv", **settings)


THEIRS = "Größe;Alter;type;Geschlecht\n170;80,5;Blutung;m\n165;-9;Infarkt;w\n"


def test_a_file_is_read_as_the_hospital_writes(stroke, file, output, tmp_path):
    file.write_text(THEIRS, "cp1252")
    assert prediction.predict(stroke, file, output, {"clinic": written_here(tmp_path)}) == 2
    chances = [float(row["probability of yes"]) for row in csv.DictReader(output.read_text().splitlines())]
    assert chances == pytest.approx([1 / (1 + math.exp(-logit)) for logit in (1.05 + 2 - 4, 0)], rel=1e-5)


def test_a_mistake_in_it_is_told_with_the_names_and_values_of_both(stroke, file, output, tmp_path):
    file.write_text(THEIRS.replace("80,5", "80.5").replace("w", "W"), "cp1252")
    with pytest.raises(DataError) as raised:
        prediction.predict(stroke, file, output, {"clinic": written_here(tmp_path)})
    assert str(raised.value).splitlines() == [
        f"{file}, row 1, column age (Alter here): expected a number, found '80.5'",
        f"{file}, row 2, column sex (Geschlecht here): expected one of 'F', 'M', found 'W'",
    ]
    assert not output.exists()


@pytest.mark.parametrize(
    ("dataset", "used"),
    [("clinic", "clinic"), (None, "breast-cancer")],
    ids=["the one that is chosen", "the one that the model was trained on"],
)
def test_of_several_data_sets_one_says_how_the_file_is_written(stroke, file, output, tmp_path, dataset, used):
    names = ("clinic", "breast-cancer", "other")
    own = {name: written_here(tmp_path, name) if name == used else CsvSource(path=file) for name in names}
    file.write_text(THEIRS, "cp1252")
    assert prediction.predict(stroke, file, output, own, dataset) == 2


@pytest.mark.parametrize(("dataset", "got"), [(None, "say which"), ("clinc", "got 'clinc'")])
def test_a_data_set_that_is_not_there_or_not_chosen_is_refused_with_the_choices(
    stroke, file, output, tmp_path, dataset, got
):
    own = {name: written_here(tmp_path, name) for name in ("clinic", "other")}
    with pytest.raises(SettingsError, match=f"dataset: expected one of clinic, other, .*{got}") as raised:
        prediction.predict(stroke, file, output, own, dataset)
    assert not output.exists() and str(raised.value).startswith("dataset: ")


def test_a_data_set_that_is_no_table_says_nothing_of_how_one_is_written(stroke, file, output, tmp_path):
    own = {"arrays": NpzSource(name="arrays", path=tmp_path / "a.npz")}
    with pytest.raises(SettingsError, match="expected one that is a table .csv or parquet.; arrays is npz"):
        prediction.predict(stroke, file, output, own)


def test_a_parquet_file_is_read_as_the_hospital_writes(stroke, tmp_path, output):
    file = tmp_path / "a.parquet"
    pl.DataFrame({"GENDER": [1, 2], "age": [80, -9], "type": [2, 1]}).write_parquet(file)
    options = {"columns": {"sex": "GENDER"}, "values": {"sex": {"1": "M", "2": "F"}}, "missing": ("-9",)}
    own = {"clinic": ParquetSource(name="clinic", path=tmp_path / "training", **options)}
    prediction.predict(stroke, file, output, own)
    chances = [float(row["probability of yes"]) for row in csv.DictReader(output.read_text().splitlines())]
    assert chances == pytest.approx([1 / (1 + math.e), 0.5], rel=1e-5)
