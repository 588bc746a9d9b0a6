import json

import pytest

from orchestrator import checking
from tests.centres import run
from tests.test_sources import CLEVELAND, DATA, HEADER
from workers.errors import ExperimentError, SettingsError

EXPERIMENT = """
name = "trial"
sites = ["lakeside"]
model = { kind = "logistic-regression" }
training = { epochs = 1 }
strategy = { kind = "fedasync" }
stop = { updates = 1 }

[data]
dataset = "heart"

[data.layout]
features = ["age", "gender"]
categories = { gender = ["0", "1"] }
target = { kind = "binary", column = "num", classes = { no = ["0"], yes = ["1", "2", "3", "4"] } }
"""


def site(folder, *datasets):
    """A site.toml with these data sets: name, path, and what else is said of them."""
    lines = ['name = "lakeside"']
    for name, path, *more in datasets:
        lines += ["[[datasets]]", f'name = "{name}"', f'path = "{path}"', 'format = "csv"', *more]
    (folder / "site.toml").write_text("\n".join(lines))
    (folder / "trial.toml").write_text(EXPERIMENT)
    return folder / "site.toml"


@pytest.fixture
def check(capsys):
    """Check in this process: whether nothing is wrong, and what is shown."""

    def checked(path, experiment=None, as_json=False):
        is_fine = checking.check(path, experiment, as_json=as_json)
        return is_fine, capsys.readouterr().out

    return checked


HEART = ("heart", CLEVELAND, f"header = {json.dumps(HEADER)}", 'columns = { gender = "sex" }')


def test_every_column_of_every_data_set_is_told(tmp_path, check):
    stroke = DATA / "stroke-trial" / "ist.csv.gz"
    is_fine, shown = check(site(tmp_path, HEART, ("stroke", stroke)))
    assert is_fine
    lines = [line.split() for line in shown.splitlines()]
    assert f"heart: csv, {CLEVELAND}, 303 examples" in shown
    assert ["ca", "numeric", "4", "0", "to", "3,", "median", "0"] in lines
    assert f"stroke: csv, {stroke}, 19,435 examples" in shown
    assert ["SEX", "categorical", "0", "M", "10407,", "F", "9028"] in lines
    assert ["RATRIAL", "categorical", "984", "N", "15282,", "Y", "3169"] in lines
    assert "column NCCODE: not all are numbers; the first other is '11A' in row 101" in shown


def test_with_an_experiment_its_features_and_target_are_told(tmp_path, check):
    is_fine, shown = check(site(tmp_path, HEART), tmp_path / "trial.toml")
    assert is_fine
    assert "num: no 164 (54%), yes 139 (46%)" in shown
    lines = [line.split() for line in shown.splitlines()]
    assert ["age", "numeric", "0", "29", "to", "77,", "median", "56"] in lines
    assert ["gender", "categorical", "0", "0", "97", "(32%),", "1", "206", "(68%)"] in lines
    assert "trestbps" not in shown


def test_what_is_wrong_is_told_with_row_and_column_all_at_once_and_fails(tmp_path):
    lines = CLEVELAND.read_text().splitlines()
    lines[4] = lines[4].replace("41.0,0.0", "old,2.0")
    (tmp_path / "heart.csv").write_text("\n".join(lines))
    path = site(tmp_path, ("heart", "heart.csv", *HEART[2:]))
    done = run("check", path, "--experiment", tmp_path / "trial.toml")
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.splitlines()[-2:] == [
        f"{tmp_path}/heart.csv, row 5, column age: expected a number, found 'old'",
        f"{tmp_path}/heart.csv, row 5, column gender (sex here): expected one of '0', '1', found '2.0'",
    ]


def test_for_a_script_there_is_json(tmp_path, check):
    (tmp_path / "bad.csv").write_text("x,y\n1,2\n3\n")
    is_fine, shown = check(site(tmp_path, HEART, ("bad", "bad.csv")), as_json=True)
    assert not is_fine
    said = json.loads(shown)
    heart, bad = said["datasets"]
    assert (said["site"], heart["num_examples"], heart["num_mistakes"]) == ("lakeside", 303, 0)
    assert heart["columns"][-1] == {
        "name": "num", "kind": "numeric", "num_missing": 0, "values": "0 to 4, median 0",
    }  # fmt: skip
    assert (bad["num_examples"], bad["num_mistakes"]) == (2, 1)
    assert bad["mistakes"][0] == {
        "file": str(tmp_path / "bad.csv"), "row": 2, "column": "", "here": "",
        "expected": "2 fields", "found": "1", "others": 0,
    }  # fmt: skip


def test_of_a_wide_matrix_a_summary_is_told(tmp_path, check):
    genes = DATA / "khan" / "Khan_xtrain.csv"
    is_fine, shown = check(site(tmp_path, ("tumours", genes)))
    assert is_fine
    assert "2,308 columns, of which 150 are listed: 2,308 numeric, 0 categorical; 0 values" in shown
    assert len(shown.splitlines()) < 170


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('dataset = "heart"', 'dataset = "other"', "the experiment asks for other; "),
        ("[data.layout]", "[data.lay]", "data.lay: is not a field that is known here"),
    ],
)
def test_an_experiment_that_does_not_fit_is_refused(tmp_path, check, old, new, said):
    path = site(tmp_path, HEART)
    (tmp_path / "trial.toml").write_text(EXPERIMENT.replace(old, new))
    with pytest.raises(ExperimentError, match=said):
        check(path, tmp_path / "trial.toml")


def test_a_column_that_the_study_asks_for_and_that_is_not_there_is_told(tmp_path, check):
    path = site(tmp_path, HEART)
    (tmp_path / "trial.toml").write_text(EXPERIMENT.replace('"age", ', '"height", '))
    is_fine, shown = check(path, tmp_path / "trial.toml")
    assert not is_fine and "column height: expected a column of that name, found 'age', 'sex'" in shown


def test_an_experiment_about_a_public_data_set_asks_for_nothing_of_a_site(tmp_path, check):
    path = site(tmp_path, HEART)
    head, _, _ = EXPERIMENT.partition("[data]")
    (tmp_path / "trial.toml").write_text(head + '[data]\ndataset = "breast-cancer"\n')
    with pytest.raises(ExperimentError, match="does not use what sites have, but breast-cancer"):
        check(path, tmp_path / "trial.toml")


def test_a_site_that_the_experiment_does_not_name_is_warned_and_may_go_on(tmp_path, check):
    path = site(tmp_path, HEART)
    path.write_text(path.read_text().replace("lakeside", "laekside"))
    is_fine, shown = check(path, tmp_path / "trial.toml")
    warning = "laekside is not among the sites of the experiment, which are 'lakeside'"
    assert is_fine and shown.splitlines()[1] == warning
    assert json.loads(check(path, tmp_path / "trial.toml", as_json=True)[1])["warnings"] == [warning]
    path.write_text(path.read_text().replace("laekside", "lakeside"))
    assert "not among" not in check(path, tmp_path / "trial.toml")[1]
    assert json.loads(check(path, as_json=True)[1])["warnings"] == []


@pytest.mark.parametrize("file", ["site.toml", "trial.toml"])
def test_check_starts_nothing_and_does_not_say_so(tmp_path, check, file):
    path = site(tmp_path, HEART)
    (tmp_path / file).write_text((tmp_path / file).read_text().replace("name =", "nam =", 1))
    with pytest.raises((SettingsError, ExperimentError)) as raised:
        check(path, tmp_path / "trial.toml")
    first, *others = str(raised.value).splitlines()
    assert first == f"{tmp_path / file}: this is wrong:"
    assert "  name: is missing" in others


COMMAS = "x;y;z\n1,5;1;a,b\n-2,25;2;NA\n;3;c\nNA;4;1,5\n7;0,5;d\n"
HINT = "values look like 1,5 in 'x': if a comma separates the fraction, say decimal = \",\" in site.toml"


@pytest.mark.parametrize("has_study", [False, True])
def test_values_with_a_comma_get_a_hint_and_none_once_it_is_taken(tmp_path, check, has_study):
    (tmp_path / "a.csv").write_text(COMMAS)
    written = ("heart", "a.csv", 'separator = ";"', 'columns = { age = "x", gender = "y", num = "z" }')
    path = site(tmp_path, written)
    study = tmp_path / "trial.toml" if has_study else None
    is_fine, shown = check(path, study)
    assert HINT in shown.splitlines() and is_fine == (not has_study)
    _, shown = check(site(tmp_path, (*written, 'decimal = ","')), study)
    assert "values look like" not in shown


def test_a_site_without_data_sets_is_told_how_to_name_one(tmp_path, check):
    is_fine, shown = check(site(tmp_path))
    assert is_fine and "has no [[datasets]]" in shown


def test_a_path_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(SettingsError, match=f"  datasets.0.path: there is no file {tmp_path}/gone.csv"):
        checking.check(site(tmp_path, ("heart", "gone.csv")), None, as_json=False)
