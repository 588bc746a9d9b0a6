import os
import re
from pathlib import Path

import pytest

from tasks import environment
from tests.conftest import REPOSITORY
from workers.errors import SettingsError

VARIABLE = re.compile(r"FEDELTA_[A-Z_]+")
SOURCE = Path(environment.__file__).read_text()


@pytest.fixture(autouse=True)
def bare(monkeypatch):
    """No variable of ours is set, whatever the test sets is gone after it."""
    for name in VARIABLE.findall(SOURCE):
        monkeypatch.setenv(name, "")  # so that it is put back even where there was none
        monkeypatch.delenv(name)


def ours():
    return {name: value for name, value in os.environ.items() if VARIABLE.fullmatch(name)}


def test_every_variable_that_is_read_is_explained():
    explained = {line.split()[0] for line in environment.__doc__.splitlines() if VARIABLE.match(line)}
    assert explained == set(VARIABLE.findall(SOURCE.replace(environment.__doc__, "")))


def test_no_other_module_reads_the_environment():
    sources = [
        path
        for folder in ("orchestrator", "tasks", "workers")
        for path in (REPOSITORY / folder).rglob("*.py")
    ]
    reading = [path.name for path in sources if re.search(r"\benviron\b|\bgetenv\b", path.read_text())]
    assert reading == ["environment.py"]


def test_nothing_is_configured_where_nothing_is_set():
    assert environment.connection_file() is None
    assert environment.broker_url() is None
    assert environment.ledger_url() is None
    assert environment.alive_file() is None
    assert environment.login_file() is None
    assert environment.metrics_address() is None
    assert not environment.has_broker()
    assert environment.has_own_beat()
    assert environment.runs_dir() == Path("runs")
    assert environment.cache_dir() == Path.home() / ".cache" / "fedelta"
    assert environment.data_dir() is None
    assert environment.data_folders() == (Path.home() / ".cache" / "fedelta" / "data",)


def test_an_empty_variable_is_as_good_as_none(monkeypatch):
    for name in set(VARIABLE.findall(SOURCE)):
        monkeypatch.setenv(name, "")
    test_nothing_is_configured_where_nothing_is_set()


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("FEDELTA_CONNECTION", environment.connection_file),
        ("FEDELTA_RUNS_DIR", environment.runs_dir),
        ("FEDELTA_SITE_FILE", environment.site_file),
        ("FEDELTA_CACHE_DIR", environment.cache_dir),
        ("FEDELTA_DATA_DIR", environment.data_dir),
        ("FEDELTA_ALIVE_FILE", environment.alive_file),
        ("FEDELTA_LOGIN_FILE", environment.login_file),
    ],
)
def test_a_file_or_folder_is_where_its_variable_says(monkeypatch, name, read):
    monkeypatch.setenv(name, "some/where")
    assert read() == Path("some/where")


def test_files_that_are_there_already_come_before_those_that_were_fetched(monkeypatch):
    monkeypatch.setenv("FEDELTA_DATA_DIR", "given")
    monkeypatch.setenv("FEDELTA_CACHE_DIR", "cache")
    assert environment.data_folders() == (Path("given"), Path("cache/data"))


@pytest.mark.parametrize(
    ("broker", "ledger"),
    [
        ("redis://h:6379/0", "redis://h:6379/0"),
        ("rediss://h:6379/0", "rediss://h:6379/0"),
        ("redis+socket:///tmp/redis+socket://x", "unix:///tmp/redis+socket://x"),
    ],
)
def test_the_ledger_is_in_the_brokers_redis(monkeypatch, broker, ledger):
    monkeypatch.setenv("FEDELTA_BROKER_URL", broker)
    assert environment.ledger_url() == environment.as_ledger_url(broker) == ledger
    assert environment.has_broker()


def test_the_ledger_may_be_elsewhere(monkeypatch):
    monkeypatch.setenv("FEDELTA_BROKER_URL", "redis://broker:6379/0")
    monkeypatch.setenv("FEDELTA_LEDGER_URL", "redis+socket:///tmp/ledger")
    assert environment.broker_url() == "redis://broker:6379/0"
    assert environment.ledger_url() == "unix:///tmp/ledger"


def test_a_connections_file_is_a_broker(monkeypatch):
    monkeypatch.setenv("FEDELTA_CONNECTION", "site.toml")
    assert environment.has_broker()


def test_a_broker_that_is_chosen_is_the_only_one(monkeypatch):
    monkeypatch.setenv("FEDELTA_LEDGER_URL", "redis://old:6379/0")
    monkeypatch.setenv("FEDELTA_CONNECTION", "site.toml")
    environment.set_broker("redis://new:6379/0")
    assert ours() == {"FEDELTA_BROKER_URL": "redis://new:6379/0"}


def test_a_connection_that_is_chosen_is_the_only_one_wherever_a_process_starts(monkeypatch, tmp_path):
    monkeypatch.setenv("FEDELTA_BROKER_URL", "redis://old:6379/0")
    monkeypatch.setenv("FEDELTA_LEDGER_URL", "redis://old:6379/0")
    monkeypatch.chdir(tmp_path)
    environment.set_connection(Path("site.toml"))
    assert ours() == {"FEDELTA_CONNECTION": str(tmp_path / "site.toml")}


@pytest.mark.parametrize("is_own", [True, False])
def test_whether_the_coordinator_has_its_clock_in_itself_is_told_to_its_process(is_own):
    environment.set_own_beat(is_own)
    assert environment.has_own_beat() is is_own
    assert ours() == {"FEDELTA_OWN_BEAT": "yes" if is_own else "no"}


@pytest.mark.parametrize(
    ("written", "address"),
    [
        ("127.0.0.1:9540", ("127.0.0.1", 9540)),
        ("0.0.0.0:65535", ("0.0.0.0", 65535)),
        ("localhost:0", ("localhost", 0)),
        ("::1:9540", ("::1", 9540)),
    ],
)
def test_the_metrics_are_at_an_address_and_port(monkeypatch, written, address):
    monkeypatch.setenv("FEDELTA_METRICS_ADDRESS", written)
    assert environment.metrics_address() == address


@pytest.mark.parametrize(
    "written", ["9540", ":9540", "127.0.0.1", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:65536", "h:-1"]
)
def test_what_is_no_address_and_port_is_refused_with_an_example_of_one(monkeypatch, written):
    monkeypatch.setenv("FEDELTA_METRICS_ADDRESS", written)
    with pytest.raises(SettingsError) as raised:
        environment.metrics_address()
    assert str(raised.value) == (
        f"FEDELTA_METRICS_ADDRESS: expected <address>:<port>, such as 127.0.0.1:9540, got '{written}'"
    )
