"""What comes before training where each site has its examples at home: a real ledger, a faked clock."""

import dataclasses

import numpy as np
import pytest

from orchestrator import control, report, results, summary
from orchestrator.clock import Clock
from orchestrator.runs import Run
from tasks import aggregate, codec, exposition, keys, messages, preparation, progress, state, supervise
from tasks.app import site_queue
from tasks.ledger import Ledger
from tasks.messages import Submission
from tasks.site_ledger import LEASE, SiteLedger
from tasks.state import MAX_REFUSALS
from tasks.supervise import Care
from tests.conftest import announce, constant, make_spec, order_of, sent, submit, zeros
from tests.conftest import drain as drain_training
from workers import description
from workers.errors import Conflict

SITES = ("a", "ab", "c")
LAYOUT = {"features": ["x"], "target": {"kind": "regression", "column": "y"}}
AT_HOME = {"dataset": "ours", "layout": LAYOUT}
NAN = np.nan

# What each site has at home: 10, 20 and 30 examples.
VALUES = {site: np.arange(10.0 * number) for number, site in enumerate(SITES, 1)}
POOLED = np.concatenate(list(VALUES.values()))


def spec_of(quorum=0.5, standardize="pooled", **changes):
    spec = make_spec(data={**AT_HOME, "quorum": quorum, "standardize": standardize}, **changes)
    return dataclasses.replace(spec, schema=dataclasses.replace(spec.schema, preprocessing=None))


def begin(client, **changes):
    return Ledger(client).create("trial", spec_of(**changes), zeros())


def told_of(site, **leaves):
    told = description.describe(spec_of().schema, VALUES[site][:, None])
    return {**told.params, **leaves}


def tell(client, *sites, **leaves):
    """Let these sites carry out what they are asked for: to describe their examples."""
    for site in sites:
        order = order_of(client, site)
        assert order.asks == "describe"
        assert submit(client, order.id, told_of(site, **leaves))


def drain(client):
    with Ledger(client).turn("trial") as turn:
        return preparation.drain(turn)


def repair(client, **care):
    with Ledger(client).turn("trial") as turn:
        return supervise.repair(turn, Care(**care))


def events(client, *kinds):
    return [event for event in progress.events(client, "trial") if event.kind in kinds]


def asked(client):
    """By site with an order, its number and what it asks for."""
    found = [site for site in SITES if client.exists(keys.order("trial", site))]
    return {site: (order_of(client, site).sequence, order_of(client, site).asks) for site in found}


def preprocessing_of(client):
    return Ledger(client).spec("trial").schema.preprocessing


def memory_of(client):
    return codec.decode_tree(client.get(keys.memory("trial")), None)


def miss(client, clock, *missing):
    """Let a lease pass in which all sites but these are heard, and call the roll."""
    clock["now"] += LEASE + 1
    announce(client, *(site for site in SITES if site not in missing), seen=clock["now"])
    return repair(client)


# Before training


def test_sites_are_asked_to_describe_their_examples_before_anybody_trains_or_scores(client):
    new = begin(client, strategy={"kind": "fedbuff"})
    assert (new.head.phase, new.head.is_described, new.head.evaluating) == ("describing", False, None)
    assert asked(client) == dict.fromkeys(SITES, (1, "describe"))
    assert Ledger(client).running() == ["trial"]
    assert memory_of(client) == {}
    assert preprocessing_of(client) is None


@pytest.mark.parametrize("data", [{"dataset": "two-hospitals"}, AT_HOME | {"standardize": "local"}])
def test_an_experiment_with_nothing_to_tell_begins_with_training(client, data):
    new = Ledger(client).create("trial", make_spec(data=data), zeros())
    assert (new.head.phase, new.head.is_described, new.head.evaluating) == ("running", True, 0)
    assert asked(client) == dict.fromkeys(SITES, (1, "train"))


def test_what_sites_tell_is_kept_until_all_that_are_there_have(client):
    begin(client)
    tell(client, "c", "a")
    new = drain(client)
    assert (new.head.phase, new.outstanding, new.head.evaluating) == ("describing", ("ab",), None)
    assert set(memory_of(client)) == {
        f"{site}/{leaf}" for site in ("a", "c") for leaf in ("num_examples", "count", "mean", "squares")
    }
    assert asked(client) == {"ab": (1, "describe")}
    assert not client.exists(keys.delta("trial", "a")) and not client.exists(keys.inbox("trial"))
    assert (preprocessing_of(client), events(client, "described", "refused")) == (None, [])


def test_training_begins_when_all_have_told_with_the_preprocessing_of_their_pooled_examples(client, clock):
    begin(client)
    tell(client, "a", "ab")
    drain(client)
    clock["now"] = 1007.5
    tell(client, "c")
    new = drain(client)
    assert (new.head.phase, new.head.is_described, new.head.version) == ("running", True, 0)
    assert (new.head.evaluating, new.head.evaluating_since) == (0, 1007.5)
    assert asked(client) == dict.fromkeys(SITES, (2, "train"))
    found = preprocessing_of(client)
    assert found.shift == found.fill == pytest.approx((POOLED.mean(),), rel=1e-12)
    assert found.scale == pytest.approx((POOLED.std(),), rel=1e-12)
    (event,) = events(client, "described")
    assert (event.time, event.pause, event.site) == (1007.5, 7.5, "")
    assert event.detail == "3 sites have 60 examples to train on"
    before, after = spec_of(), Ledger(client).spec("trial")
    assert after.experiment == before.experiment
    assert dataclasses.replace(after.schema, preprocessing=None) == before.schema


def test_without_standardization_sites_share_only_what_missing_values_become(client):
    begin(client, standardize="none")
    tell(client, *SITES)
    drain(client)
    found = preprocessing_of(client)
    assert (found.fill, found.shift, found.scale) == (pytest.approx((POOLED.mean(),)), (0.0,), (1.0,))


def test_the_model_trains_on_from_what_was_submitted(client):
    begin(client)
    tell(client, *SITES)
    drain(client)
    assert progress.model(client, "trial", 0) == zeros()
    submit(client, "a/2", constant(1.0))
    new = drain_training(client)
    assert (new.head.applied, new.head.version) == (1, 1)


STRATEGIES = {
    "fedasync": {"kind": "fedasync"},
    "fedbuff": {"kind": "fedbuff", "server_optimizer": {"name": "adam", "learning_rate": 0.1}},
    "fedavg": {"kind": "fedavg", "server_optimizer": {"name": "adam", "learning_rate": 0.1}},
}


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
def test_what_sites_told_gives_way_to_the_memory_that_the_strategy_begins_with(client, strategy):
    begin(client, strategy=strategy)
    tell(client, *SITES)
    drain(client)
    expected = spec_of(strategy=strategy).experiment.strategy.init(zeros())
    assert (strategy["kind"] == "fedasync") == (expected == {})
    assert client.get(keys.memory("trial")) == codec.encode_tree(expected)


def test_the_task_sends_the_orders_to_train_and_to_score(client):
    begin(client)
    tell(client, *SITES)
    aggregate.aggregate("trial")
    for site in SITES:
        assert sent(client, site_queue(site)) == [f"{site}.2.trial", f"{site}.v0.trial"]


def test_a_turn_that_finds_nothing_new_writes_nothing(client):
    begin(client)
    tell(client, "a")
    commits = drain(client).head.commits
    assert drain(client).head.commits == commits == 1


def test_names_in_the_inbox_that_mean_nothing_are_done_away_with(client):
    begin(client)
    client.rpush(keys.inbox("trial"), "a", "nobody", b"\xff", "")
    new = drain(client)
    assert (new.outstanding, new.head.refused) == (SITES, 0)
    assert not client.exists(keys.inbox("trial"))


def test_sites_whose_names_begin_alike_are_told_apart(client):
    begin(client, quorum=1.0)
    tell(client, "ab", "c")
    assert drain(client).outstanding == ("a",)


# What is refused

HOSTILE = {
    "nan": {"mean": np.array([NAN])},
    "infinite": {"squares": np.array([np.inf])},
    "a negative count": {"count": np.array([-1.0])},
    "half a value": {"count": np.array([2.5])},
    "more values than examples": {"count": np.array([11.0])},
    "no examples": {"num_examples": np.array([0.0])},
    "huge": {"mean": np.array([1e101])},
    "too many inputs": {"mean": np.zeros(2)},
    "another shape": {"count": np.zeros((1, 1))},
    "another dtype": {"count": np.zeros(1, np.float32)},
    "a leaf too many": {"more": np.zeros(1)},
}


@pytest.mark.parametrize("leaves", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_description_is_refused_counted_and_asked_for_again(client, leaves):
    begin(client)
    tell(client, "a", **leaves)
    tell(client, "ab", "c")
    new = drain(client)
    assert (new.head.phase, new.head.refused) == ("describing", 1)
    assert (new.sites["a"].refusals, new.sites["a"].refused) == (1, 1)
    (event,) = events(client, "refused")
    assert (event.site, event.order) == ("a", "a/1") and event.detail
    assert asked(client) == {"a": (2, "describe")}
    assert set(memory_of(client)) == {f"{site}/{leaf}" for site in ("ab", "c") for leaf in told_of("a")}
    tell(client, "a")
    new = drain(client)
    assert (new.head.phase, new.sites["a"].refusals) == ("running", 0)
    assert preprocessing_of(client).shift == pytest.approx((POOLED.mean(),))


@pytest.mark.parametrize(
    "stored",
    [b"", b"\x00", b"garbage", b"\x81\xa1v\x01", b"x" * 100_000, b"\xdf\xff\xff\xff\xff"],
)
def test_garbage_in_place_of_a_description_is_refused(client, stored):
    begin(client)
    client.set(keys.delta("trial", "a"), stored)
    client.rpush(keys.inbox("trial"), "a")
    new = drain(client)
    assert (new.sites["a"].refusals, new.outstanding, new.head.phase) == (1, SITES, "describing")


def test_a_delta_of_the_model_is_no_description(client):
    begin(client)
    submit(client, "a/1", constant(1.0))
    drain(client)
    (event,) = events(client, "refused")
    assert "'bias' is unexpected; expected the leaves ['count', 'mean'," in event.detail


def test_a_site_that_cannot_describe_its_examples_says_why_in_a_line(client):
    begin(client)
    submit(client, "a/1", None, error="expected at least 10 examples\n\x1b[2J to train on")
    new = drain(client)
    (event,) = events(client, "refused")
    expected = "the site could not describe its examples: expected at least 10 examples  [2J to train on"
    assert (event.detail, new.sites["a"].refusals) == (expected, 1)


def refuse_for_good(client, *sites):
    for _ in range(MAX_REFUSALS):
        for site in sites:
            submit(client, order_of(client, site).id, None, error="no file")
        new = drain(client)
    return new


def test_a_site_is_dropped_after_five_refusals_and_the_others_begin_without_it(client, caplog):
    begin(client)
    tell(client, "ab", "c")
    new = refuse_for_good(client, "a")
    assert (new.head.phase, new.active, new.head.refused) == ("running", ("ab", "c"), MAX_REFUSALS)
    (event,) = events(client, "dropped")
    assert (event.site, event.order, event.detail) == ("a", "a/5", "5 refusals in a row")
    assert asked(client) == {"ab": (2, "train"), "c": (2, "train")}
    assert events(client, "described")[0].detail == "2 sites have 50 examples to train on"
    others = np.concatenate([VALUES["ab"], VALUES["c"]])
    assert preprocessing_of(client).shift == pytest.approx((others.mean(),))


def test_when_too_few_sites_are_left_the_experiment_has_failed_and_says_so(client):
    begin(client, quorum=0.6)  # two of three
    new = refuse_for_good(client, "a", "c")
    head = new.head
    reason = (
        "1 sites are left, and 2 must describe their examples; the events say why the others were dropped"
    )
    assert (head.phase, head.outcome, head.reason) == ("finished", "failed", reason)
    assert (new.outstanding, head.evaluating, asked(client)) == ((), None, {})
    assert events(client, "finished")[0].detail == reason
    assert Ledger(client).running() == []


def test_an_input_that_no_site_has_fails_the_experiment_by_name(client):
    begin(client)
    empty = {"count": np.zeros(1), "mean": np.zeros(1), "squares": np.zeros(1)}
    tell(client, *SITES, **empty)
    new = drain(client)
    head = new.head
    assert (head.phase, head.outcome, head.reason) == ("finished", "failed", "no site has values of x")
    assert (head.is_described, head.evaluating, preprocessing_of(client)) == (False, None, None)


def test_what_a_site_tells_after_training_began_changes_nothing(client, clock):
    begin(client)
    late = SiteLedger(client).take("trial", "a/1", "worker")
    told = Submission(
        order="a/1", issued=late.order.issued, delta=codec.pack_tree(told_of("a")), num_examples=10
    )
    client.delete(keys.lease("trial", "a"))
    tell(client, "ab", "c")
    drain(client)
    miss(client, clock, "a")
    drain(client)
    before = progress.read(client, "trial").head
    assert before.phase == "running"
    assert not SiteLedger(client).submit("trial", late.lease, told)
    client.set(keys.delta("trial", "a"), messages.encode(told))  # as if it had come the moment before
    client.rpush(keys.inbox("trial"), "a")
    new = drain_training(client)
    assert (new.head.refused, new.head.applied, new.outstanding) == (0, 0, SITES)
    assert asked(client)["a"] == (2, "train")
    assert preprocessing_of(client).shift[0] == pytest.approx(
        np.concatenate([VALUES["ab"], VALUES["c"]]).mean()
    )


# Who is away


def test_a_site_that_is_away_is_not_waited_for_and_the_next_look_begins_training(client, clock, monkeypatch):
    begin(client)
    tell(client, "ab", "c")
    assert drain(client).head.phase == "describing"
    new = miss(client, clock, "a")
    assert (new.head.phase, new.sites["a"].is_owed) == ("describing", True)
    announce(client, "ab", "c", seen=clock["now"])
    supervise.look_after(Ledger(client), "trial", Care())  # nobody rings any more
    assert progress.read(client, "trial").head.phase == "running"
    assert asked(client) == {"a": (2, "train"), "ab": (2, "train"), "c": (2, "train")}


def test_a_site_that_is_back_before_training_is_asked_to_describe(client, clock):
    begin(client)
    assert miss(client, clock, "a", "ab").outstanding == ("c",)
    tell(client, "c")
    assert drain(client).head.phase == "describing"  # one of three is no quorum
    announce(client, "a", seen=clock["now"])
    assert repair(client).outstanding == ("a",)
    assert asked(client) == {"a": (2, "describe")}
    tell(client, "a")
    assert drain(client).head.phase == "running"
    expected = np.concatenate([VALUES["a"], VALUES["c"]])
    assert preprocessing_of(client).shift == pytest.approx((expected.mean(),))


@pytest.mark.parametrize("kind", ["fedasync", "fedavg"])
def test_a_site_that_is_back_after_training_began_is_asked_to_train(client, clock, kind):
    begin(client, strategy={"kind": kind})
    miss(client, clock, "a")
    tell(client, "ab", "c")
    new = drain(client)
    assert new.head.phase == "running"
    others = {"ab": (2, "train"), "c": (2, "train")}
    assert asked(client) == (others if kind == "fedavg" else {"a": (2, "train"), **others})
    assert new.sites["a"].is_owed == (kind == "fedavg")
    announce(client, "a", seen=clock["now"])
    repair(client)
    assert asked(client) == {"a": (2, "train"), **others}


def test_a_site_that_told_and_then_went_away_counts_and_is_not_asked_again(client, clock):
    begin(client)
    tell(client, "a", "c")
    drain(client)
    new = miss(client, clock, "a")
    assert (new.sites["a"].is_away, new.sites["a"].is_owed) == (True, False)
    announce(client, "a", seen=clock["now"])
    assert repair(client).outstanding == ("ab",)
    tell(client, "ab")
    assert drain(client).head.phase == "running"
    assert preprocessing_of(client).shift == pytest.approx((POOLED.mean(),))


def test_what_a_site_submitted_before_it_went_away_counts(client, clock):
    begin(client)
    tell(client, *SITES)
    miss(client, clock, "a")
    assert drain(client).head.phase == "running"
    assert preprocessing_of(client).shift == pytest.approx((POOLED.mean(),))


def test_with_all_sites_away_nobody_begins_and_nobody_fails(client, clock):
    begin(client)
    tell(client, "a")
    drain(client)
    miss(client, clock, *SITES)
    new = drain(client)
    assert (new.head.phase, new.at_hand, new.outstanding) == ("describing", (), ())


@pytest.mark.parametrize(("quorum", "phase"), [(0.67, "describing"), (0.66, "running")])
def test_training_does_not_begin_without_the_quorum_though_all_that_are_there_have_told(
    client, clock, quorum, phase
):
    begin(client, quorum=quorum)
    miss(client, clock, "a")
    tell(client, "ab", "c")
    assert drain(client).head.phase == phase


def test_an_order_to_describe_that_was_lost_is_sent_again(client, clock):
    begin(client)
    clock["now"] += LEASE + 1
    announce(client, *SITES, seen=clock["now"])
    new = repair(client)
    assert (new.head.resent, new.sites["a"].attempt) == (3, 2)
    assert order_of(client, "a").asks == "describe"
    tell(client, *SITES)
    assert drain(client).head.phase == "running"


# The time that it takes


def test_the_time_of_describing_does_not_count(client, clock):
    begin(client, stop={"seconds": 60})
    clock["now"] += 3600
    announce(client, *SITES, seen=clock["now"])
    assert repair(client).head.phase == "describing"  # it is not over
    tell(client, *SITES)
    new = drain(client)
    assert (new.head.started, new.head.paused) == (1000.0, 3600.0)
    clock_of = Clock.of(new.head, progress.events(client, "trial"))
    assert (clock_of(4600.0), clock_of(4630.0)) == (0.0, 30.0)
    clock["now"] = 4659.0
    announce(client, *SITES, seen=clock["now"])
    assert repair(client).head.phase == "running"
    clock["now"] = 4660.0
    assert repair(client).head.reason == "60 seconds have passed"


def test_a_pause_while_it_was_stopped_counts_once(client, clock):
    begin(client)
    clock["now"] = 1010.0
    control.stop(client, "trial")
    clock["now"] = 1100.0
    control.resume(client, "trial")
    assert progress.read(client, "trial").head.paused == 90.0
    clock["now"] = 1120.0
    tell(client, *SITES)
    new = drain(client)
    assert new.head.paused == 120.0
    found = list(progress.events(client, "trial"))
    assert [(event.kind, event.pause) for event in found if event.pause] == [
        *(("resumed", 90.0), ("described", 30.0)),
    ]
    assert Clock.of(new.head, found)(1125.0) == 5.0


def test_a_clock_that_was_set_back_makes_no_pause_negative(client, clock):
    begin(client)
    clock["now"] = 1010.0
    control.stop(client, "trial")
    clock["now"] = 1100.0
    control.resume(client, "trial")
    clock["now"] = 500.0
    tell(client, *SITES)
    new = drain(client)
    assert (new.head.phase, new.head.paused) == ("running", 90.0)
    assert events(client, "described")[0].pause == 0.0


# Stopped and resumed


def test_an_experiment_that_is_stopped_while_it_is_described_scores_nothing(client):
    begin(client)
    tell(client, "a")
    drain(client)
    assert control.stop(client, "trial")
    found = progress.read(client, "trial")
    head = found.head
    assert (head.phase, head.outcome, head.reason) == ("finished", "stopped", "stopped by hand")
    assert (head.evaluating, head.is_described, asked(client)) == (None, False, {})
    assert Ledger(client).running() == []
    assert not control.stop(client, "trial")


@pytest.mark.parametrize("kind", ["fedasync", "fedavg"])
def test_one_that_is_resumed_asks_every_site_anew(client, kind):
    begin(client, strategy={"kind": kind})
    tell(client, "a")
    drain(client)
    control.stop(client, "trial")
    control.resume(client, "trial")
    found = progress.read(client, "trial").head
    assert (found.phase, found.is_described, found.evaluating) == ("describing", False, None)
    assert asked(client) == dict.fromkeys(SITES, (2, "describe"))
    assert Ledger(client).running() == ["trial"]
    tell(client, "ab", "c")
    assert drain(client).head.phase == "describing"  # what a told before does not count
    tell(client, "a")
    assert drain(client).head.phase == "running"
    assert asked(client) == dict.fromkeys(SITES, (3, "train"))


def test_one_that_failed_can_be_resumed_when_the_sites_have_mended_their_data(client):
    begin(client)
    tell(client, *SITES, count=np.zeros(1), mean=np.zeros(1), squares=np.zeros(1))
    assert drain(client).head.outcome == "failed"
    control.resume(client, "trial")
    assert drain(client).head.phase == "describing"  # and has not failed at once for what was told before
    tell(client, *SITES)
    new = drain(client)
    assert (new.head.phase, new.head.outcome) == ("running", "")
    assert preprocessing_of(client).shift == pytest.approx((POOLED.mean(),))


def test_a_site_that_was_dropped_has_another_chance_and_one_that_is_away_is_asked_when_it_is_back(
    client, clock
):
    begin(client, quorum=1.0)
    refuse_for_good(client, "a")
    assert progress.read(client, "trial").head.outcome == "failed"
    control.resume(client, "trial")
    assert asked(client)["a"] == (MAX_REFUSALS + 1, "describe")
    miss(client, clock, "c")
    control.stop(client, "trial")
    control.resume(client, "trial")
    assert set(asked(client)) == {"a", "ab"}
    announce(client, "c", seen=clock["now"])
    repair(client)
    assert asked(client)["c"][1] == "describe"


def test_one_that_was_described_is_resumed_with_orders_to_train(client):
    begin(client)
    tell(client, *SITES)
    drain(client)
    control.stop(client, "trial")
    client.hset(keys.head("trial"), "phase", "finished")
    control.resume(client, "trial")
    assert asked(client) == dict.fromkeys(SITES, (3, "train"))
    assert progress.read(client, "trial").head.phase == "running"


# Two coordinators, one transaction


def test_of_two_coordinators_that_take_in_the_same_one_commits(client):
    begin(client)
    tell(client, *SITES)
    with Ledger(client).turn("trial") as slow:
        drain(client)
        stored = client.get(keys.spec("trial"))
        before = {key: client.dump(key) for key in client.keys()}
        with pytest.raises(Conflict):
            preparation.drain(slow)
    assert client.get(keys.spec("trial")) == stored
    assert {key: client.dump(key) for key in client.keys()} == before
    assert len(events(client, "described")) == 1


def test_a_coordinator_that_was_too_slow_looks_again(client, monkeypatch):
    begin(client)
    tell(client, *SITES)
    take_in = preparation.take_in

    def overtaken(turn, so_far, site):
        monkeypatch.setattr(preparation, "take_in", take_in)
        drain(client)
        take_in(turn, so_far, site)

    monkeypatch.setattr(preparation, "take_in", overtaken)
    aggregate.aggregate("trial")
    assert sent(client, "coordinator")  # which is asked again
    assert progress.read(client, "trial").head.phase == "running"
    assert len(events(client, "described")) == 1


def test_a_site_that_tells_between_the_read_and_the_commit_is_taken_in_by_the_next_turn(client):
    begin(client)
    tell(client, "a")
    with Ledger(client).turn("trial") as turn:
        tell(client, "ab", "c")
        assert preparation.drain(turn).outstanding == ("ab", "c")
    assert drain(client).head.phase == "running"


def test_the_spec_is_completed_in_the_transaction_that_gives_the_orders_to_train(client):
    begin(client)
    tell(client, *SITES)
    with client.monitor() as watched:
        drain(client)
        client.ping()
        written = []
        for heard in watched.listen():
            if heard["command"].startswith("PING"):
                break
            written.append(heard["command"].split(" ")[:2])
    commit = written[written.index(["MULTI"]) : written.index(["EXEC"])]
    for key in (keys.spec("trial"), keys.head("trial"), keys.order("trial", "a"), keys.memory("trial")):
        writes = [command for command in written if command[0] in ("SET", "HSET") and command[1] == key]
        assert len(writes) == 1 and writes[0] in commit


def test_a_coordinator_that_dies_before_its_commit_leaves_all_to_the_next(client, monkeypatch):
    begin(client)
    tell(client, *SITES)

    def die(moment):
        if moment == "commit.before":
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("tasks.hooks.reached", die)
        with pytest.raises(KeyboardInterrupt):
            drain(client)
    assert (preprocessing_of(client), progress.read(client, "trial").head.phase) == (None, "describing")
    assert drain(client).head.phase == "running"
    assert preprocessing_of(client) is not None


def test_at_rest_while_it_is_described_it_can_be_resumed(client):
    begin(client)
    with Ledger(client).turn("trial") as turn:
        turn.commit(state.at_rest(turn.state, "by hand", turn.now))
    control.resume(client, "trial")
    assert asked(client) == dict.fromkeys(SITES, (2, "describe"))


# What people see


@pytest.fixture
def run(tmp_path):
    (tmp_path / "trial").mkdir()
    return Run(folder=tmp_path / "trial")


def test_a_summary_says_how_far_the_description_is(client, run):
    begin(client)
    tell(client, "a")
    drain(client)
    found = summary.of(client, run, progress.read(client, "trial"))
    reason = "1 of 3 sites have described their examples; waiting for ab, c"
    assert (found["outcome"], found["reason"]) == ("describing", reason)
    assert (found["applied"], found["versions"], found["first_update_seconds"]) == (0, 0, None)


def test_an_experiment_that_failed_before_training_has_its_results_and_its_report(client, run):
    begin(client, quorum=1.0)
    refuse_for_good(client, "a")
    assert results.write(client, run) == "failed"
    reason = (
        "2 sites are left, and 3 must describe their examples; the events say why the others were dropped"
    )
    assert (run.summary["reason"], run.summary["refused"]) == (reason, MAX_REFUSALS)
    report.write(run)
    assert reason in (run.folder / "report.html").read_text()


@pytest.mark.parametrize("phase", ["describing", "running"])
def test_a_site_that_is_away_is_so_in_the_metrics_before_training_too(client, phase):
    begin(client)
    with Ledger(client).turn("trial") as turn:
        away = state.go_away(turn.state, "a", takes_back=True)
        begun = state.begin_training(away, is_synchronous=True, now=turn.now)
        turn.commit(away if phase == "describing" else begun)
    (away,) = [
        family
        for family in exposition.families([progress.read(client, "trial")])
        if family.name == "fedelta_site_away"
    ]
    assert [sample.value for sample in away.samples] == [1.0, 0.0, 0.0]
