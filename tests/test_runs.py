import json
import os
import stat
import subprocess
from pathlib import Path

import pytest

from orchestrator import runs
from orchestrator.runs import Run
from workers.errors import NotFound, Unavailable

URL = "redis+socket:///tmp/fedelta-x/redis.sock"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('name = "study"  # mine\n', "utf-8")
    return path


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "runs" / "study"
    folder.mkdir(parents=True)
    return Run(folder=folder)


def claim(tmp_path, file, **changed):
    options = {"launched": 12.5, "is_here": True, **changed}
    return runs.claim(tmp_path / "runs", file, "study", **options)


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_claim_gives_the_first_name_that_is_free(tmp_path, file):
    assert [claim(tmp_path, file).name for _ in range(3)] == ["study", "study-2", "study-3"]


def test_claim_fills_the_folder_with_what_goes_into_a_run(tmp_path, file):
    run = claim(tmp_path, file)
    assert run.folder == tmp_path / "runs" / "study"
    assert run.experiment_file.read_bytes() == file.read_bytes()
    assert run.logs.is_dir()
    assert (run.is_here, run.launched) == (True, 12.5)
    assert (run.summary, run.broker_url, run.host_pid) == (None, None, None)


def test_claim_touches_nothing_that_is_there(tmp_path, file):
    (tmp_path / "runs" / "study").mkdir(parents=True)  # not even a run's
    (tmp_path / "runs" / "study" / "notes.txt").write_text("mine")
    (tmp_path / "runs" / "study-2").write_text("a file in the way")
    before = contents(tmp_path)
    run = claim(tmp_path, file)
    assert run.name == "study-3"
    assert {
        path: text for path, text in contents(tmp_path).items() if run.folder not in path.parents
    } == before


def test_claim_leaves_out_names_that_are_taken_elsewhere(tmp_path, file):
    taken = {"study", "study-3"}
    claimed = [claim(tmp_path, file, is_taken=taken.__contains__, is_here=False) for _ in range(2)]
    assert [run.name for run in claimed] == ["study-2", "study-4"]
    assert not claimed[0].is_here
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["study-2", "study-4"]


def test_adopt_makes_a_folder_for_an_experiment_from_elsewhere(tmp_path):
    run = runs.adopt(tmp_path / "runs", "theirs")
    assert (run.is_here, run.launched) == (False, None)
    assert not run.experiment_file.exists()
    assert runs.find(tmp_path / "runs", "theirs") == run


def test_the_address_is_for_its_owner_only(run):
    mask = os.umask(0)
    try:
        run.write_address(URL)
    finally:
        os.umask(mask)
    assert stat.S_IMODE((run.folder / "address.json").stat().st_mode) == 0o600
    assert (run.broker_url, run.host_pid) == (URL, os.getpid())


def test_a_removed_address_is_none_and_may_be_removed_again(run):
    run.write_address(URL)
    run.remove_address()
    run.remove_address()
    assert (run.broker_url, run.host_pid) == (None, None)
    assert list(run.folder.iterdir()) == []


def test_a_host_that_has_ended_has_no_process_but_still_an_address(run):
    ended = subprocess.Popen(["true"])
    ended.wait()
    (run.folder / "address.json").write_text(json.dumps({"broker_url": URL, "pid": ended.pid}))
    assert (run.broker_url, run.host_pid) == (URL, None)


def test_find_gives_the_run_of_that_name(tmp_path, file):
    claimed = claim(tmp_path, file)
    assert runs.find(tmp_path / "runs", "study") == claimed


def test_find_says_which_runs_there_are(tmp_path, file):
    claim(tmp_path, file), claim(tmp_path, file)
    (tmp_path / "runs" / "no-run-of-ours").mkdir()
    with pytest.raises(NotFound) as raised:
        runs.find(tmp_path / "runs", "other")
    assert str(raised.value) == f"no run 'other' in {tmp_path}/runs/; there: study, study-2"


def test_find_says_that_there_are_none(tmp_path):
    with pytest.raises(NotFound, match=r"^no run 'other' in .*/runs/; there: none$"):
        runs.find(tmp_path / "runs", "other")


def test_every_run_is_listed_by_name(tmp_path, file):
    claimed = [claim(tmp_path, file) for _ in range(3)]
    assert runs.every(tmp_path / "runs") == claimed
    assert runs.every(tmp_path / "nowhere") == []


@pytest.mark.parametrize(
    ("broken", "property_"),
    [
        ("summary.json", "summary"),
        ("run.json", "is_here"),
        ("run.json", "launched"),
        ("address.json", "broker_url"),
        ("address.json", "host_pid"),
    ],
)
@pytest.mark.parametrize("text", [b'{"half": ', b"", b"\xff\xfe"], ids=["half", "empty", "not text"])
def test_a_file_that_is_not_json_is_named(run, broken, property_, text):
    (run.folder / broken).write_bytes(text)
    with pytest.raises(Unavailable) as raised:
        getattr(run, property_)
    assert str(raised.value).startswith(f"{run.folder / broken}: cannot be read: ")


def test_a_process_that_took_the_hosts_id_is_not_taken_for_it(run):
    run.write_address(URL)
    address = json.loads((run.folder / "address.json").read_text())
    (run.folder / "address.json").write_text(json.dumps({**address, "born": "another time"}))
    assert run.host_pid is None


def test_a_host_that_nobody_waited_for_has_ended_all_the_same(run):
    ended = subprocess.Popen(["true"])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie until it is waited for
    facts = Path(f"/proc/{ended.pid}/stat").read_text().rpartition(")")[2].split()
    address = {"broker_url": URL, "pid": ended.pid, "born": facts[19]}
    (run.folder / "address.json").write_text(json.dumps(address))
    assert run.host_pid is None
    ended.wait()
