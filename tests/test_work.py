import pytest
from pydantic import ValidationError

from tasks import keys, messages, work
from tasks.app import app, use_broker
from tasks.supervise import supervise
from tasks.work import Work
from tests.machine import free_port, wait_until


@pytest.fixture
def heard(client):
    """What is published on the channel of the coordinator's work."""
    with client.pubsub(ignore_subscribe_messages=True) as subscription:
        subscription.subscribe(keys.WORK)
        wait_until(lambda: client.pubsub_numsub(keys.WORK)[0][1])

        def listen():
            found = []
            wait_until(lambda: found.append(subscription.get_message(timeout=1.0)) or any(found))
            (received,) = filter(None, found)
            return messages.decode(Work, received["data"])

        yield listen


def carry_out(task, kwargs):
    work._begin("id-1")
    work._publish("id-1", task, kwargs)


def test_what_was_carried_out_is_published_with_what_it_was_about(heard):
    carry_out(supervise, {"experiment": "trial"})
    done = heard()
    assert (done.worker, done.task, done.id, done.about) == (work.NAME, "supervise", "id-1", "trial")
    assert 0 <= done.seconds < 1


def test_what_was_begun_is_forgotten_when_it_is_done(heard):
    carry_out(supervise, {})
    assert heard().about == ""
    assert work._begun == {}


def test_a_task_whose_beginning_nobody_saw_took_no_time(heard):
    work._publish("id-2", supervise, {"site": "north", "holder": "0"})
    done = heard()
    assert (done.about, done.id) == ("north", "id-2")
    assert done.seconds < 0.1


def test_every_task_of_a_process_is_published_once_that_is_asked_for(heard):
    work.publish_all()
    try:
        app.tasks["supervise"].apply(task_id="id-3")
        assert heard().id == "id-3"
    finally:
        work.task_prerun.disconnect(work._begin)
        work.task_postrun.disconnect(work._publish)


def test_a_task_is_about_its_site_or_else_its_experiment():
    assert work.about({"site": "a", "holder": "0"}) == "a"
    assert work.about({"experiment": "trial"}) == "trial"
    assert work.about({}) == ""


def test_nothing_depends_on_the_publishing(client, private_redis, monkeypatch):
    gone = client.__class__(port=free_port(), retry=None)
    monkeypatch.setattr(work, "connect", lambda: gone)
    carry_out(supervise, {"experiment": "trial"})
    use_broker(private_redis.broker_url)


def test_what_is_too_long_is_no_work():
    with pytest.raises(ValidationError):
        Work(worker="w", task="t", id="i", about="x" * 65)
