"""The tasks of a site, called as functions, with a real ledger and a real broker."""

import dataclasses
import threading

import msgpack
import numpy as np
import pytest
import redis

from tasks import keys, messages, progress
from tasks.bell import Call
from tasks.evaluate import evaluate
from tasks.ledger import Ledger
from tasks.messages import Submission
from tasks.participation import participation
from tasks.presence import HOLDER, Presence, presence
from tasks.site_ledger import SiteLedger
from tasks.supervise import supervise
from tasks.train import train
from tests.conftest import drain, make_spec, order_of, submit, zeros
from tests.machine import wait_until
from tests.test_bell import DEADLINE, hearing
from workers import client_update, data
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
    """A site's ledger whose Redis is away, or otherwise indisposed, for so many submissions."""

    def __init__(self, client, num_failures, error=None):
        super().__init__(client)
        self.num_failures, self.error = num_failures, error or redis.ConnectionError("it is away")

    def submit(self, experiment, lease, submission):
        self.num_failures -= 1
        if self.num_failures >= 0:
            raise self.error
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


@pytest.mark.parametrize(
    "error",
    [
        redis.TimeoutError("it is slow"),
        redis.exceptions.OutOfMemoryError("used memory > 'maxmemory'"),
        redis.ReadOnlyError("it is a replica"),
        redis.ResponseError("MISCONF it cannot write to its disk"),
        redis.exceptions.ExecAbortError("the transaction was discarded"),
        redis.BusyLoadingError("it reads its file"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_redis_cannot_do_now_it_is_asked_again(client, begin, monkeypatch, caplog, error):
    begin()
    monkeypatch.setattr("tasks.train.RETRY_SECONDS", 0.01)
    monkeypatch.setattr("tasks.train.SiteLedger", lambda found: Away(found, num_failures=1, error=error))
    train("trial", "a/1")
    assert client.exists(keys.delta("trial", "a"))
    assert caplog.messages == [f"trial a/1: waits to be handed in: {error}"]


@pytest.mark.parametrize("kind", [redis.AuthenticationError, redis.exceptions.NoPermissionError])
def test_a_site_that_is_let_in_no_more_does_not_ask_again(client, begin, monkeypatch, kind):
    begin()
    away = Away(client, num_failures=100, error=kind("no"))
    monkeypatch.setattr("tasks.train.SiteLedger", lambda found: away)
    with pytest.raises(kind):
        train("trial", "a/1")
    assert away.num_failures == 99


def test_what_was_trained_while_redis_was_full_is_handed_in_when_there_is_room(
    client, begin, monkeypatch, caplog
):
    begin()
    monkeypatch.setattr("tasks.train.RETRY_SECONDS", 0.01)
    trained = client_update.train

    def train_while_redis_fills(*arguments, **options):
        client.config_set("maxmemory", 1)
        return trained(*arguments, **options)

    monkeypatch.setattr(client_update, "train", train_while_redis_fills)
    thread = threading.Thread(target=train, args=("trial", "a/1"))
    try:
        thread.start()
        wait_until(lambda: len(caplog.messages) >= 2)
        assert thread.is_alive() and not client.exists(keys.delta("trial", "a"))
        with pytest.raises(redis.ResponseError, match="maxmemory"):
            client.set("anything", 1)
    finally:
        client.config_set("maxmemory", 0)
        thread.join(DEADLINE)
    assert all("waits to be handed in" in said and "maxmemory" in said for said in caplog.messages)
    assert drain(client).head.applied == 1
    assert not client.exists(keys.lease("trial", "a"))


def test_an_order_that_cannot_be_read_here_is_one_line_in_the_log(client, begin, caplog):
    begin()
    client.set(keys.order("trial", "a"), msgpack.packb({"v": 2, "site": "a"}))
    train("trial", "a/1")
    assert caplog.messages == ["trial a/1: is this the centre's fedelta? Order: expected format 1, got 2"]
    assert not client.exists(keys.lease("trial", "a"), keys.delta("trial", "a"))


def test_a_second_message_for_an_order_that_this_process_is_at_work_on_does_not_train_twice(
    client, begin, monkeypatch
):
    begin()
    taken = SiteLedger(client).take("trial", "a/1", HOLDER)
    monkeypatch.setattr(client_update, "train", None)  # whoever calls it fails
    with presence.renewing(taken.lease):
        client.delete(taken.lease.key)  # Redis has lost it
        train("trial", "a/1")
        assert not client.exists(keys.delta("trial", "a"))
        assert client.get(taken.lease.key) == taken.lease.value.encode()  # and has it again


def test_an_order_of_the_same_number_that_was_given_again_is_another(client, begin):
    begin()
    forgotten = SiteLedger(client).take("trial", "a/1", HOLDER)
    order = order_of(client, "a")
    client.set(keys.order("trial", "a"), messages.encode(dataclasses.replace(order, issued=order.issued + 1)))
    with presence.renewing(forgotten.lease):
        train("trial", "a/1")
    submission = messages.decode(Submission, client.get(keys.delta("trial", "a")))
    assert submission.issued == order.issued + 1


def test_a_submission_repeats_when_its_order_was_given(client, begin, monkeypatch):
    begin()
    issued = order_of(client, "a").issued
    train("trial", "a/1")
    assert messages.decode(Submission, client.get(keys.delta("trial", "a"))).issued == issued
    monkeypatch.setattr(client_update, "train", None)
    train("trial", "b/1")
    failed = messages.decode(Submission, client.get(keys.delta("trial", "b")))
    assert (failed.issued, failed.delta) == (order_of(client, "b").issued, None)


def test_the_moments_of_an_order_are_reached_one_after_another(client, begin, monkeypatch):
    begin()
    reached, lease, delta = [], keys.lease("trial", "a"), keys.delta("trial", "a")

    def note(moment):
        reached.append((moment, client.exists(lease), client.exists(delta)))

    monkeypatch.setattr("tasks.hooks.reached", note)
    train("trial", "a/1")
    assert reached == [
        ("train.received", 0, 0),
        ("train.taken", 1, 0),
        ("train.trained", 1, 0),
        ("train.stored", 0, 1),
    ]
    reached.clear()
    train("trial", "a/1")
    assert reached == [("train.received", 0, 1)]
    evaluate("trial", "a", 0)
    assert [moment for moment, *_ in reached] == ["train.received", "evaluate.scored"]
