import socket
import threading

import pytest

from tests.faults.proxy import Network


def echo(listening):
    """Answer everybody with what they say."""
    while True:
        try:
            connection, _ = listening.accept()
        except OSError:
            return
        threading.Thread(target=answer, args=(connection,), daemon=True).start()


def answer(connection):
    with connection:
        try:
            while data := connection.recv(65536):
                connection.sendall(data)
        except OSError:
            return


@pytest.fixture
def link():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=echo, args=(listening,), daemon=True).start()
        with Network() as network:
            yield network.link(listening.getsockname()[1])
        listening.shutdown(socket.SHUT_RDWR)


def dial(link, seconds=5.0):
    return socket.create_connection(("127.0.0.1", link.port), timeout=seconds)


def ask(connection, said):
    connection.sendall(said)
    return connection.recv(100)


def test_an_open_link_carries_bytes_both_ways(link):
    with dial(link) as one, dial(link) as other:
        assert (ask(one, b"one"), ask(other, b"other")) == (b"one", b"other")
        large = b"x" * 1_000_000
        threading.Thread(target=one.sendall, args=(large,)).start()
        received = b""
        while len(received) < len(large):
            received += one.recv(65536)
        assert received == large


def test_a_link_that_is_cut_resets_its_connections_and_refuses_new_ones_until_it_is_opened(link):
    with dial(link) as connection:
        assert ask(connection, b"before") == b"before"
        link.cut()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    with pytest.raises(ConnectionRefusedError):
        dial(link)
    link.open()
    with dial(link) as connection:
        assert ask(connection, b"after") == b"after"


def test_a_link_that_is_reset_takes_new_connections_at_once(link):
    with dial(link) as connection:
        assert ask(connection, b"before") == b"before"
        link.reset()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    with dial(link) as connection:
        assert ask(connection, b"after") == b"after"


def test_what_a_mute_link_holds_back_arrives_when_it_is_opened(link):
    with dial(link, seconds=0.2) as old:
        assert ask(old, b"before") == b"before"
        link.mute()
        with dial(link, seconds=0.2) as new:
            for connection, said in ((old, b"old"), (new, b"new")):
                with pytest.raises(TimeoutError):
                    ask(connection, said)
            link.open()
            for connection, said in ((old, b"old"), (new, b"new")):
                connection.settimeout(5.0)
                assert connection.recv(100) == said


def test_a_mute_link_that_forgets_resets_its_connections_when_it_is_opened(link):
    with dial(link) as connection:
        assert ask(connection, b"before") == b"before"
        link.mute()
        connection.sendall(b"lost")
        link.open(forgets=True)
        with pytest.raises(ConnectionResetError):
            connection.recv(1)


def test_nobody_behind_the_link_ends_the_connection():
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with Network() as network, pytest.raises(ConnectionResetError):
            with dial(network.link(nobody.getsockname()[1])) as connection:
                connection.recv(1)
