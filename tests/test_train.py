"""The tasks of a site, called as functions, with a real ledger and a real broker."""

import numpy as np
import pytest
import redis

from tasks import keys, progress
from tasks.bell import Call
from tasks.evaluate import evaluate
from tasks.ledger import Ledger
from tasks.participation import participation
from tasks.presence import Presence
from tasks.site_ledger import SiteLedger
from tasks.supervise import supervise
from tasks.train import train
from tests.conftest import drain, make_spec, submit, zeros
from tests.test_bell import hearing
from workers import data
from workers.spec import Spec


@pytest.fixture
def begin(client):
    """Begins an experiment on the two hospitals' real examples, as an orchestrator does."""

    def begin_experiment(**changes):
        participation.cache_clear()
        changes = {"sites": ["a", "b"], "data": {"dataset": "two-hospitals"}, **changes}
        experiment = make_spec(**changes).experiment
        spec = Spec(experiment=experiment, schema=data.describe(experiment))
        Ledger(client).create("trial", spec, zeros())
        return spec

    return begin_experiment


def events(client):
    return [event.detail for event in progress.events(client, "trial") if event.kind == "refused"]


def test_an_order_is_carried_out_stored_and_announced(client, begin):
    begin()
    with hearing(client) as heard:
        train(experiment="trial", order="a/1")
    (_, taken), (channel, submitted) = heard
    assert taken == Call(kind="taken", experiment="trial", number=1)
    assert submitted == Call(
        kind="submitted", experiment="trial", number=1, seconds=submitted.seconds, has_failed=False
    )
    assert channel == "fedelta:bell:a"
    assert submitted.seconds > 0
    assert not client.exists(keys.lease("trial", "a"))
    new = drain(client)
    (row,) = progress.history(client, "trial")
    assert (row.site, row.order, row.num_examples, new.head.version) == ("a", 1, 750, 1)
    assert row.bytes_up > 0 and row.bytes_down > 0 and row.seconds > 0 and row.started > 0
    assert np.isfinite(row.loss)


def test_a_second_message_for_the_same_order_does_nothing(client, begin):
    begin()
    train(experiment="trial", order="a/1")
    with hearing(client) as heard:
        train(experiment="trial", order="a/1")
        assert client.llen(keys.inbox("trial")) == 1
        drain(client)
        train(experiment="trial", order="a/1")
    assert client.llen(keys.inbox("trial")) == 0
    assert heard == []


def test_the_same_order_done_again_gives_the_same_bytes(client, begin):
    begin()
    deltas = []
    for _ in range(2):
        train(experiment="trial", order="b/1")
        deltas.append(client.get(keys.delta("trial", "b")).partition(b"num_examples")[0])
        client.delete(keys.delta("trial", "b"))
    assert deltas[0] == deltas[1]


def test_training_that_diverges_is_reported_and_not_applied(client, begin):
    begin(training={"epochs": 3, "optimizer": {"name": "sgd", "learning_rate": 1e12}})
    with hearing(client) as heard:
        train(experiment="trial", order="a/1")
    assert [(call.kind, call.has_failed) for _, call in heard] == [("taken", False), ("submitted", True)]
    assert drain(client).head.applied == 0
    assert events(client) == [
        "the site could not train: training has diverged: the loss is not finite; "
        "a smaller learning rate may help"
    ]


def test_what_goes_wrong_at_a_site_is_reported_without_what_its_examples_are(client, begin, monkeypatch):
    begin()

    def fail(*_, **__):
        raise ValueError("patient 4711 is 93 years old")

    monkeypatch.setattr("workers.client_update.train", fail)
    train(experiment="trial", order="a/1")
    drain(client)
    assert events(client) == ["the site could not train: ValueError; the log of the site's worker says more"]


def test_a_version_is_scored_on_what_the_site_holds_out(client, begin):
    spec = begin()
    with hearing(client) as heard:
        evaluate(experiment="trial", site="a", version=0)
    (row,) = progress.evaluations(client, "trial", "a")
    held_out = data.load_site(spec, "a").holdout
    assert (row.version, row.num_examples) == (0, len(held_out)) == (0, 250)
    assert row.metrics["mse"] == pytest.approx(float(np.mean(held_out.targets.astype(float) ** 2)), rel=1e-6)
    ((channel, call),) = heard
    assert call == Call(kind="scored", experiment="trial", number=0, seconds=call.seconds)
    assert (channel, call.seconds > 0) == ("fedelta:bell:a", True)


def test_a_site_sends_no_message(client, begin):
    begin()
    train(experiment="trial", order="a/1")
    evaluate(experiment="trial", site="a", version=0)
    queues = [key for key in client.keys() if not key.startswith(b"fedelta:")]
    assert queues == []


def test_a_version_that_is_gone_is_not_scored(client, begin):
    begin()
    with hearing(client) as heard:
        evaluate(experiment="trial", site="a", version=7)
    assert list(progress.evaluations(client, "trial", "a")) == []
    assert heard == []


def test_one_experiment_that_cannot_be_read_does_not_hold_up_the_others(client, begin, caplog):
    begin()
    submit(client, "a/1", zeros())
    client.sadd(keys.RUNNING, "broken")
    client.set(keys.spec("broken"), b"nonsense")
    supervise()
    assert progress.read(client, "trial").head.applied == 1
    assert "broken: cannot be looked after" in caplog.text


class Away(SiteLedger):
    """A site's ledger whose Redis is away for so many submissions."""

    def __init__(self, client, num_failures):
        super().__init__(client)
        self.num_failures = num_failures

    def submit(self, experiment, lease, submission):
        self.num_failures -= 1
        if self.num_failures >= 0:
            raise redis.ConnectionError("it is away")
        return super().submit(experiment, lease, submission)


def test_what_was_trained_is_handed_in_when_redis_is_back(client, begin, monkeypatch, caplog):
    begin()
    monkeypatch.setattr("tasks.train.RETRY_SECONDS", 0.01)
    monkeypatch.setattr("tasks.train.SiteLedger", lambda found: Away(found, num_failures=2))
    train("trial", "a/1")
    assert client.exists(keys.delta("trial", "a"))
    assert caplog.messages == ["trial a/1: waits to be handed in: it is away"] * 2


def test_a_worker_that_is_told_to_end_waits_for_redis_no_longer(client, begin, monkeypatch):
    begin()
    stopped = Presence()
    stopped.stop()
    monkeypatch.setattr("tasks.train.presence", stopped)
    monkeypatch.setattr("tasks.train.SiteLedger", lambda found: Away(found, num_failures=100))
    with pytest.raises(redis.ConnectionError):
        train("trial", "a/1")
