import pytest

from orchestrator import control
from tasks import keys, progress
from tasks.ledger import Ledger
from tasks.site_ledger import SiteLedger
from tests.conftest import constant, drain, make_spec, submit, zeros
from workers.errors import ExperimentError, NotFound


def begin(client, **changes):
    Ledger(client).create("trial", make_spec(**changes), zeros())


def finish(client):
    client.hset(keys.head("trial"), "phase", "finished")


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
    finish(client)
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
    finish(client)
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
    finish(client)
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
