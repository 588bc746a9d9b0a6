import json
import os
import ssl
import threading

import pytest
import redis
from kombu.utils.url import parse_url

from tasks import connection
from tasks.app import app, connect, connect_by, use_broker, use_connection
from workers.errors import SettingsError, Unavailable

SECRET = "gehéim"
FILES = {
    "password_file": "password",
    "ca": "ca.crt",
    "certificate": "client.crt",
    "key": "client.key",
}
TABLE = {"url": "rediss://fedelta.example.org:6379/0", "username": "site.lakeside", **FILES}


@pytest.fixture(autouse=True)
def bare(monkeypatch):
    """No Redis is configured; whatever the test sets is gone after it."""
    for name in ("FEDELTA_CONNECTION", "FEDELTA_BROKER_URL", "FEDELTA_LEDGER_URL"):
        monkeypatch.setenv(name, "")


@pytest.fixture
def write(tmp_path):
    """Writes a connection's file, and the files that it names, and says where."""

    def write_connection(secret=f"{SECRET}\n", /, **changes):
        table = {name: value for name, value in {**TABLE, **changes}.items() if value is not None}
        for name in FILES.values():
            (tmp_path / name).write_text("")
        (tmp_path / "password").write_text(secret, "utf-8")
        path = tmp_path / "site.toml"
        path.write_text("[connection]\n" + "".join(f"{name} = {value!r}\n" for name, value in table.items()))
        return path

    return write_connection


def texts_of(error):
    """Everything that may be shown of an error: it, what it came from, and their representations."""
    while error is not None:
        yield from (str(error), repr(error))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def mistakes(path):
    """What is said of a file that is wrong, without its name."""
    with pytest.raises(SettingsError) as raised:
        connection.read(path)
    assert SECRET not in "".join(texts_of(raised.value))
    return str(raised.value).removeprefix(f"{path}: ")


def test_the_file_says_where_redis_is_and_who_we_are(write, tmp_path):
    found = connection.read(write())
    assert (found.url, found.username) == ("rediss://fedelta.example.org:6379/0", "site.lakeside")
    assert found.url_with_password == "rediss://site.lakeside:geh%C3%A9im@fedelta.example.org:6379/0"


def test_its_files_are_beside_it_wherever_the_process_is(write, tmp_path, monkeypatch):
    path = write(ca=str(tmp_path / "elsewhere.crt"))
    (tmp_path / "elsewhere.crt").write_text("")
    monkeypatch.chdir("/")
    found = connection.read(path)
    assert found.password_file == tmp_path / "password"
    assert found.tls == {
        "ssl_cert_reqs": ssl.CERT_REQUIRED,
        "ssl_check_hostname": True,
        "ssl_ca_certs": str(tmp_path / "elsewhere.crt"),
        "ssl_certfile": str(tmp_path / "client.crt"),
        "ssl_keyfile": str(tmp_path / "client.key"),
        "ssl_min_version": ssl.TLSVersion.TLSv1_2,
    }


def test_what_else_is_in_the_file_is_not_the_connections(write):
    path = write()
    path.write_text(path.read_text() + '[data]\nfile = "patients.csv"\n')
    assert connection.read(path).username == "site.lakeside"


def test_redis_may_be_seen_elsewhere_from_here(write):
    found = connection.read(write(), "rediss://127.0.0.1:6380/0")
    assert found.url_with_password == "rediss://site.lakeside:geh%C3%A9im@127.0.0.1:6380/0"


@pytest.mark.parametrize("username", ["site.lakeside", "a/b", "a:b@c#d?e%41", "üser"])
@pytest.mark.parametrize("password", ["plain", "p/a:s@s#w?o%41r&d =", "pässwörd"])
def test_user_and_password_come_out_as_they_went_in(write, username, password):
    url = connection.read(write(password, username=username)).url_with_password
    pool = redis.ConnectionPool.from_url(url)
    assert pool.connection_kwargs["username"] == username
    assert pool.connection_kwargs["password"] == password
    assert pool.connection_kwargs["host"] == "fedelta.example.org"
    celery = parse_url(url)
    assert (celery["userid"], celery["password"], celery["hostname"], celery["port"]) == (
        username,
        password,
        "fedelta.example.org",
        6379,
    )


def test_a_password_that_is_changed_is_read_anew(write, monkeypatch, tmp_path):
    monkeypatch.setenv("FEDELTA_CONNECTION", str(write("old")))
    assert connection.ledger_url() == "rediss://site.lakeside:old@fedelta.example.org:6379/0"
    (tmp_path / "password").write_text("new")
    assert connection.ledger_url() == "rediss://site.lakeside:new@fedelta.example.org:6379/0"


@pytest.mark.parametrize("name", TABLE)
def test_every_field_is_needed(write, name):
    assert (
        mistakes(write(**{name: None})) == f"nothing was started, because of\n  connection.{name}: is missing"
    )


@pytest.mark.parametrize("name", TABLE)
def test_every_field_is_text(write, name):
    assert f"  connection.{name}: " in mistakes(write(**{name: 5}))


@pytest.mark.parametrize("name", FILES)
def test_every_file_that_is_named_is_there(write, tmp_path, name):
    assert (
        mistakes(write(**{name: "nowhere"})) == f"connection.{name}: there is no file {tmp_path / 'nowhere'}"
    )
    assert mistakes(write(**{name: "."})) == f"connection.{name}: there is no file {tmp_path}"


@pytest.mark.parametrize(
    "url",
    [
        "redis://fedelta.example.org:6379/0",
        "rediss:///0",
        "fedelta.example.org:6379",
        "unix:///tmp/redis.sock",
        f"rediss://site.lakeside:{SECRET}@fedelta.example.org:6379/0",
        f"rediss://site.lakeside:a/b{SECRET}@fedelta.example.org:6379/0",
        f"rediss://fedelta.example.org:6379/0?password={SECRET}",
        "rediss://fedelta.example.org:6379/0?ssl_cert_reqs=none",
        "",
    ],
)
def test_a_url_is_encrypted_and_holds_neither_password_nor_options(write, url):
    expected = "expected rediss://<host>:<port>/<database>, with no user or password in it"
    said = mistakes(write(url=url))
    assert said.startswith(f"nothing was started, because of\n  connection.url: {expected}")


@pytest.mark.parametrize("name", ["ca\0", "x" * 300], ids=["with a zero byte", "too long"])
def test_a_name_that_no_file_can_have_is_a_file_that_is_not_there(write, tmp_path, name):
    path = write()
    path.write_text(path.read_text().replace("'ca.crt'", json.dumps(name)))
    assert mistakes(path) == f"connection.ca: there is no file {tmp_path}/{name}"


def test_a_password_in_the_file_itself_is_refused_and_not_shown(write):
    assert "  connection.password: " in mistakes(write(password=SECRET))


def test_all_mistakes_are_said_at_once(write):
    said = mistakes(write(url="redis://h", key=None, colour="blue"))
    lines = said.splitlines()
    assert lines[0] == "nothing was started, because of"
    assert [line.split(":")[0] for line in lines[1:]] == [
        "  connection.url",
        "  connection.key",
        "  connection.colour",
    ]


@pytest.mark.parametrize("text", ["", "[conection]\n", "connection = 5\n", '[[connection]]\nurl = "h"\n'])
def test_a_file_without_the_table_is_refused(write, text):
    path = write()
    path.write_text(text)
    assert mistakes(path) == "expected a table [connection]"


def test_a_file_that_is_no_toml_is_refused_with_the_place(write):
    path = write()
    path.write_text("[connection]\nurl = rediss\n")
    assert mistakes(path).startswith("is not TOML: ")
    assert "line 2" in mistakes(path)


def test_a_file_that_cannot_be_read_is_refused_with_the_reason(write, tmp_path):
    assert mistakes(tmp_path / "nowhere.toml") == "cannot be read: No such file or directory"
    assert mistakes(tmp_path) == "cannot be read: Is a directory"
    path = write()
    path.write_bytes(b"\xff\xfe")
    assert mistakes(path) == "cannot be read: it is not text"


def test_a_password_that_cannot_be_read_is_not_shown(write, tmp_path):
    found = connection.read(write())
    (tmp_path / "password").write_bytes(b"geheim\xff")
    with pytest.raises(SettingsError) as raised:
        _ = found.url_with_password
    assert str(raised.value) == f"{tmp_path / 'password'}: cannot be read: it is not text"
    assert "geheim" not in "".join(texts_of(raised.value))
    (tmp_path / "password").unlink()
    with pytest.raises(SettingsError) as raised:
        _ = found.url_with_password
    assert str(raised.value) == f"{tmp_path / 'password'}: cannot be read: No such file or directory"


def test_a_connection_shows_no_password(write):
    found = connection.read(write())
    assert SECRET not in f"{found!r} {found} {found.model_dump()}"


def test_without_a_file_the_variables_say_where_redis_is(monkeypatch):
    assert (connection.current(), connection.broker_url(), connection.ledger_url()) == (None, None, None)
    monkeypatch.setenv("FEDELTA_BROKER_URL", "redis+socket:///tmp/redis.sock")
    assert connection.broker_url() == "redis+socket:///tmp/redis.sock"
    assert connection.ledger_url() == "unix:///tmp/redis.sock"
    assert connection.tls() is None


def test_with_a_file_broker_and_ledger_are_its_redis(write, monkeypatch):
    path = write()
    monkeypatch.setenv("FEDELTA_CONNECTION", str(path))
    url = "rediss://site.lakeside:geh%C3%A9im@fedelta.example.org:6379/0"
    assert connection.broker_url() == connection.ledger_url() == url
    assert connection.tls() == connection.read(path).tls


@pytest.mark.parametrize("ask", [connection.broker_url, connection.ledger_url, connection.tls, connect])
def test_a_file_and_a_broker_at_once_are_refused(write, monkeypatch, ask):
    monkeypatch.setenv("FEDELTA_CONNECTION", str(write()))
    monkeypatch.setenv("FEDELTA_BROKER_URL", "redis://127.0.0.1:6379/0")
    with pytest.raises(SettingsError) as raised:
        ask()
    assert str(raised.value) == "expected FEDELTA_CONNECTION or FEDELTA_BROKER_URL, got both"


def test_celery_takes_the_file_that_is_chosen_and_lets_go_of_it_for_a_broker(write):
    before = app.conf.broker_url
    path = write()
    try:
        use_connection(path)
        assert app.conf.broker_url == "rediss://site.lakeside:geh%C3%A9im@fedelta.example.org:6379/0"
        assert app.conf.broker_use_ssl == connection.read(path).tls
        assert os.environ["FEDELTA_CONNECTION"] == str(path)
        use_broker("redis://127.0.0.1:1/0")
        assert (app.conf.broker_url, app.conf.broker_use_ssl) == ("redis://127.0.0.1:1/0", None)
        assert connection.current() is None
    finally:
        app.conf.update(broker_url=before, broker_use_ssl=None)


@pytest.mark.parametrize("how", ["named by the environment", "given"])
def test_a_redis_that_does_not_answer_is_named_without_the_password(write, monkeypatch, how):
    path = write(url="rediss://127.0.0.1:1/0")
    monkeypatch.setenv("FEDELTA_CONNECTION", str(path))
    with pytest.raises(Unavailable) as raised:
        connect() if how == "named by the environment" else connect_by(connection.read(path))
    assert str(raised.value).startswith("no Redis answers at rediss://127.0.0.1:1/0: ")
    shown = "".join(texts_of(raised.value))
    assert SECRET not in shown and "geh%C3%A9im" not in shown


def test_the_file_is_read_once_by_many_threads(write, monkeypatch):
    path = write()
    monkeypatch.setenv("FEDELTA_CONNECTION", str(path))
    connection.current()
    path.unlink()
    found = []
    threads = [threading.Thread(target=lambda: found.append(connection.current())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [entry.username for entry in found] == ["site.lakeside"] * 4
