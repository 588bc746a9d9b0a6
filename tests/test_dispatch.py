"""What a transition sends, in real queues."""

import json

import pytest

from tasks import dispatch, state
from tasks.app import app, site_queue
from tests.conftest import sent

SITES = ("a", "b")


@pytest.fixture
def begun(client):
    """An experiment's first state, whose messages have been taken."""
    return state.begin(SITES, now=10.0)


def sent_to(client):
    return {site: sent(client, site_queue(site)) for site in SITES}


def test_a_new_experiment_is_sent_to_every_site(client, begun):
    dispatch.follow("trial", None, begun)
    assert sent_to(client) == {site: [f"{site}.1.trial", f"{site}.v0.trial"] for site in SITES}


def test_what_is_new_or_sent_again_is_sent_and_what_stands_is_not(client, begun):
    new = state.resend(begun, "a", 20.0)
    dispatch.follow("trial", begun, new)
    dispatch.follow("trial", new, state.order(new, ["b"], 21.0))
    assert sent_to(client) == {"a": ["a.1.trial"], "b": ["b.2.trial"]}


def test_a_site_that_is_back_in_a_round_is_sent_its_order(client, begun):
    gone = state.go_away(begun, "a", takes_back=True)
    dispatch.follow("trial", begun, gone)
    assert sent_to(client) == {"a": [], "b": []}
    dispatch.follow("trial", gone, state.come_back(gone, "a", 30.0))
    assert sent_to(client) == {"a": ["a.2.trial"], "b": []}


def test_what_is_only_noted_of_a_site_sends_it_nothing(client, begun):
    gone = state.go_away(begun, "a", takes_back=False)
    dispatch.follow("trial", begun, gone)
    dispatch.follow("trial", gone, state.come_back(gone, "a", 30.0))
    dispatch.follow("trial", begun, state.identify(begun, "b", "fedelta 2"))
    assert sent_to(client) == {"a": [], "b": []}


def test_what_cannot_be_sent_because_redis_is_full_is_a_line_in_the_log(client, begun, caplog):
    try:
        client.config_set("maxmemory", 1)
        dispatch.follow("trial", None, begun)
    finally:
        client.config_set("maxmemory", 0)
    (said,) = caplog.messages
    assert said.startswith("trial: not everything could be sent, and is sent later: ")
    assert sent_to(client) == {"a": [], "b": []}


def test_the_messages_of_several_queues_are_counted_by_queue(client):
    assert dispatch.num_waiting([]) == {}
    for sequence in (1, 2):
        dispatch.train("trial", "a", sequence)
    assert dispatch.num_waiting(["site.a", "site.b", "nobody's"]) == {"site.a": 2, "site.b": 0, "nobody's": 0}
    client.rpop("site.a")
    assert dispatch.num_waiting(["site.a"]) == {"site.a": 1}


def test_a_message_is_what_celery_itself_would_send(client):
    arguments = {"experiment": "trial", "order": "a/1"}
    dispatch.train("trial", "a", 1)
    app.send_task(
        "train",
        kwargs=arguments,
        queue=site_queue("b"),
        task_id=dispatch.train_id("trial", "a", 1),
        argsrepr="()",
        kwargsrepr=str(arguments),
    )
    ours, celerys = (json.loads(client.rpop(site_queue(site))) for site in SITES)
    tags = {message["properties"].pop("delivery_tag") for message in (ours, celerys)}
    assert len(tags) == 2
    assert celerys["properties"]["delivery_info"].pop("routing_key") == "site.b"
    assert ours["properties"]["delivery_info"].pop("routing_key") == "site.a"
    assert celerys["properties"].pop("reply_to") and not ours["properties"].pop("reply_to")  # nobody replies
    assert ours["headers"].pop("ignore_result")  # as the app's settings say
    for part in ("properties", "headers"):
        assert {key: celerys[part].get(key) for key in ours[part]} == ours.pop(part)
        del celerys[part]
    assert ours == celerys
