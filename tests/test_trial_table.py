"""A trial on one machine with a table of its own: a column of `[data] file` says whose examples are whose."""

import json

import pytest

from tests.centres import run

EXPERIMENT = """
name = "trial"
model = { kind = "linear-regression" }
training = { epochs = 1 }
strategy = { kind = "fedasync" }
stop = { updates = 4 }
[data]
file = "table.csv"
site_column = "hospital"
min_examples = 5
[data.layout]
features = ["x"]
target = { kind = "regression", column = "y" }
"""
ROWS = [f"{number % 7},{number},{hospital}" for hospital in (1, 2, 9, 10) for number in range(8)] + ["1,2,3"]


@pytest.fixture
def trial(tmp_path):
    """Runs a trial with these rows of its table; gives what the command said."""

    def of(rows):
        (tmp_path / "table.csv").write_text("\n".join(["x,y,hospital", *rows]) + "\n")
        (tmp_path / "trial.toml").write_text(EXPERIMENT)
        return run("run", tmp_path / "trial.toml", FEDELTA_RUNS_DIR=str(tmp_path / "runs"))

    return of


def test_mistakes_in_the_table_are_told_once_and_nothing_is_started(trial, tmp_path):
    done = trial(["old,1,1", "1,,2", *ROWS])
    table = tmp_path / "table.csv"
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        f"fedelta: {table}, row 1, column x: expected a number, found 'old'",
        f"{table}, row 2, column y: expected a number, found nothing",
    ]
    assert not (tmp_path / "runs").exists()


def test_a_table_that_is_not_there_and_one_without_enough_of_any_site_start_nothing(trial, tmp_path):
    done = trial(ROWS[:3])
    assert (done.returncode, done.stderr.splitlines()) == (
        2,
        [f"fedelta: {tmp_path}/table.csv: no site has 5 examples; the largest has 3"],
    )
    assert not (tmp_path / "runs").exists()


def test_the_summary_says_how_many_hospitals_of_the_table_take_part_in_the_order_of_their_numbers(
    trial, tmp_path
):
    done = trial(ROWS)
    assert done.returncode == 0, done.stderr
    assert "4 of 5 hospitals of the table take part: those with at least 5 examples" in done.stdout
    rows = [line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ") and line.strip()]
    assert [row for row in rows if row.isdecimal()] == ["1", "2", "9", "10"]
    summary = json.loads((tmp_path / "runs" / "trial" / "summary.json").read_text())
    assert summary["hospitals"] == {"taking_part": 4, "all": 5, "min_examples": 5}
    assert list(summary["sites"]) == ["1", "2", "9", "10"]
