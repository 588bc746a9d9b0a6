import json
from datetime import timedelta

import pytest

from tasks.app import COORDINATOR_QUEUE, app, use_broker
from tasks.beat import MAX_WAITING, Clock
from tests.machine import free_port
from workers.errors import Unavailable


@pytest.fixture
def alive_file(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDELTA_ALIVE_FILE", str(tmp_path / "alive"))
    return tmp_path / "alive"


@pytest.fixture
def schedule():
    """The app's schedule as beat has it, in memory."""
    return Clock(app=app, lazy=True)


def test_a_beat_that_sends_says_that_it_lives(client, alive_file, schedule):
    schedule.setup_schedule()
    (entry,) = [found for name, found in schedule.schedule.items() if name == "supervise"]
    assert not alive_file.exists()
    schedule.apply_async(entry, advance=False)
    assert client.llen(COORDINATOR_QUEUE) == 1
    assert alive_file.exists()


def test_a_beat_that_cannot_send_does_not_say_that_it_lives(
    client, private_redis, alive_file, schedule, monkeypatch
):
    monkeypatch.setitem(app.conf, "broker_connection_timeout", 0.1)
    schedule.setup_schedule()
    try:
        use_broker(f"redis://127.0.0.1:{free_port()}/0")
        with pytest.raises(Unavailable):
            schedule.apply_async(schedule.schedule["supervise"], advance=False, retry=False)
    finally:
        use_broker(private_redis.broker_url)
    assert not alive_file.exists()


def test_what_beat_is_started_with_is_this_schedule():
    assert app.conf.beat_schedule["supervise"]["options"]["queue"] == COORDINATOR_QUEUE


def test_ticks_pile_up_no_further_than_a_hundred_messages_while_there_is_no_coordinator(
    client, alive_file, schedule
):
    schedule.setup_schedule()
    client.lpush(COORDINATOR_QUEUE, *["anything"] * (MAX_WAITING - 2))
    sent = [schedule.apply_async(schedule.schedule["supervise"], advance=False) for _ in range(4)]
    assert [tick is not None for tick in sent] == [True, True, False, False]
    assert client.llen(COORDINATOR_QUEUE) == MAX_WAITING == 100
    alive_file.unlink()
    schedule.apply_async(schedule.schedule["supervise"], advance=False)
    assert alive_file.exists()  # it is at work, though it has sent nothing
    client.ltrim(COORDINATOR_QUEUE, 0, 0)
    assert schedule.apply_async(schedule.schedule["supervise"], advance=False) is not None


def test_beats_own_loop_goes_on_past_a_tick_that_it_did_not_send(client, schedule):
    schedule.setup_schedule()
    client.lpush(COORDINATOR_QUEUE, *["anything"] * MAX_WAITING)
    begun = schedule.schedule["supervise"].total_run_count
    schedule.schedule["supervise"].last_run_at -= timedelta(seconds=60)
    schedule.tick()
    assert client.llen(COORDINATOR_QUEUE) == MAX_WAITING
    assert schedule.schedule["supervise"].total_run_count == begun + 1


def test_a_tick_does_not_expire_however_wrong_the_clock_of_a_machine_is(client, schedule):
    schedule.setup_schedule()
    schedule.apply_async(schedule.schedule["supervise"], advance=False)
    (tick,) = (json.loads(entry) for entry in client.lrange(COORDINATOR_QUEUE, 0, -1))
    assert (tick["headers"]["task"], tick["headers"]["expires"]) == ("supervise", None)
