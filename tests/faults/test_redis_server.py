import pytest

from tests.faults.parties import kill_all
from tests.faults.redis_server import RedisServer
from tests.machine import wait_until


@pytest.fixture
def server(tmp_path):
    server = RedisServer(tmp_path / "redis")
    server.is_wanted = True
    start(server)
    yield server
    kill_all([server])
    server.client.close()


def start(server):
    wait_until(lambda: server.look_after() or server.pid, seconds=20.0)
    server.await_answer()


def await_write(client):
    """Redis keeps what it was told to itself for up to two seconds, while the disk is busy."""
    wait_until(lambda: client.info("persistence")["aof_buffer_length"] == 0, seconds=20.0)


def write_twice(server, *, is_repaired):
    """A power failure in mid-transaction, other writes, and a restart: the keys that are there."""
    client = server.client
    client.set("before", 1)
    client.mset({"c": 1})
    with client.pipeline(transaction=True) as pipe:
        pipe.set("first", 1).set("second", 1).set("third", 1).execute()
    await_write(client)
    server.power_failure(40, is_repaired=is_repaired)
    start(server)
    assert sorted(client.keys()) == [b"before", b"c"]
    with client.pipeline(transaction=True) as pipe:
        pipe.set("later", 1).set("latest", 1).execute()
    await_write(client)
    server.kill()
    server.process.wait()
    start(server)
    return sorted(client.keys())


def test_half_a_transaction_that_a_power_failure_left_is_gone_once_the_file_is_repaired(server):
    assert write_twice(server, is_repaired=True) == [b"before", b"c", b"later", b"latest"]


def test_without_the_repair_redis_carries_half_of_it_out_at_the_next_start(server):
    major = int(server.client.info("server")["redis_version"].split(".")[0])
    assert b"first" in write_twice(server, is_repaired=False) or major > 7  # a newer one may do better
