"""The end of an experiment with personal models, as coordinator, sites and people bring it about.

The ledger is real; where time matters, only the coordinators' clock is moved by hand.
"""

import dataclasses

import numpy as np
import pytest
import redis
from safetensors.numpy import load_file

from orchestrator import archive, children, control, experiment
from orchestrator.private_redis import PrivateRedis
from tasks import aggregate, collect, environment, keys, messages, progress, snapshot, state, supervise
from tasks.evaluate import evaluate
from tasks.ledger import Ledger
from tasks.messages import Submission
from tasks.participation import participation
from tasks.personalize import measured
from tasks.site_ledger import LEASE, SiteLedger
from tasks.supervise import Care
from tasks.train import train
from tests.conftest import announce, constant, make_spec, order_of, sent, submit, zeros
from workers import data, model_file, personal
from workers.errors import Conflict
from workers.spec import Spec

SITES = ("a", "ab", "c")
TUNED = {"kind": "fine-tuning", "epochs": 1}


def begin(client, updates=1, chosen=TUNED, **changes):
    spec = make_spec(personal=chosen, stop={"updates": updates}, **changes)
    Ledger(client).create("trial", spec, zeros())


def complete(client, **changes):
    """Begin, and reach the goal by one update of site a."""
    begin(client, **changes)
    submit(client, "a/1", constant(1.0))
    return drain(client)


def drain(client):
    """One turn of the coordinator, as in `aggregate`."""
    with Ledger(client).turn("trial") as turn:
        return aggregate.DRAINS.get(turn.state.head.phase, aggregate.drain)(turn)


def repair(client):
    with Ledger(client).turn("trial") as turn:
        return supervise.repair(turn, Care())


def score(client, *sites, version=1):
    """The sites score the last version."""
    for site in sites:
        SiteLedger(client).put_evaluation("trial", site, version, 10, {"mse": 1.0, "r2": None})
    with Ledger(client).turn("trial") as turn:
        return collect.close_evaluation(turn)


def make(client, *orders):
    """The sites of these orders have made their own models."""
    for order in orders:
        assert submit(client, order, {})
    return drain(client)


def asked(client):
    """By site, its unfinished order and what it asks for."""
    found = progress.read(client, "trial")
    orders = [
        order_of(client, site.name) for site in found.sites if client.exists(keys.order("trial", site.name))
    ]
    return {order.id: order.asks for order in orders}


def noted(client, *kinds):
    found = progress.events(client, "trial")
    return [(event.kind, event.site, event.detail) for event in found if event.kind in kinds]


# All sites are there


def test_at_the_end_every_site_is_asked_for_its_own_model_from_the_last_version(client):
    new = complete(client)
    assert (new.head.phase, new.head.outcome, new.head.evaluating) == ("finishing", "completed", 1)
    assert asked(client) == dict.fromkeys(("a/2", "ab/2", "c/2"), "personalize")
    assert {order_of(client, site).base_version for site in SITES} == {1}
    assert {site: order_of(client, site).updates for site in SITES} == {"a": 1, "ab": 0, "c": 0}
    assert new.head.applied == 1


def test_before_the_end_sites_are_asked_to_train(client):
    begin(client, updates=2)
    assert set(asked(client).values()) == {"train"}
    submit(client, "a/1", constant(1.0))
    drain(client)
    assert asked(client) == dict.fromkeys(("a/2", "ab/1", "c/1"), "train")


@pytest.mark.parametrize(
    ("changes", "is_asked"),
    [
        ({"chosen": None}, False),
        ({"chosen": None, "baselines": ["pooled"]}, False),
        ({"chosen": None, "baselines": ["alone"]}, True),
        ({"chosen": {"kind": "ditto"}}, True),
        ({"chosen": {"kind": "local-layers", "layers": ["bias"]}}, True),
    ],
    ids=["neither", "pooled", "alone", "ditto", "local-layers"],
)
def test_sites_are_asked_only_where_they_have_something_to_do(client, changes, is_asked):
    assert complete(client, **changes).head.phase == "finishing"
    assert bool(asked(client)) == is_asked
    new = score(client, *SITES)
    assert new.head.phase == ("finishing" if is_asked else "finished")


@pytest.mark.parametrize("is_scored_first", [True, False])
def test_it_is_finished_when_the_last_version_is_scored_and_every_site_is_done(client, is_scored_first):
    complete(client)
    make(client, "a/2", "c/2")
    if is_scored_first:
        assert score(client, *SITES).head.phase == "finishing"
        new = make(client, "ab/2")
    else:
        assert make(client, "ab/2").head.phase == "finishing"
        new = score(client, *SITES)
    assert (new.head.phase, new.head.outcome, new.head.refused) == ("finished", "completed", 0)
    assert new.head.finished is not None
    assert Ledger(client).running() == []
    assert asked(client) == {}
    assert not client.keys("fedelta:{trial}:lease:*") + client.keys("fedelta:{trial}:delta:*")
    assert client.keys("fedelta:{trial}:model:*") == [keys.model("trial", 1).encode()]


def test_a_site_that_is_done_counts_no_update_and_stays_as_it_is(client):
    before = complete(client)
    new = make(client, "a/2")
    assert new.head.applied == 1
    assert len(list(progress.history(client, "trial"))) == 1
    assert new.sites["a"] == dataclasses.replace(before.sites["a"], base_version=None)
    assert asked(client) == dict.fromkeys(("ab/2", "c/2"), "personalize")


@pytest.mark.parametrize(
    "changes",
    [
        {"strategy": {"kind": "fedbuff", "buffer_size": 1}},
        {"strategy": {"kind": "fedavg", "quorum": 0.1}, "updates": 3},
    ],
    ids=["fedbuff", "fedavg"],
)
def test_it_is_so_with_every_strategy(client, changes):
    begin(client, **changes)
    for site in SITES:
        submit(client, f"{site}/1", constant(1.0))
    drain(client)
    assert asked(client) == dict.fromkeys(("a/2", "ab/2", "c/2"), "personalize")


@pytest.mark.parametrize("stop", ["seconds", "target"])
def test_it_is_so_whatever_ends_it(client, clock, stop):
    goal = {"seconds": 5.0} if stop == "seconds" else {"target": {"metric": "mse", "value": 2.0}}
    spec = make_spec(personal=TUNED, stop=goal)
    Ledger(client).create("trial", spec, zeros())
    if stop == "seconds":
        clock["now"] += 6
        repair(client)
    else:
        score(client, *SITES, version=0)
    assert set(asked(client).values()) == {"personalize"}
    for order in asked(client):
        submit(client, order, {})
    drain(client)
    if stop == "seconds":
        score(client, *SITES, version=0)
    assert progress.read(client, "trial").head.phase == "finished"


# What comes late, twice, or wrong


def test_what_was_trained_and_comes_while_models_are_made_is_not_taken_for_one(client):
    begin(client)
    ledger = SiteLedger(client)
    taken = ledger.take("trial", "c/1", "slow")
    submit(client, "a/1", constant(1.0))
    drain(client)
    late = Submission(order="c/1", issued=taken.order.issued, delta=[], num_examples=1)
    assert not ledger.submit("trial", taken.lease, late)
    client.set(keys.delta("trial", "c"), messages.encode(late))  # of a site that does not look first
    client.rpush(keys.inbox("trial"), "c")
    new = drain(client)
    assert (new.head.applied, new.head.version, new.head.refused) == (1, 1, 0)
    assert asked(client)["c/2"] == "personalize"
    assert make(client, "c/2").sites["c"].base_version is None


def test_what_was_submitted_to_train_when_the_goal_was_reached_is_thrown_away(client):
    begin(client)
    for site in SITES:
        submit(client, f"{site}/1", constant(1.0))
    new = drain(client)
    assert new.head.applied == 1
    assert not client.keys("fedelta:{trial}:delta:*")
    assert len(asked(client)) == 3


def test_of_two_coordinators_one_takes_in_what_the_sites_have_done(client):
    complete(client)
    score(client, *SITES)
    for site in SITES:
        submit(client, f"{site}/2", {})
    with Ledger(client).turn("trial") as slow:
        assert drain(client).head.phase == "finished"
        with pytest.raises(Conflict):
            aggregate.DRAINS["finishing"](slow)
    assert progress.read(client, "trial").head.phase == "finished"
    commits = progress.read(client, "trial").head.commits
    drain(client)
    assert progress.read(client, "trial").head.commits == commits


def test_nothing_is_written_when_nothing_has_come(client):
    before = complete(client)
    assert drain(client) == before
    client.rpush(keys.inbox("trial"), "a", "nobody")
    new = drain(client)
    assert new.sites == before.sites
    assert client.llen(keys.inbox("trial")) == 0


def test_a_site_that_fails_says_why_is_counted_and_neither_asked_again_nor_dropped(client):
    complete(client)
    submit(client, "a/2", None, error="the disk is full\x1b[2J")
    client.set(keys.delta("trial", "c"), b"garbage")
    client.rpush(keys.inbox("trial"), "c")
    new = drain(client)
    assert asked(client) == {"ab/2": "personalize"}
    said, garbage = noted(client, "refused", "dropped")
    assert said == ("refused", "a", "the site has no model of its own: the disk is full [2J")
    assert garbage[:2] == ("refused", "c") and garbage[2].startswith("the site has no model of its own: ")
    assert (new.head.refused, new.sites["a"].refused, new.sites["ab"].refused) == (2, 1, 0)
    assert (new.sites["a"].refusals, new.active) == (0, SITES)
    make(client, "ab/2")
    assert score(client, *SITES).head.outcome == "completed"


def test_a_site_that_was_dropped_is_not_asked(client):
    begin(client, updates=2)
    for number in range(1, state.MAX_REFUSALS + 1):
        submit(client, f"c/{number}", None, error="no")
        drain(client)
    for number in (1, 2):
        submit(client, f"a/{number}", constant(1.0))
        drain(client)
    assert list(asked(client)) == ["a/3", "ab/2"]


# Sites that go and come


def test_a_site_that_dies_over_its_own_model_is_waited_for_no_longer_than_a_lease(client, clock):
    complete(client)
    make(client, "a/2", "ab/2")
    score(client, *SITES)
    SiteLedger(client).take("trial", "c/2", "dies")
    client.delete(keys.lease("trial", "c"))
    clock["now"] += LEASE + 1
    announce(client, "a", "ab", seen=clock["now"])
    new = repair(client)
    assert (new.head.phase, new.head.outcome) == ("finished", "completed")
    assert noted(client, "gone") == [("gone", "c", "never seen")]
    assert asked(client) == {}


def test_a_site_that_comes_back_before_the_end_is_asked_anew(client, clock):
    complete(client)
    make(client, "a/2")
    clock["now"] += LEASE + 1
    announce(client, "a", "ab", seen=clock["now"])
    new = repair(client)
    assert (new.head.phase, new.sites["c"].is_owed) == ("finishing", True)
    assert asked(client) == {"ab/2": "personalize"}
    announce(client, "c", seen=clock["now"])
    repair(client)
    assert asked(client) == dict.fromkeys(("ab/2", "c/3"), "personalize")
    score(client, *SITES)
    assert make(client, "ab/2", "c/3").head.phase == "finished"


@pytest.mark.parametrize("strategy", ["fedasync", "fedavg"])
def test_a_site_that_was_away_when_training_ended_is_asked_if_it_comes_back_in_time(client, clock, strategy):
    """In a round it may have done all that it was asked for, and be owed nothing."""
    begin(client, updates=3, strategy={"kind": strategy})
    submit(client, "c/1", constant(1.0))
    drain(client)
    clock["now"] += LEASE + 1
    announce(client, "a", "ab", seen=clock["now"])
    assert repair(client).sites["c"].is_away
    for site in ("a", "ab"):
        submit(client, f"{site}/1", constant(1.0))
    drain(client)
    assert {order.partition("/")[0] for order in asked(client)} == {"a", "ab"}
    announce(client, *SITES, seen=clock["now"])
    repair(client)
    assert set(asked(client).values()) == {"personalize"}
    assert {order.partition("/")[0] for order in asked(client)} == {*SITES}


def test_where_no_site_is_there_it_is_finished_without_personal_models(client, clock):
    begin(client, updates=1)
    submit(client, "a/1", constant(1.0))
    clock["now"] += LEASE + 1
    with Ledger(client).turn("trial") as turn:
        gone = turn.state
        for site in SITES:
            gone = state.go_away(gone, site, takes_back=False)
        turn.commit(gone)
    assert drain(client).head.phase == "finishing"
    assert asked(client) == {}
    clock["now"] += collect.ANSWER_SECONDS + 1
    assert score(client).head.phase == "finished"


def test_an_order_whose_message_was_lost_is_sent_again_and_asks_for_the_same(client, clock):
    complete(client)
    client.delete(*(f"site.{site}" for site in SITES))
    clock["now"] += LEASE + 1
    announce(client, *SITES, seen=clock["now"])
    assert repair(client).head.resent == 3
    assert asked(client) == dict.fromkeys(("a/2", "ab/2", "c/2"), "personalize")
    assert order_of(client, "a").attempt == 2


def test_what_the_inbox_does_not_name_is_found(client):
    complete(client)
    submit(client, "a/2", {})
    client.delete(keys.inbox("trial"))
    repair(client)
    assert drain(client).sites["a"].base_version is None


def test_the_coordinators_tasks_bring_it_to_its_end_by_themselves(client):
    begin(client)
    submit(client, "a/1", constant(1.0))
    aggregate.aggregate("trial")
    assert "a.2.trial" in sent(client, "site.a")
    for site in SITES:
        submit(client, f"{site}/2", {})
    supervise.supervise()
    score(client, *SITES)
    assert progress.read(client, "trial").head.phase == "finished"


# By a person's hand


def test_stopped_by_hand_there_are_no_personal_models_and_resumed_there_are(client):
    begin(client, updates=2)
    submit(client, "a/1", constant(1.0))
    drain(client)
    assert control.stop(client, "trial")
    assert asked(client) == {}
    assert score(client, *SITES).head.phase == "finished"
    control.resume(client, "trial")
    assert asked(client) == dict.fromkeys(("a/3", "ab/2", "c/2"), "train")
    submit(client, "a/3", constant(1.0))
    drain(client)
    assert asked(client) == dict.fromkeys(("a/4", "ab/3", "c/3"), "personalize")
    assert order_of(client, "a").updates == 2  # two counted, of three orders


def test_an_experiment_that_has_failed_makes_none(client):
    begin(client, updates=9)
    for number in range(1, state.MAX_REFUSALS + 1):
        for site in SITES:
            submit(client, f"{site}/{number}", None, error="no")
        new = drain(client)
    assert (new.head.outcome, asked(client)) == ("failed", {})


def test_a_person_can_wait_no_longer_for_a_site_that_makes_its_model(client):
    complete(client)
    make(client, "a/2", "ab/2")
    score(client, *SITES)
    SiteLedger(client).take("trial", "c/2", "hangs")
    assert control.stop(client, "trial")
    head = progress.read(client, "trial").head
    assert (head.phase, head.outcome) == ("finished", "completed")
    assert noted(client, "finished")[-1][2] == "stopped by hand; without a model of its own: c"
    assert asked(client) == {}
    assert control.stop(client, "trial") is False


def test_a_stop_does_not_cut_off_the_last_score(client):
    complete(client)
    assert control.stop(client, "trial")
    assert progress.read(client, "trial").head.phase == "finishing"
    assert control.stop(client, "trial") is False
    assert score(client, *SITES).head.phase == "finished"


# Moved


@pytest.fixture
def elsewhere(tmp_path, client):
    """Another Redis, empty."""
    private = PrivateRedis(tmp_path / "elsewhere", tmp_path / "log")
    process = private.start()
    with redis.Redis.from_url(environment.as_ledger_url(private.broker_url)) as found:
        yield found
    children.end([process], grace_seconds=3.0)
    private.remove_home()


def test_exported_while_models_are_made_it_is_complete_in_the_file_and_goes_on_where_it_is(
    client, elsewhere, tmp_path
):
    complete(client)
    make(client, "a/2")
    submit(client, "c/2", None, error="no")
    drain(client)
    taken = snapshot.take(client, "trial")
    archive.write(tmp_path / "trial.zip", taken, experiment.text(taken.spec.experiment))
    with archive.opened(tmp_path / "trial.zip") as found:
        assert snapshot.put(elsewhere, found.snapshot)
    there = progress.read(elsewhere, "trial")
    assert (there.head.phase, there.head.outcome, there.head.refused) == ("finished", "completed", 1)
    assert there.spec.experiment.personal == taken.spec.experiment.personal
    assert not any(site.record.base_version is not None for site in there.sites)
    score(client, *SITES)
    assert make(client, "ab/2").head.phase == "finished"


def test_exported_while_it_trains_the_copy_makes_its_models_when_it_is_resumed_and_done(client, elsewhere):
    begin(client, updates=2)
    submit(client, "a/1", constant(1.0))
    drain(client)
    begun = order_of(client, "a").begun
    assert snapshot.put(elsewhere, snapshot.take(client, "trial"))
    control.resume(elsewhere, "trial")
    assert order_of(elsewhere, "a").begun == begun  # so a site goes on with what it has kept
    submit(elsewhere, "a/3", constant(1.0))
    drain(elsewhere)
    assert set(asked(elsewhere).values()) == {"personalize"}
    assert set(asked(client).values()) == {"train"}


# What the sites do, on two hospitals' examples


@pytest.fixture
def hospitals(client, tmp_path, monkeypatch):
    """Begins an experiment of three sites, as an orchestrator does; returns its spec."""
    monkeypatch.setenv("FEDELTA_PERSONAL_DIR", str(tmp_path / "personal"))

    def begin_experiment(chosen, **changes):
        participation.cache_clear()
        changes = {"stop": {"updates": 4}, "baselines": ["alone"], **changes}
        written = make_spec(personal=chosen, data={"dataset": "diabetes"}, **changes).experiment
        spec = Spec(experiment=written, schema=data.describe(written))
        params = spec.model.init(np.random.default_rng(0), spec.schema.input_shape, 1)
        assert Ledger(client).create("trial", spec, params) is not None
        return spec

    return begin_experiment


def train_to_the_end(client, *orders):
    for order in orders:
        train(experiment="trial", order=order)
        drain(client)


def own_model(tmp_path, site):
    return model_file.load(tmp_path / "personal" / "trial" / site / "model.safetensors")


@pytest.mark.parametrize(
    "chosen",
    [TUNED, {"kind": "ditto", "penalty": 0.5}, {"kind": "local-layers", "layers": ["bias"]}],
    ids=lambda chosen: chosen["kind"],
)
def test_each_site_has_its_own_model_which_stays_there_and_tells_how_good_it_is(
    client, hospitals, tmp_path, chosen
):
    spec = hospitals(chosen)
    train_to_the_end(client, "a/1", "ab/1", "a/2", "a/3")
    assert asked(client) == dict.fromkeys(("a/4", "ab/3", "c/2"), "personalize")
    last = progress.model(client, "trial", 4)
    for order in ("a/4", "ab/3", "c/2"):
        issued = order_of(client, order.partition("/")[0])
        train(experiment="trial", order=order)
        part = participation("trial", issued.site)
        saved_spec, saved = own_model(tmp_path, issued.site)
        assert saved_spec == spec
        (row,) = progress.evaluations(client, "trial", issued.site)
        alone = personal.alone(spec, part.data.train, issued.updates, issued.seed)
        expected = measured(part, last)
        expected |= {f"personal {name}": value for name, value in measured(part, saved).items()}
        if issued.updates:  # else there is nothing that it could have come to alone
            expected |= {f"alone {name}": value for name, value in measured(part, alone).items()}
        assert row.metrics == expected
        assert (row.version, row.num_examples) == (4, len(part.data.holdout))
        submission = messages.decode(Submission, client.get(keys.delta("trial", issued.site)), {})
        assert (submission.delta, submission.error) == ([], "")
    new = drain(client)
    assert not new.outstanding and new.head.refused == 0
    for site in SITES:
        evaluate(experiment="trial", site=site, version=4)
    assert score_and_close(client).head.phase == "finished"
    assert progress.read(client, "trial").metrics[-1].metrics.keys() == {"mse", "r2"}


def score_and_close(client):
    with Ledger(client).turn("trial") as turn:
        return collect.close_evaluation(turn)


def test_what_a_site_has_trained_along_is_its_own_model_in_the_end(client, hospitals, tmp_path):
    hospitals({"kind": "local-layers", "layers": ["bias"]})
    train_to_the_end(client, "a/1", "a/2", "ab/1", "a/3")
    folder = tmp_path / "personal" / "trial"
    kept = {site: load_file(folder / site / f"after-{n}.safetensors") for site, n in (("a", 3), ("ab", 1))}
    last = progress.model(client, "trial", 4)
    assert not last["bias"].any()  # never trained, never sent
    for site, order in (("a", "a/4"), ("ab", "ab/3"), ("c", "c/2")):
        train(experiment="trial", order=order)
        _, saved = own_model(tmp_path, site)
        assert saved["weight"].tobytes() == last["weight"].tobytes()
        expected = kept[site]["bias"] if site in kept else np.zeros(1, np.float32)
        assert saved["bias"].tobytes() == expected.tobytes()
    assert kept["a"]["bias"].any() and not np.array_equal(kept["a"]["bias"], kept["ab"]["bias"])


@pytest.mark.parametrize("chosen", [{"kind": "ditto"}, {"kind": "local-layers", "layers": ["bias"]}])
def test_an_order_that_is_done_again_gives_the_same_delta_and_keeps_the_same(
    client, hospitals, tmp_path, chosen
):
    hospitals(chosen)
    train_to_the_end(client, "a/1")
    done = []
    for _ in range(2):
        train(experiment="trial", order="a/2")
        delta = client.get(keys.delta("trial", "a")).partition(b"num_examples")[0]
        own = (tmp_path / "personal" / "trial" / "a" / "after-2.safetensors").read_bytes()
        done.append((delta, own))
        client.delete(keys.delta("trial", "a"))
    assert done[0] == done[1]


def test_nothing_of_a_site_but_its_deltas_and_metrics_is_in_redis(client, hospitals, tmp_path):
    hospitals({"kind": "ditto", "penalty": 0.5})
    train_to_the_end(client, "a/1", "ab/1", "a/2", "a/3")
    train(experiment="trial", order="a/4")
    _, saved = own_model(tmp_path, "a")
    everything = b"".join(client.dump(key) for key in client.keys("*"))
    assert saved["weight"].tobytes() not in everything and saved["weight"][3].tobytes() not in everything


def test_a_personal_model_that_has_diverged_is_not_saved_and_said(client, hospitals, tmp_path):
    hospitals({"kind": "ditto", "penalty": 1e6})
    train_to_the_end(client, "a/1", "ab/1", "a/2", "a/3")
    train(experiment="trial", order="a/4")
    assert drain(client).head.refused == 1
    ((_, site, detail),) = noted(client, "refused")
    assert site == "a"
    assert detail.endswith("its training has diverged; a smaller learning rate or personal.penalty may help")
    assert not (tmp_path / "personal" / "trial" / "a" / "model.safetensors").exists()


def test_without_a_method_a_site_trained_alone_is_measured_and_nothing_kept(client, hospitals, tmp_path):
    hospitals(None)
    train_to_the_end(client, "a/1", "ab/1", "a/2", "a/3")
    train(experiment="trial", order="ab/3")
    (row,) = progress.evaluations(client, "trial", "ab")
    assert set(row.metrics) == {"mse", "r2", "alone mse", "alone r2"}
    assert not (tmp_path / "personal").exists()
