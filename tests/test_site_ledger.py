"""A site's orders, leases and submissions, with a real Redis; what it calls out is in `test_bell`."""

import dataclasses

import pytest
import redis

from tasks import codec, keys, messages
from tasks.ledger import Ledger
from tasks.messages import Submission
from tasks.site_ledger import LEASE, SiteLedger
from tests.conftest import constant, drain, make_spec, order_of, zeros


@pytest.fixture
def site(client):
    Ledger(client).create("trial", make_spec(), zeros())
    return SiteLedger(client)


def answer(order):
    delta = codec.pack_tree(constant(1.0))
    return Submission(order=order.id, issued=order.issued, delta=delta, num_examples=1)


def give_again(client, site="a"):
    """The coordinator gives an order of that number once more, having forgotten that it ever did."""
    order = dataclasses.replace(order_of(client, site), issued=order_of(client, site).issued + 1e-6)
    client.set(keys.order("trial", site), messages.encode(order))
    return order


def test_a_lease_names_its_order_when_that_was_given_and_its_holder(client, site):
    taken = site.take("trial", "a/1", "worker")
    assert taken.lease.value == f"{taken.order.claim} worker"
    assert client.get(keys.lease("trial", "a")) == taken.lease.value.encode()
    assert 0 < client.ttl(keys.lease("trial", "a")) <= LEASE


def test_a_submission_for_a_forgotten_order_is_refused_at_the_site_and_nothing_is_written(client, site):
    forgotten = site.take("trial", "a/1", "worker")
    order = give_again(client)
    assert order.id == forgotten.order.id
    assert site.submit("trial", forgotten.lease, answer(forgotten.order)) is False
    assert not client.exists(keys.delta("trial", "a"), keys.inbox("trial"))
    assert site.submit("trial", forgotten.lease, answer(order)) is True


def test_a_lease_on_a_forgotten_order_keeps_nobody_from_its_successor(client, site):
    site.take("trial", "a/1", "before")
    order = give_again(client)
    assert site.take("trial", "a/1", "after").order == order
    assert site.take("trial", "a/1", "third") is None
    assert client.get(keys.lease("trial", "a")) == f"{order.claim} after".encode()


def test_an_order_that_is_handed_back_is_to_be_had_at_once(client, site):
    taken = site.take("trial", "a/1", "worker")
    site.hand_back(taken.lease)
    assert site.take("trial", "a/1", "another") is not None


def test_nobody_hands_back_what_is_anothers(client, site):
    first = site.take("trial", "a/1", "first")
    client.delete(first.lease.key)  # it ran out
    second = site.take("trial", "a/1", "second")
    site.hand_back(first.lease)
    assert client.get(first.lease.key) == second.lease.value.encode()
    client.delete(first.lease.key)
    site.hand_back(first.lease)
    assert not client.exists(first.lease.key)


def test_a_lease_that_becomes_anothers_while_it_is_handed_back_is_left_to_them(client, site, monkeypatch):
    taken = site.take("trial", "a/1", "worker")
    multi = redis.client.Pipeline.multi

    def too_late(pipe):
        client.set(taken.lease.key, "another's")
        multi(pipe)

    monkeypatch.setattr(redis.client.Pipeline, "multi", too_late)
    site.hand_back(taken.lease)
    assert client.get(taken.lease.key) == b"another's"


def test_a_lease_is_renewed_by_its_holder_or_taken_again_and_never_from_another(client, site):
    taken = site.take("trial", "a/1", "worker")
    client.expire(taken.lease.key, 1)
    assert site.renew(taken.lease)
    assert client.ttl(taken.lease.key) > 1
    client.delete(taken.lease.key)
    assert site.renew(taken.lease)
    client.set(taken.lease.key, f"{taken.order.claim} another")
    assert not site.renew(taken.lease)


def test_an_order_that_was_handed_back_and_done_by_another_counts_once(client, site):
    first = site.take("trial", "a/1", "first")
    site.hand_back(first.lease)
    second = site.take("trial", "a/1", "second")
    assert site.submit("trial", second.lease, answer(second.order))
    assert drain(client).head.applied == 1
    assert not site.submit("trial", first.lease, answer(first.order))  # it did not end after all
    assert drain(client).head.applied == 1
