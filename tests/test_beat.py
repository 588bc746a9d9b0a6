import pytest
from celery.beat import SchedulingError

from tasks.app import COORDINATOR_QUEUE, app, use_broker
from tasks.beat import LivingScheduler
from tests.machine import free_port


@pytest.fixture
def alive_file(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDELTA_ALIVE_FILE", str(tmp_path / "alive"))
    return tmp_path / "alive"


@pytest.fixture
def schedule():
    """The app's schedule as beat has it, in memory."""
    return LivingScheduler(app=app, lazy=True)


def test_a_beat_that_sends_says_that_it_lives(client, alive_file, schedule):
    schedule.setup_schedule()
    (entry,) = [found for name, found in schedule.schedule.items() if name == "supervise"]
    assert not alive_file.exists()
    schedule.apply_async(entry, advance=False)
    assert client.llen(COORDINATOR_QUEUE) == 1
    assert alive_file.exists()


def test_a_beat_that_cannot_send_does_not_say_that_it_lives(client, private_redis, alive_file, schedule):
    schedule.setup_schedule()
    try:
        use_broker(f"redis://127.0.0.1:{free_port()}/0")
        with pytest.raises(SchedulingError):
            schedule.apply_async(schedule.schedule["supervise"], advance=False, retry=False)
    finally:
        use_broker(private_redis.broker_url)
    assert not alive_file.exists()


def test_what_beat_is_started_with_is_this_schedule():
    assert app.conf.beat_schedule["supervise"]["options"]["queue"] == COORDINATOR_QUEUE
