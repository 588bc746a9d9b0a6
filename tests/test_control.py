import pytest

from orchestrator import control, results
from orchestrator.pictures import read_table
from orchestrator.runs import Run
from orchestrator.submit import submit as submit_run
from tasks import keys, progress
from tasks.ledger import Ledger
from tasks.site_ledger import SiteLedger
from tests.conftest import REPOSITORY, constant, drain, make_spec, skip_last_scores, submit, zeros
from workers.errors import ExperimentError, NotFound


def begin(client, **changes):
    Ledger(client).create("trial", make_spec(**changes), zeros())


def test_stop_takes_back_the_orders_and_asks_for_a_last_score(client):
    begin(client)
    submit(client, "a/1", constant(1.0))
    drain(client)
    control.stop(client, "trial")
    head = progress.read(client, "trial").head
    assert (head.phase, head.outcome, head.reason) == ("finishing", "stopped", "stopped by hand")
    assert head.evaluating == 1
    assert SiteLedger(client).take("trial", "a/2", "worker") is None


def test_resume_orders_every_site_anew_from_where_the_model_is(client):
    begin(client)
    submit(client, "a/1", constant(1.0))
    drain(client)
    control.stop(client, "trial")
    skip_last_scores(client)
    control.resume(client, "trial")
    found = progress.read(client, "trial")
    assert found.head.phase == "running"
    assert {site.name: (site.record.sequence, site.record.base_version) for site in found.sites} == {
        "a": (3, 1),
        "ab": (2, 1),
        "c": (2, 1),
    }
    assert Ledger(client).running() == ["trial"]


def test_a_resumed_round_waits_for_the_sites_that_were_missing_from_it(client):
    begin(client, strategy={"kind": "fedavg"})
    submit(client, "a/1", constant(1.0))
    drain(client)
    control.stop(client, "trial")
    skip_last_scores(client)
    control.resume(client, "trial")
    found = progress.read(client, "trial")
    assert [site.name for site in found.sites if site.record.base_version is not None] == ["ab", "c"]
    submit(client, "ab/2", constant(1.0))
    submit(client, "c/2", constant(1.0))
    assert drain(client).head.version == 1


def test_resume_refuses_an_experiment_that_has_reached_its_end(client):
    begin(client, stop={"updates": 1})
    submit(client, "a/1", constant(1.0))
    drain(client)
    skip_last_scores(client)
    with pytest.raises(ExperimentError, match="trial is complete: 1 updates are applied"):
        control.resume(client, "trial")


def test_stopping_twice_or_resuming_what_runs_changes_nothing(client):
    begin(client)
    control.resume(client, "trial")
    assert progress.read(client, "trial").head.commits == 0
    control.stop(client, "trial")
    control.stop(client, "trial")
    assert progress.read(client, "trial").head.commits == 1


def test_an_unknown_experiment_is_named_beside_those_that_are_there(client):
    begin(client)
    with pytest.raises(NotFound, match="no experiment 'trail' in the ledger; there: trial"):
        control.stop(client, "trail")


def test_a_pause_is_left_out_of_every_time_in_the_tables(client, tmp_path, clock):
    begin(client)
    for seconds, order in ((2.0, "a/1"), (3.0, "c/1")):
        clock["now"] = 1000.0 + seconds
        submit(client, order, constant(1.0))
        drain(client)
    control.stop(client, "trial")
    client.hset(keys.head("trial"), mapping={"phase": "finished", "finished": 1004.0})
    clock["now"] = 1104.0
    control.resume(client, "trial")
    clock["now"] = 1106.0
    submit(client, "a/3", constant(1.0))
    drain(client)

    folder = tmp_path / "trial"
    folder.mkdir()
    results.write(client, Run(folder=folder))
    assert [row["seconds"] for row in read_table(folder / "history.csv")] == ["2.0", "3.0", "6.0"]
    events = read_table(folder / "events.csv")
    assert (events[-1]["kind"], events[-1]["seconds"], events[-1]["detail"]) == (
        "resumed",
        "4.0",
        "after 100.0 s",
    )


def test_a_name_that_is_taken_is_told_and_its_experiment_left_alone(client, tmp_path):
    run = Run(folder=tmp_path / "two-hospitals")
    run.folder.mkdir()
    run.experiment_file.write_text((REPOSITORY / "examples" / "two-hospitals.toml").read_text())
    assert submit_run(run)
    before = progress.read(client, "two-hospitals").head
    assert not submit_run(run)
    assert progress.read(client, "two-hospitals").head == before


def test_what_is_finished_already_is_not_stopped(client):
    Ledger(client).create("trial", make_spec(), zeros())
    assert control.stop(client, "trial") is True
    assert control.stop(client, "trial") is False
