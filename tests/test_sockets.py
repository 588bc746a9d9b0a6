"""What connections to Redis are told, and how they come back: real sockets, a real Redis on TCP."""

import socket

import pytest
import redis
from kombu.exceptions import OperationalError
from kombu.utils import functional

from orchestrator import children
from tasks import sockets
from tasks.app import app, connect, use_broker
from tests.machine import free_port, is_listening, redis_7, wait_until


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """A Redis on a loopback port: Unix sockets have no keepalive."""
    port, folder = free_port(), tmp_path_factory.mktemp("tcp")
    command = [redis_7(), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    process = children.start(command, folder / "log")
    wait_until(lambda: is_listening(port))
    yield f"redis://127.0.0.1:{port}/0"
    children.end([process], grace_seconds=3.0)


@pytest.fixture
def on_tcp(url, private_redis):
    use_broker(url)
    yield url
    use_broker(private_redis.broker_url)


def assert_notices_silence(found):
    """That a peer which vanished is noticed after 15 s + 3 probes of 5 s, or 30 s while something is sent."""
    assert found.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    expected = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 30_000}
    for name, value in expected.items():
        assert found.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) == value
    assert found.gettimeout() == 15.0


def test_a_connection_to_the_ledger_notices_that_the_other_side_is_gone(on_tcp):
    pool = connect().connection_pool
    connection = pool.get_connection()
    try:
        connection.connect()
        assert_notices_silence(connection._sock)
    finally:
        pool.release(connection)


def test_a_connection_to_the_broker_notices_that_the_other_side_is_gone(on_tcp):
    with app.connection_for_write() as connection:
        assert type(connection) is sockets.Connection
        client = connection.default_channel.client
        client.ping()
        (used,) = client.connection_pool._available_connections
        assert_notices_silence(used._sock)


def test_a_name_is_resolved_and_a_connection_made_within_five_seconds_or_not_at_all(on_tcp):
    assert connect().connection_pool.connection_kwargs["socket_connect_timeout"] == 5.0


class Enough(Exception):
    """The test has seen what it wanted to see."""


@pytest.mark.parametrize("options", [{}, {"interval_start": 2, "interval_step": 2, "interval_max": 30}])
def test_celery_tries_again_after_five_seconds_at_most_for_ever(monkeypatch, options):
    pauses = []

    def note(error, seconds):
        assert isinstance(error, redis.ConnectionError)
        pauses.append(seconds)
        if len(pauses) == 40:
            raise Enough

    monkeypatch.setattr(functional, "sleep", lambda seconds: None)
    # As a worker's consumer does when it has lost its connection.
    with app.connection_for_read(f"redis://127.0.0.1:{free_port()}/0") as connection:
        with pytest.raises(Enough):
            connection.ensure_connection(note, app.conf.broker_connection_max_retries, **options)
    assert pauses[0] <= 2 and max(pauses) == 5
    assert all(before <= after for before, after in zip(pauses, pauses[1:], strict=False))


def test_who_sends_a_message_passes_its_own_pauses_in_their_places(monkeypatch):
    """As Kombu does when it publishes on a connection that is broken: none of it may raise a TypeError."""
    pauses = []
    monkeypatch.setattr(functional, "sleep", lambda seconds: None)
    with app.connection_for_write(f"redis://127.0.0.1:{free_port()}/0") as connection:
        with pytest.raises(OperationalError):
            connection._ensure_connection(lambda _, pause: pauses.append(pause), 4, 0, 0.2, 30)
    assert pauses == pytest.approx([0.0, 0.2, 0.4, 0.6])


def test_who_sends_a_message_gives_up_after_some_seconds(monkeypatch):
    monkeypatch.setattr(functional, "sleep", lambda seconds: None)
    with app.connection_for_write(f"redis://127.0.0.1:{free_port()}/0") as connection:
        with pytest.raises(OperationalError):
            connection.ensure_connection(max_retries=3)


def test_options_that_this_system_does_not_know_are_left_out():
    known = {getattr(socket, name) for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT")}
    assert known <= set(sockets.OPTIONS["socket_keepalive_options"])
    assert app.conf.broker_transport_options.items() >= sockets.OPTIONS.items()
