import os
import shutil
import ssl
import stat
import subprocess
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from orchestrator import access, bundle, centre, certificates, rights
from tasks import connection, keys
from tasks.app import connect_by, site_queue
from tests.centres import PROGRAM, a_name, make, run
from tests.machine import free_port, redis_7, wait_until
from workers.errors import NotFound, SettingsError, Unavailable

AT_ONCE = Retry(NoBackoff(), 0)
NO_NAMES = ("South Park", "../x", "a/b", "a\n", "", "-", "a*", "a b ~*", "é", "x" * 64, "a.b", "site.a)")


def contents(folder):
    """Every file below, with its bytes."""
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def ids(admin):
    """By user, the numbers of its connections."""
    found = {}
    for client in admin.client_list():
        found.setdefault(client["user"], set()).add(client["id"])
    return found


@pytest.fixture
def running(own_centre):
    own_centre.start()
    return own_centre


# --- the folder --------------------------------------------------------------------------------------------


def test_every_secret_is_its_owners_alone(own_centre):
    centre.add_site(own_centre.centre, "east")
    for folder in centre.private_folders(own_centre.centre):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700, folder
        for path in folder.rglob("*"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_that_is_so_whatever_the_umask_is(tmp_path):
    before = os.umask(0)
    try:
        made = make(tmp_path)
        centre.add_site(made.centre, "east")
    finally:
        os.umask(before)
    for folder in centre.private_folders(made.centre):
        assert {stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*")} <= {0o600}, folder


def test_a_centre_is_not_made_twice(own_centre):
    before = contents(own_centre.folder)
    with pytest.raises(SettingsError, match="there is a centre already; nothing was changed"):
        centre.create(own_centre.folder, host="elsewhere", port=1)
    assert contents(own_centre.folder) == before


@pytest.mark.parametrize("num_written", [0, 3, 15, 25])
def test_a_centre_whose_making_was_killed_can_be_made_again(tmp_path, monkeypatch, num_written):
    write, left = centre.write_private, [num_written]

    def killed(path, text):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        write(path, text)

    with monkeypatch.context() as patched:
        patched.setattr(centre, "write_private", killed)
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path)
    with pytest.raises(NotFound):
        centre.open_centre(tmp_path / "centre")
    made = make(tmp_path)
    try:
        made.start()
        assert all(made.connect(role).ping() for role in ("admin", *centre.ROLES))
    finally:
        made.stop()


def test_a_file_that_a_kill_left_unfinished_is_written_anew_and_private(tmp_path):
    (tmp_path / ".password.unfinished").write_text("half")
    (tmp_path / ".password.unfinished").chmod(0o644)
    centre.write_private(tmp_path / "password", "whole")
    (path,) = tmp_path.iterdir()
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("whole", 0o600)


def test_with_docker_paths_and_addresses_are_those_of_the_containers(tmp_path):
    made = centre.create(tmp_path / "c", host="fedelta.example.org", port=7000)
    conf = (made.folder / "redis" / "redis.conf").read_text()
    assert "\ntls-port 6379\n" in conf and "\naclfile /etc/fedelta/users.acl\n" in conf
    assert str(tmp_path) not in conf
    assert connection.read(made.authority / "connection.toml").url == "rediss://localhost:7000/0"
    assert connection.read(made.folder / "operator" / "connection.toml").url == "rediss://redis:6379/0"
    centre.add_site(made, "east")
    assert (made.folder / "compose.yaml").exists()


def test_each_of_the_centres_own_is_let_in_and_is_who_it_should_be(tls_centre):
    clients = [tls_centre.connect(role) for role in ("admin", *centre.ROLES)]
    assert ids(clients[0]).keys() >= {"admin", *centre.ROLES}


# --- letting in --------------------------------------------------------------------------------------------


def test_a_site_is_let_in_by_a_redis_that_runs_and_nobodys_connection_ends(running):
    centre.add_site(running.centre, "east")
    admin, others = running.connect("admin"), [running.connect(role) for role in ("coordinator", "east")]
    before = ids(admin)
    assert {"coordinator", "site.east"} <= before.keys()
    assert centre.add_site(running.centre, "eastern") is True
    assert running.connect("eastern").llen(site_queue("eastern")) == 0
    assert ids(admin).items() >= before.items()
    assert all(other.ping() for other in others)


def test_a_site_that_was_added_while_redis_was_away_is_let_in_when_it_starts(own_centre):
    assert centre.add_site(own_centre.centre, "east") is False
    own_centre.start()
    assert own_centre.connect("east").llen(site_queue("east")) == 0


def test_a_running_redis_and_one_that_reads_the_file_give_a_site_the_same_rules(running):
    centre.add_site(running.centre, "east")
    with running.connect("admin") as admin:
        told = admin.acl_list()
    running.stop()
    running.start()
    with running.connect("admin") as admin:
        categories = {name: admin.acl_cat(name) for name in rights.categories_in(told)}
        (found,) = rights.of_users(admin.acl_list(), told, categories)
    assert found.mark == "ok"


def test_a_site_is_not_added_twice_and_nothing_changes(tls_centre):
    name = a_name()
    centre.add_site(tls_centre.centre, name)
    before = contents(tls_centre.folder / "redis") | contents(tls_centre.folder / "sites")
    with pytest.raises(SettingsError, match=f"site {name} is in already"):
        centre.add_site(tls_centre.centre, name)
    assert contents(tls_centre.folder / "redis") | contents(tls_centre.folder / "sites") == before


@pytest.mark.parametrize("name", NO_NAMES, ids=repr)
def test_what_is_no_name_is_let_in_nowhere(tls_centre, name):
    before = contents(tls_centre.folder / "redis") | contents(tls_centre.folder / "sites")
    with pytest.raises(SettingsError):
        centre.add_site(tls_centre.centre, name)
    assert contents(tls_centre.folder / "redis") | contents(tls_centre.folder / "sites") == before


def test_a_site_whose_bundle_cannot_be_written_is_not_in(own_centre, monkeypatch):
    before = own_centre.centre.acl_file.read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bundle, "write", full)
    with pytest.raises(OSError):
        centre.add_site(own_centre.centre, "east")
    assert own_centre.centre.acl_file.read_bytes() == before
    assert centre.sites(own_centre.centre) == []


def test_sites_that_are_added_at_once_by_processes_are_all_in(running):
    processes = [
        subprocess.Popen([PROGRAM, "add-site", name, "--centre", running.folder], stdout=subprocess.DEVNULL)
        for name in ("east", "west")
    ]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert centre.sites(running.centre) == ["east", "west"]
    for name in ("east", "west"):
        assert running.connect(name).llen(site_queue(name)) == 0


def test_sites_that_are_added_and_removed_in_the_same_moment_are_what_they_should_be(running):
    names = [f"s{number}" for number in range(6)]
    centre.add_site(running.centre, "leaving")
    with ThreadPoolExecutor(7) as pool:
        changes = [pool.submit(centre.add_site, running.centre, name) for name in names]
        changes.append(pool.submit(centre.remove_site, running.centre, "leaving"))
        assert all(change.result() for change in changes)
    assert centre.sites(running.centre) == names
    with running.connect("admin") as admin:
        assert {f"site.{name}" for name in names} == {
            user for user in admin.acl_users() if user.startswith("site.")
        }


# --- letting in no more ------------------------------------------------------------------------------------


def test_a_removed_site_is_out_at_once_and_after_a_restart_and_the_others_stay(running):
    for name in ("east", "eastern"):
        centre.add_site(running.centre, name)
    coordinator = running.connect("coordinator")
    waiting, staying = running.connect("east"), running.connect("eastern")
    ended = []

    def wait_for_work():
        try:
            waiting.execute_command("BRPOP", site_queue("east"), 0)
        except redis.RedisError as error:
            ended.append(error)

    thread = threading.Thread(target=wait_for_work, daemon=True)
    thread.start()
    admin = running.connect("admin")
    wait_until(lambda: any(client["cmd"] == "brpop" for client in admin.client_list()))
    before = ids(admin)
    assert centre.remove_site(running.centre, "east") is True
    thread.join(10)
    assert ended and not thread.is_alive()
    now = ids(admin)
    assert "site.east" not in now
    assert now["site.eastern"] == before["site.eastern"] and now["coordinator"] == before["coordinator"]
    assert coordinator.ping() and staying.ping()
    assert not running.centre.bundle("east").exists()
    for _ in range(2):  # at once, and after a restart
        with pytest.raises(Unavailable, match="invalid username-password pair or user is disabled"):
            running.connect("east")
        assert running.connect("eastern").ping()
        running.stop()
        running.start()


def test_a_site_that_is_added_anew_has_new_credentials(running):
    centre.add_site(running.centre, "east")
    old = connection.read(running.file("east"))
    centre.remove_site(running.centre, "east")
    shutil.move(running.unpacked("east"), running.folder.parent / "old")
    old = connection.read(running.folder.parent / "old" / "site.toml")
    centre.add_site(running.centre, "east")
    assert running.connect("east").llen(site_queue("east")) == 0
    with pytest.raises(Unavailable):
        connect_by(old)


def test_a_site_is_removed_once(running):
    centre.add_site(running.centre, "east"), centre.add_site(running.centre, "west")
    assert centre.remove_site(running.centre, "east") is True
    with pytest.raises(NotFound, match="no site 'east' in .*; there: west"):
        centre.remove_site(running.centre, "east")


def test_a_site_that_redis_was_not_told_of_can_be_removed_again_until_it_is(running):
    centre.add_site(running.centre, "east"), running.unpacked("east")
    elsewhere = f"rediss://localhost:{free_port()}/0"
    for _ in range(2):
        assert centre.remove_site(running.centre, "east", elsewhere) is False
        assert centre.sites(running.centre) == []
    assert running.connect("east").ping()
    assert centre.remove_site(running.centre, "east") is True
    with pytest.raises(Unavailable):
        running.connect("east")


# --- who is not let in -------------------------------------------------------------------------------------


def refusal(found):
    """The one line that says why nobody is let in."""
    with pytest.raises(Unavailable) as raised:
        connect_by(found)
    line = str(raised.value)
    assert found.url in line and "\n" not in line
    assert found.password_file.read_text().strip() not in line
    return line


@pytest.fixture
def site(tls_centre):
    name = a_name()
    centre.add_site(tls_centre.centre, name)
    return connection.read(tls_centre.file(name))


def with_pair(found, pair):
    """The same, with another certificate to show."""
    own = found.key.parent / "other.crt", found.key.parent / "other.key"
    own[0].write_bytes(pair.certificate), own[1].write_bytes(pair.key)
    return found.model_copy(update={"certificate": own[0], "key": own[1]})


def test_a_certificate_of_another_authority_lets_nobody_in(site):
    other = certificates.client(certificates.authority("other"), site.username)
    assert refusal(with_pair(site, other))  # TLS 1.3 leaves open whether the reason comes before the end


def test_without_a_certificate_or_without_tls_nobody_is_let_in(site, tls_centre):
    password, address = site.password_file.read_text().strip(), ("localhost", tls_centre.port)
    anybody = ssl.create_default_context(cafile=site.ca)
    for context in (anybody, None):
        options = {"ssl_ca_certs": str(site.ca)} if context else {}
        client = redis.Redis(
            *address, username=site.username, password=password, ssl=bool(context), retry=AT_ONCE, **options
        )
        with pytest.raises(redis.ConnectionError), client:
            client.ping()


def test_a_server_whose_certificate_is_for_another_host_is_not_trusted(own_centre):
    authority = centre._read_pair(own_centre.centre.authority, "ca")
    other = certificates.server(authority, ["elsewhere.example.org"])
    centre._write_pair(own_centre.folder / "redis", "redis", other)
    own_centre.start()
    line = refusal(connection.read(own_centre.file("operator")))
    assert "Hostname mismatch" in line


def test_a_server_of_another_authority_is_not_trusted(own_centre, site):
    own_centre.start()
    elsewhere = site.model_copy(update={"url": f"rediss://localhost:{own_centre.port}/0"})
    assert "CERTIFICATE_VERIFY_FAILED" in refusal(elsewhere)


def test_one_sites_certificate_with_anothers_password_is_that_others(tls_centre, site):
    """A certificate says that one may come in; the name and the password say who one is."""
    wrong = site.model_copy(update={"password_file": tls_centre.folder / "operator" / "password"})
    assert "invalid username-password pair" in refusal(wrong)


# --- a restart ---------------------------------------------------------------------------------------------


def test_what_a_turn_wrote_is_there_after_a_restart(running):
    """Redis reads its append-only file as the user `default`: redis/redis#14541."""
    with running.connect("coordinator") as coordinator, coordinator.pipeline() as turn:
        turn.set(keys.model("trial", 1), b"x").hset(keys.head("trial"), "version", 1)
        turn.set(keys.lease("trial", "a"), "x", ex=1000).xadd(keys.history("trial"), {"row": b"x"})
        turn.sadd(keys.RUNNING, "trial").rpush(keys.inbox("trial"), "a", "b").ltrim(
            keys.inbox("trial"), 1, -1
        )
        turn.execute()
    running.stop()
    running.start()
    with running.connect("coordinator") as coordinator:
        assert coordinator.get(keys.model("trial", 1)) == b"x"
        assert coordinator.hgetall(keys.head("trial")) == {b"version": b"1"}
        assert coordinator.exists(keys.lease("trial", "a"), keys.history("trial"), keys.RUNNING) == 3
        assert coordinator.lrange(keys.inbox("trial"), 0, -1) == [b"b"]


def test_nobody_is_let_in_as_default(tls_centre):
    operator = connection.read(tls_centre.file("operator"))
    for username, password in ((None, None), ("default", ""), ("default", "x")):
        client = redis.Redis(
            "localhost", tls_centre.port, username=username, password=password, ssl=True, retry=AT_ONCE,
            **{name: value for name, value in operator.tls.items() if name != "ssl_min_version"},
        )  # fmt: skip
        with pytest.raises(redis.AuthenticationError), client:
            client.ping()


# --- secrets -----------------------------------------------------------------------------------------------


def test_no_secret_is_in_an_output_a_log_or_an_argument(running):
    outputs = []
    for arguments in (
        *(("add-site", "east"), ("--debug", "add-site", "east"), ("doctor", "--json")),
        ("--debug", "remove-site", "west", "--redis", f"rediss://localhost:{free_port()}/0"),
    ):
        debug = [part for part in arguments if part == "--debug"]
        rest = [part for part in arguments if part != "--debug"]
        done = run(*debug, *rest, "--centre", running.folder)
        outputs += [done.stdout, done.stderr]
    running.unpacked("east")
    outputs.append(running.log.read_text())
    outputs.append(Path(f"/proc/{running.processes[0].pid}/cmdline").read_text())
    outputs.append(redis_7())
    said = "\n".join(outputs)
    assert "is for east alone" in said
    assert [secret for secret in running.secrets() if secret in said] == []


def test_the_hash_of_a_password_is_all_that_the_acl_file_has_of_it(own_centre):
    text = own_centre.centre.acl_file.read_text()
    for role in centre.ROLES:
        password = (own_centre.folder / role / "password").read_text().strip()
        assert password not in text and access.hashed(password) in text
        assert len(password) >= 43  # 256 bits in base64


# --- new credentials ---------------------------------------------------------------------------------------


def test_a_site_that_is_renewed_has_a_new_archive_and_its_old_credentials_end_at_once(running):
    centre.add_site(running.centre, "east")
    old = running.connect("east")
    folder = running.unpacked("east")
    before = (folder / "client.crt").read_text()
    (folder / ".env").write_text("FEDELTA_USER=1:1\n")
    assert centre.add_site(running.centre, "east", renews=True) is True
    with pytest.raises(redis.RedisError):
        old.ping()
    with tarfile.open(running.centre.bundle("east")) as archive:  # over what is there
        archive.extractall(folder.parent, filter="tar")
    assert running.connect("east").ping()
    assert (folder / "client.crt").read_text() != before
    assert (folder / ".env").read_text() == "FEDELTA_USER=1:1\n"


def test_only_a_site_that_is_in_can_be_renewed(own_centre):
    before = contents(own_centre.folder)
    with pytest.raises(NotFound, match="no site 'east' in .*; there: none"):
        centre.add_site(own_centre.centre, "east", renews=True)
    lock = own_centre.folder / "redis" / ".lock"
    assert contents(own_centre.folder) == {**before, lock: b""}


def test_a_renewed_centre_has_new_certificates_of_the_same_authority_and_works(own_centre):
    paths = centre.own_certificates(own_centre.centre)
    before = {whose: path.read_bytes() for whose, path in paths.items()}
    centre.renew(own_centre.centre)
    after = {whose: path.read_bytes() for whose, path in paths.items()}
    assert [whose for whose in paths if after[whose] == before[whose]] == ["the authority"]
    own_centre.start()
    assert all(own_centre.connect(role).ping() for role in ("admin", *centre.ROLES))


# --- hosts and ports ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["http://x", "a b", "redis.example.org:6380", "", "-x", "x/y", "x\ny"])
def test_what_is_no_host_is_refused_and_nothing_is_made(tmp_path, host):
    with pytest.raises(SettingsError, match="--host: expected a host name or an IP address"):
        centre.create(tmp_path / "centre", host=host)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_what_is_no_port_is_refused_and_nothing_is_made(tmp_path, port):
    with pytest.raises(SettingsError, match=f"--port: expected 1 to 65535, got {port}"):
        centre.create(tmp_path / "centre", host="fedelta.example.org", port=port)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("host", ["localhost", "fedelta.example.org", "10.1.2.3", "::1", "fd00::1"])
def test_names_and_addresses_are_hosts(tmp_path, host):
    made = centre.create(tmp_path / "centre", host=host, uses_docker=False)
    centre.add_site(made, "east")
    with tarfile.open(made.bundle("east")) as archive:
        archive.extractall(tmp_path, filter="tar")
    assert urlsplit(connection.read(tmp_path / "east" / "site.toml").url).hostname == host
