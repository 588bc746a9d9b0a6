"""The metrics of a small experiment whose ledger is written by hand."""

import socket
import urllib.request

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from orchestrator import children
from orchestrator.private_redis import PrivateRedis
from tasks import exposition, keys, messages, progress
from tasks.app import connect, use_broker
from tasks.exposition import LedgerCollector
from tasks.ledger import Ledger
from tasks.messages import Announcement, HistoryRow, MetricsRow
from tests.conftest import constant, drain, make_spec, submit, zeros
from tests.test_bell import DEADLINE
from workers.errors import Unavailable

# Site a has two updates, ab one and is away for the second time, c was dropped.
EXPECTED = """\
# HELP fedelta_refusals_total Submissions refused.
# TYPE fedelta_refusals_total counter
fedelta_refusals_total{experiment="trial"} 6.0
# HELP fedelta_resent_orders_total Orders sent again.
# TYPE fedelta_resent_orders_total counter
fedelta_resent_orders_total{experiment="trial"} 4.0
# HELP fedelta_model_version Committed server steps.
# TYPE fedelta_model_version gauge
fedelta_model_version{experiment="trial"} 3.0
# HELP fedelta_experiment_running 1 while not finished.
# TYPE fedelta_experiment_running gauge
fedelta_experiment_running{experiment="trial"} 1.0
# HELP fedelta_bytes_total Bytes of models and deltas.
# TYPE fedelta_bytes_total counter
fedelta_bytes_total{direction="up",experiment="trial"} 300.0
fedelta_bytes_total{direction="down",experiment="trial"} 600.0
# HELP fedelta_metric Mean over sites, last scored.
# TYPE fedelta_metric gauge
fedelta_metric{experiment="trial",metric="mse"} 2.5
# HELP fedelta_updates_total Updates applied.
# TYPE fedelta_updates_total counter
fedelta_updates_total{experiment="trial",site="a"} 2.0
fedelta_updates_total{experiment="trial",site="ab"} 1.0
fedelta_updates_total{experiment="trial",site="c"} 0.0
# HELP fedelta_site_refusals_total Submissions refused.
# TYPE fedelta_site_refusals_total counter
fedelta_site_refusals_total{experiment="trial",site="a"} 1.0
fedelta_site_refusals_total{experiment="trial",site="ab"} 0.0
fedelta_site_refusals_total{experiment="trial",site="c"} 5.0
# HELP fedelta_site_resent_orders_total Orders sent again.
# TYPE fedelta_site_resent_orders_total counter
fedelta_site_resent_orders_total{experiment="trial",site="a"} 0.0
fedelta_site_resent_orders_total{experiment="trial",site="ab"} 4.0
fedelta_site_resent_orders_total{experiment="trial",site="c"} 0.0
# HELP fedelta_site_absences_total Times it went away.
# TYPE fedelta_site_absences_total counter
fedelta_site_absences_total{experiment="trial",site="a"} 0.0
fedelta_site_absences_total{experiment="trial",site="ab"} 2.0
fedelta_site_absences_total{experiment="trial",site="c"} 0.0
# HELP fedelta_site_away 1 while nothing is heard of it.
# TYPE fedelta_site_away gauge
fedelta_site_away{experiment="trial",site="a"} 0.0
fedelta_site_away{experiment="trial",site="ab"} 1.0
fedelta_site_away{experiment="trial",site="c"} 0.0
# HELP fedelta_site_dropped 1 after too many refusals.
# TYPE fedelta_site_dropped gauge
fedelta_site_dropped{experiment="trial",site="a"} 0.0
fedelta_site_dropped{experiment="trial",site="ab"} 0.0
fedelta_site_dropped{experiment="trial",site="c"} 1.0
# HELP fedelta_site_last_seen_timestamp_seconds Last sign of life.
# TYPE fedelta_site_last_seen_timestamp_seconds gauge
fedelta_site_last_seen_timestamp_seconds{site="a"} 1000.5
fedelta_site_last_seen_timestamp_seconds{site="c"} 900.0
"""


@pytest.fixture
def away(private_redis, tmp_path):
    """Begins and ends a Redis of its own, which is in use until the end of the test."""
    server = PrivateRedis(tmp_path / "redis", tmp_path / "log")
    processes = [server.start()]
    use_broker(server.broker_url)

    def end():
        children.end(processes, grace_seconds=DEADLINE)

    yield end
    use_broker(private_redis.broker_url)
    end()
    server.remove_home()


def begin(client, name="trial", **head):
    Ledger(client).create(name, make_spec(name=name), zeros())
    if head:
        client.hset(keys.head(name), mapping=head)


def record(client, site, **changes):
    stored = client.hget(keys.sites("trial"), site)
    fields = {**vars(messages.decode(progress.SiteRecord, stored)), **changes}
    client.hset(keys.sites("trial"), site, messages.encode(progress.SiteRecord(**fields)))


def announce(client, site, seen):
    client.set(keys.site(site), messages.encode(Announcement(seen=seen, software="test")))


def score(client, version, mse):
    row = MetricsRow(
        time=1.0, version=version, applied=version, num_sites=3, metrics={"mse": mse, "r2": None}
    )
    client.xadd(keys.metrics("trial"), {"row": messages.encode(row)})


def row(*, staleness=0, started=100.0, seconds=5.0, time=107.0):
    return HistoryRow(
        time=time,
        site="a",
        order=1,
        base_version=0,
        version=staleness + 1,
        staleness=staleness,
        weight=1.0,
        num_examples=10,
        loss=0.5,
        bytes_up=1,
        bytes_down=1,
        started=started,
        seconds=seconds,
    )


def shown():
    """What Prometheus is given of the ledger."""
    registry = CollectorRegistry()
    registry.register(LedgerCollector())
    return generate_latest(registry).decode()


def sample(name, **labels):
    return exposition.registry.get_sample_value(name, labels)


def test_every_fact_of_the_ledger_is_a_line(client):
    begin(client, version=3, refused=6, resent=4, bytes_up=300, bytes_down=600)
    record(client, "a", updates=2, refused=1)
    record(client, "ab", updates=1, resent=4, absences=2, is_away=True)
    record(client, "c", refused=5, is_dropped=True)
    announce(client, "a", 1000.5)
    announce(client, "c", 900.0)
    score(client, 0, 9.0)
    score(client, 2, 2.5)  # the newest counts; what is not defined is left out
    assert shown() == EXPECTED


def test_each_experiment_has_its_lines_and_a_site_of_two_was_seen_once(client):
    begin(client, "second")
    begin(client, phase="finished")
    announce(client, "ab", 7.0)
    lines = shown().splitlines()
    assert [line for line in lines if line.startswith("fedelta_experiment_running")] == [
        'fedelta_experiment_running{experiment="second"} 1.0',
        'fedelta_experiment_running{experiment="trial"} 0.0',
    ]
    assert [line for line in lines if line.startswith("fedelta_site_last_seen_timestamp_seconds")] == [
        'fedelta_site_last_seen_timestamp_seconds{site="ab"} 7.0'
    ]


def test_an_experiment_that_is_finishing_still_runs(client):
    begin(client, phase="finishing")
    assert 'fedelta_experiment_running{experiment="trial"} 1.0' in shown()


@pytest.mark.parametrize("phase", ["finishing", "finished"])
def test_nobody_is_called_away_from_an_experiment_that_gives_no_more_orders(client, phase):
    begin(client, phase=phase)
    record(client, "ab", absences=1, is_away=True)  # and nobody will note that it is back
    assert 'fedelta_site_away{experiment="trial",site="ab"} 0.0' in shown()
    assert 'fedelta_site_absences_total{experiment="trial",site="ab"} 1.0' in shown()


def test_an_empty_ledger_has_no_samples(client):
    assert [line for line in shown().splitlines() if not line.startswith("#")] == []


def test_where_no_redis_answers_there_is_a_warning_and_no_metric(
    client, private_redis, tmp_path, monkeypatch, caplog
):
    monkeypatch.setenv("FEDELTA_BROKER_URL", f"redis+socket://{tmp_path}/nowhere")
    assert shown() == ""
    (warning,) = caplog.records
    assert warning.levelname == "WARNING"
    assert warning.getMessage().startswith(f"no metrics: no Redis answers at unix://{tmp_path}/nowhere: ")


def test_where_none_is_configured_there_is_a_warning_and_no_metric(client, monkeypatch, caplog):
    monkeypatch.setenv("FEDELTA_BROKER_URL", "")
    assert shown() == ""
    assert caplog.text.count("no metrics: expected FEDELTA_CONNECTION to name a connection's file") == 1


def test_when_redis_goes_away_there_is_a_warning_and_no_metric(client, away, caplog):
    begin(connect())
    assert shown()
    away()
    assert shown() == ""
    assert [record.getMessage()[:12] for record in caplog.records] == ["no metrics: "]


def test_a_committed_update_is_counted_by_its_staleness_and_its_seconds():
    exposition.observe("by hand", [row(staleness=0), row(staleness=3, time=125.0)])
    staleness = "fedelta_update_staleness"
    assert sample(f"{staleness}_count", experiment="by hand") == 2
    assert sample(f"{staleness}_sum", experiment="by hand") == 3
    counts = [
        sample(f"{staleness}_bucket", experiment="by hand", le=le) for le in ("0.0", "1.0", "2.0", "4.0")
    ]
    assert counts == [1, 1, 1, 2]
    # Trained from 100 to 105; folded in at 107 and at 125.
    sums = {
        stage: sample("fedelta_stage_seconds_sum", experiment="by hand", stage=stage)
        for stage in exposition.STAGES
    }
    assert sums == {"train": 10.0, "wait": 22.0}


@pytest.mark.parametrize(("name", "started", "now"), [("ahead", 100.0, 107.0), ("never", 0.0, 1.7e9)])
def test_a_wait_that_cannot_be_is_not_counted(name, started, now):
    exposition.observe(name, [row(started=started, seconds=50.0, time=now)])
    assert sample("fedelta_stage_seconds_sum", experiment=name, stage="train") == 50.0
    assert not sample("fedelta_stage_seconds_count", experiment=name, stage="wait")


def test_a_turn_counts_the_updates_that_it_has_committed(client):
    begin(client)
    before = sample("fedelta_update_staleness_count", experiment="trial") or 0
    submit(client, "a/1", constant(1.0))
    submit(client, "ab/1", constant(1.0))
    drain(client)
    assert sample("fedelta_update_staleness_count", experiment="trial") == before + 2


def test_prometheus_is_answered_at_the_address(client, monkeypatch):
    begin(client)
    start, started = exposition.start_http_server, []

    def start_and_remember(*arguments, **options):
        started.append(start(*arguments, **options))

    monkeypatch.setattr(exposition, "start_http_server", start_and_remember)
    exposition.serve(("127.0.0.1", 0))
    ((server, thread),) = started
    try:
        assert server.server_address[0] == "127.0.0.1"
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/metrics") as answer:
            text = answer.read().decode()
    finally:
        server.shutdown()
        server.server_close()
        thread.join(DEADLINE)
    assert 'fedelta_model_version{experiment="trial"} 0.0' in text.splitlines()
    assert "# TYPE fedelta_update_staleness histogram" in text.splitlines()


def test_without_an_address_nothing_is_served(monkeypatch):
    monkeypatch.setattr(exposition, "start_http_server", None)  # or it would be called
    exposition.serve(None)


def test_a_port_that_is_taken_is_reported(client):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Unavailable) as raised:
            exposition.serve(("127.0.0.1", port))
    assert str(raised.value).startswith(f"metrics cannot be served at 127.0.0.1:{port}: ")
    assert "Address already in use" in str(raised.value)


def test_an_address_that_is_none_of_ours_is_reported():
    with pytest.raises(Unavailable) as raised:
        exposition.serve(("192.0.2.1", 9540))  # reserved for documentation
    assert str(raised.value).startswith("metrics cannot be served at 192.0.2.1:9540: ")
