"""What a turn reads and writes, with a real Redis."""

import dataclasses

import pytest

from tasks import codec, hooks, keys, messages, state
from tasks.ledger import Ledger
from tasks.messages import Submission
from tasks.site_ledger import SiteLedger
from tests.conftest import constant, drain, make_spec, order_of, submit, zeros
from workers.errors import Conflict, NotFound


@pytest.fixture
def begun(client, clock):
    Ledger(client).create("trial", make_spec(), zeros())
    return client


def turn(client):
    return Ledger(client).turn("trial")


def stored_for(issued, order="a/1"):
    delta = codec.pack_tree(constant(1.0))
    return messages.encode(Submission(order=order, issued=issued, delta=delta, num_examples=1))


def test_an_order_repeats_when_it_was_given(begun, clock):
    assert order_of(begun, "a").claim == "a/1 1000.0"
    clock["now"] = 1005.5
    submit(begun, "a/1", constant(1.0))
    drain(begun)
    assert (order_of(begun, "a").claim, order_of(begun, "c").claim) == ("a/2 1005.5", "c/1 1000.0")


def test_a_lease_is_one_only_on_the_very_order_that_stands(begun):
    leases = {"a": "a/1 1000.0 worker one", "ab": "ab/1 999.0 forgotten", "c": "c/2 1000.0 another"}
    for site, lease in leases.items():
        begun.set(keys.lease("trial", site), lease)
    with turn(begun) as found:
        assert found.leases() == {}  # a holder is one word
        begun.set(keys.lease("trial", "a"), "a/1 1000.0 worker")
        assert found.leases() == {"a": "worker"}


def test_a_submission_for_a_forgotten_order_of_the_same_number_is_none_and_thrown_away(begun, clock):
    begun.set(keys.delta("trial", "a"), stored_for(999.0))
    begun.rpush(keys.inbox("trial"), "a")
    with turn(begun) as found:
        assert found.submission("a", zeros()) is None
    new = drain(begun)
    assert (new.head.applied, new.head.refused) == (0, 0)  # it is nobody's fault
    assert not begun.exists(keys.delta("trial", "a"))
    assert SiteLedger(begun).take("trial", "a/1", "worker") is not None  # which is still to be done

    begun.set(keys.delta("trial", "a"), stored_for(1000.0))
    begun.rpush(keys.inbox("trial"), "a")
    assert drain(begun).head.applied == 1


def test_a_submission_for_another_order_is_none(begun):
    begun.set(keys.delta("trial", "a"), stored_for(1000.0, order="ab/1"))
    with turn(begun) as found:
        assert found.submission("a", zeros()) is None
        assert found.submission("c", zeros()) is None


def test_a_new_order_does_away_with_what_was_left_for_the_last(begun):
    submit(begun, "a/1", constant(1.0))
    begun.set(keys.lease("trial", "a"), "a/1 1000.0 worker")
    with turn(begun) as found:
        found.commit(state.order(found.state, ["a"], found.now))
    assert not begun.exists(keys.lease("trial", "a"), keys.delta("trial", "a"))
    assert order_of(begun, "a").sequence == 2


def test_an_order_that_is_sent_again_frees_its_lease_and_keeps_what_was_submitted(begun):
    submit(begun, "a/1", constant(1.0))
    begun.set(keys.lease("trial", "a"), "a/1 1000.0 worker")
    with turn(begun) as found:
        found.commit(state.resend(found.state, "a", found.now))
    assert not begun.exists(keys.lease("trial", "a"))
    assert begun.exists(keys.delta("trial", "a"))
    assert order_of(begun, "a").issued == 1000.0
    assert drain(begun).head.applied == 1


def test_an_order_that_is_taken_back_leaves_nothing(begun):
    submit(begun, "a/1", constant(1.0))
    with turn(begun) as found:
        found.commit(state.go_away(found.state, "a", takes_back=True))
    assert not begun.exists(*(kind("trial", "a") for kind in (keys.order, keys.lease, keys.delta)))
    assert begun.exists(keys.order("trial", "c"))


def test_what_no_order_has_changed_is_left_alone(begun):
    SiteLedger(begun).take("trial", "a/1", "worker")
    with turn(begun) as found:
        found.commit(state.identify(found.state, "a", "fedelta 2"))
        assert begun.exists(keys.lease("trial", "a"), keys.order("trial", "a")) == 2
        assert found.leases() == {"a": "worker"}


def test_the_moments_before_and_after_a_commit_are_reached_in_this_order(begun, monkeypatch):
    reached = []
    monkeypatch.setattr(
        hooks, "reached", lambda moment: reached.append((moment, begun.hget(keys.head("trial"), "commits")))
    )
    with turn(begun) as found:
        found.commit(found.state)
    assert reached == [("commit.before", b"0"), ("commit.after", b"1")]
    with turn(begun) as slow:
        with turn(begun) as quick:
            quick.commit(quick.state)
        with pytest.raises(Conflict):
            slow.commit(slow.state)
    assert [moment for moment, _ in reached].count("commit.after") == 2


# What is asked


def begin_describing(client):
    data = {"dataset": "ours", "layout": {"features": ["x"], "target": {"kind": "regression", "column": "y"}}}
    Ledger(client).create("trial", make_spec(data=data), zeros())


def test_before_training_an_order_asks_to_describe_and_keeps_asking_so_whatever_is_noted(client, clock):
    begin_describing(client)
    with turn(client) as found:
        found.commit(state.identify(state.resend(found.state, "a", 1001.0), "c", "fedelta 2"))
    assert {site: order_of(client, site).asks for site in ("a", "ab", "c")} == dict.fromkeys(
        ("a", "ab", "c"), "describe"
    )


def test_an_order_of_training_asks_to_train(begun):
    with turn(begun) as found:
        found.commit(state.order(found.state, ["a"], found.now))
    assert [order_of(begun, site).asks for site in ("a", "ab")] == ["train", "train"]


def test_the_orders_of_a_turn_that_begins_training_all_ask_to_train(client, clock):
    begin_describing(client)
    with turn(client) as found:
        found.commit(state.begin_training(found.state, is_synchronous=False, now=1005.0))
    assert [order_of(client, site).asks for site in ("a", "ab", "c")] == ["train"] * 3


def test_a_spec_is_completed_with_the_commit_or_not_at_all(begun):
    completed = dataclasses.replace(
        make_spec(), schema=dataclasses.replace(make_spec().schema, target="completed")
    )
    with turn(begun) as slow:
        with turn(begun) as quick:
            quick.commit(quick.state)
        with pytest.raises(Conflict):
            slow.commit(slow.state, spec=completed)
    assert Ledger(begun).spec("trial") == make_spec()
    with turn(begun) as found:
        found.commit(found.state, spec=completed)
    assert Ledger(begun).spec("trial") == completed
    with turn(begun) as found:
        assert found.spec == completed
        found.commit(found.state)
    assert Ledger(begun).spec("trial") == completed


def test_a_model_that_another_coordinator_has_done_away_with_is_a_conflict_and_one_that_is_lost_is_not(begun):
    with turn(begun) as slow:
        for site in ("a", "ab", "c"):  # each trains from version 0, which nobody needs afterwards
            submit(begun, f"{site}/1", constant(1.0))
        drain(begun)
        begun.delete(keys.model("trial", 0))
        with pytest.raises(Conflict, match="somebody else committed"):
            slow.server()
    begun.delete(keys.model("trial", 3))
    with turn(begun) as found, pytest.raises(NotFound, match="has lost fedelta:{trial}:model:3"):
        found.server()


def test_a_score_counts_though_the_site_has_scored_an_older_version_after_it(begun):
    for version in (0, 7, 6):
        SiteLedger(begun).put_evaluation("trial", "a", version, 10, {"mse": float(version)})
    with turn(begun) as found:
        found.state = dataclasses.replace(
            found.state, head=dataclasses.replace(found.state.head, evaluating=7)
        )
        assert found.evaluations()["a"].metrics == {"mse": 7.0}
