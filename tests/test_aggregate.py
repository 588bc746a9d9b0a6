import numpy as np
import pytest

from tasks import aggregate, codec, keys, progress
from tasks.ledger import Ledger
from tasks.messages import Submission
from tasks.site_ledger import SiteLedger
from tasks.state import MAX_REFUSALS
from tests.conftest import constant, drain, make_spec, submit, zeros
from workers.errors import Conflict


def begin(client, **changes):
    Ledger(client).create("trial", make_spec(**changes), zeros())


def weight_of(client):
    found = progress.read(client, "trial")
    return float(progress.model(client, "trial", found.head.version)["weight"][0, 0])


def events(client, kind):
    return [event for event in progress.events(client, "trial") if event.kind == kind]


def test_all_that_waits_is_folded_in_one_after_another_and_committed_once(client):
    begin(client, strategy={"kind": "fedasync", "mixing_rate": 0.5, "staleness": {"kind": "constant"}})
    submit(client, "a/1", constant(1.0))
    submit(client, "c/1", constant(2.0))

    new = drain(client)

    # From x = 0: 0.5 * 0 + 0.5 * (0 + 1) = 0.5, then 0.5 * 0.5 + 0.5 * (0 + 2) = 1.25.
    assert weight_of(client) == 1.25
    rows = list(progress.history(client, "trial"))
    assert [(row.site, row.version, row.staleness, row.weight) for row in rows] == [
        ("a", 1, 0, 0.5),
        ("c", 2, 1, 0.5),
    ]
    assert (new.head.applied, new.head.version, new.head.commits) == (2, 2, 1)
    assert {site: record.base_version for site, record in new.sites.items()} == {"a": 2, "ab": 0, "c": 2}


def test_staleness_comes_from_the_orders_base_version(client):
    begin(client)
    for number in (1, 2, 3):
        submit(client, f"a/{number}", constant(1.0))
        drain(client)
    submit(client, "c/1", constant(1.0))
    drain(client)
    last = list(progress.history(client, "trial"))[-1]
    assert (last.site, last.base_version, last.version, last.staleness) == ("c", 0, 4, 3)
    assert last.weight == pytest.approx(0.5 * 4**-0.5)


def test_an_update_past_the_maximum_staleness_is_refused_and_its_site_ordered_anew(client):
    begin(client, strategy={"kind": "fedasync", "max_staleness": 1})
    for number in (1, 2):
        submit(client, f"a/{number}", constant(1.0))
        drain(client)
    before = weight_of(client)
    submit(client, "c/1", constant(100.0))
    new = drain(client)

    assert weight_of(client) == before
    assert (new.head.applied, new.head.refused) == (2, 1)
    assert (new.sites["c"].sequence, new.sites["c"].base_version) == (2, 2)
    assert [event.detail for event in events(client, "refused")] == ["staleness 2 is past the maximum of 1"]


def test_a_site_that_is_only_late_is_never_dropped(client):
    begin(client, strategy={"kind": "fedasync", "max_staleness": 0})
    for number in range(1, 2 * MAX_REFUSALS + 1):
        submit(client, f"a/{number}", constant(1.0))
        drain(client)
        submit(client, f"c/{number}", constant(1.0))
        new = drain(client)
        assert new.head.refused == number
    assert not new.sites["c"].is_dropped


def bad_delta(kind):
    delta = constant(1.0)
    if kind == "not finite":
        delta["bias"][0] = np.inf
    elif kind == "wrong shape":
        delta["weight"] = np.zeros((2, 1), np.float32)
    elif kind == "wrong dtype":
        delta["weight"] = np.zeros((1, 1), np.float64)
    elif kind == "unknown leaf":
        delta["extra"] = np.zeros(1, np.float32)
    return delta


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("not finite", "leaf 'bias' of the delta is not finite, or beyond 1e+18"),
        ("wrong shape", "leaf 'weight': expected float32 (1, 1), got float32 (2, 1)"),
        ("wrong dtype", "leaf 'weight': expected float32 (1, 1), got float64 (1, 1)"),
        ("unknown leaf", "leaf 'extra' is unexpected; expected the leaves ['bias', 'weight']"),
    ],
)
def test_a_bad_delta_is_refused_and_named_and_never_applied(client, caplog, kind, expected):
    begin(client)
    submit(client, "a/1", bad_delta(kind))
    submit(client, "c/1", constant(1.0))
    new = drain(client)

    assert (new.head.applied, new.head.refused) == (1, 1)  # the good one beside it counts
    assert np.isfinite(weight_of(client))
    assert (new.sites["a"].sequence, new.sites["a"].refusals) == (2, 1)
    (event,) = events(client, "refused")
    assert (event.site, event.order, event.detail) == ("a", "a/1", expected)
    assert f"trial a/1: refused: {expected}" in caplog.text


@pytest.mark.parametrize("stored", [b"", b"\xc1", b"\x93\x01\x02", b"{}", b"\x81\xa1v\x01"])
def test_garbage_in_place_of_a_delta_is_refused(client, stored):
    begin(client)
    client.set(keys.delta("trial", "a"), stored)
    client.rpush(keys.inbox("trial"), "a")
    new = drain(client)
    assert (new.head.applied, new.head.refused, new.sites["a"].sequence) == (0, 1, 2)
    assert not client.exists(keys.delta("trial", "a"))


def test_an_oversized_delta_is_refused_unread(client):
    begin(client)
    client.set(keys.delta("trial", "a"), bytes(1_000_000))
    client.rpush(keys.inbox("trial"), "a")
    drain(client)
    (event,) = events(client, "refused")
    assert event.detail.startswith("expected at most ") and event.detail.endswith("got 1000000")


def test_a_site_that_cannot_train_says_so_and_is_dropped_after_too_many_times(client):
    begin(client)
    for number in range(1, MAX_REFUSALS + 1):
        submit(client, f"a/{number}", None, error="no such file")
        new = drain(client)
    assert new.sites["a"].is_dropped
    assert new.sites["a"].base_version is None
    assert events(client, "refused")[0].detail == "the site could not train: no such file"
    assert [event.site for event in events(client, "dropped")] == ["a"]


def test_the_run_fails_when_every_site_is_dropped(client):
    begin(client, sites=["a"])
    for number in range(1, MAX_REFUSALS + 1):
        submit(client, f"a/{number}", None, error="no such file")
        new = drain(client)
    assert (new.head.phase, new.head.outcome) == ("finished", "failed")


def test_a_synchronous_round_closes_without_a_site_that_was_dropped_last(client):
    begin(client, strategy={"kind": "fedavg"})
    submit(client, "a/1", constant(1.0))
    submit(client, "c/1", constant(3.0))
    assert drain(client).head.version == 0
    for number in range(1, MAX_REFUSALS + 1):
        submit(client, f"ab/{number}", None, error="no such file")
        new = drain(client)
    assert (new.head.version, weight_of(client)) == (1, 2.0)
    assert new.outstanding == ("a", "c")


def test_a_submission_for_an_order_that_is_gone_changes_nothing(client):
    begin(client)
    ledger = SiteLedger(client)
    taken = ledger.take("trial", "a/1", "zombie")
    client.delete(keys.lease("trial", "a"))  # it ran out while the worker was stopped
    submit(client, "a/1", constant(1.0))
    drain(client)

    late = Submission(
        order="a/1", issued=taken.order.issued, delta=codec.pack_tree(constant(9.0)), num_examples=1
    )
    assert not ledger.submit("trial", taken.lease, late)
    assert drain(client).head.applied == 1


def test_a_second_message_for_an_order_finds_nothing_to_do(client):
    begin(client)
    ledger = SiteLedger(client)
    assert ledger.take("trial", "a/1", "first") is not None
    assert ledger.take("trial", "a/1", "second") is None  # being worked on
    client.delete(keys.lease("trial", "a"))
    submit(client, "a/1", constant(1.0))
    assert ledger.take("trial", "a/1", "second") is None  # submitted
    drain(client)
    assert ledger.take("trial", "a/1", "second") is None  # gone
    assert ledger.take("trial", "a/2", "second") is not None


def test_of_two_coordinators_one_wins_and_the_other_writes_nothing(client):
    begin(client)
    submit(client, "a/1", constant(1.0))
    with Ledger(client).turn("trial") as slow:
        drain(client)
        with pytest.raises(Conflict, match="experiment trial: somebody else committed first"):
            aggregate.drain(slow)
    assert [row.order for row in progress.history(client, "trial")] == [1]
    assert progress.read(client, "trial").head.commits == 1


def test_exactly_as_many_updates_are_applied_as_the_experiment_asks_for(client):
    begin(client, stop={"updates": 2})
    for site in ("a", "ab", "c"):
        submit(client, f"{site}/1", constant(1.0))
    new = drain(client)
    assert (new.head.phase, new.head.applied, new.head.reason) == ("finishing", 2, "2 updates are applied")
    assert new.outstanding == ()
    assert new.head.evaluating == 2  # the last version is scored before the end


def test_a_buffer_that_is_half_full_survives_the_coordinator(client):
    begin(client, strategy={"kind": "fedbuff", "buffer_size": 2, "staleness": {"kind": "constant"}})
    submit(client, "a/1", constant(1.0))
    assert drain(client).head.version == 0  # every drain is a new coordinator's: nothing is kept in memory
    submit(client, "a/2", constant(3.0))
    assert drain(client).head.version == 1
    assert weight_of(client) == 2.0


def test_entries_of_the_inbox_that_name_nobody_are_thrown_away(client):
    begin(client)
    client.rpush(keys.inbox("trial"), "nobody", b"\xff\xfe", "", "a/1")
    assert drain(client).head.applied == 0
    assert client.llen(keys.inbox("trial")) == 0


# The norm of a delta


def test_a_delta_past_the_maximum_norm_is_refused_as_a_fault_and_never_applied(client, caplog):
    begin(client, strategy={"kind": "fedasync", "max_norm": 5})
    submit(client, "a/1", {"weight": np.float32([[3.0]]), "bias": np.float32([-4.25])})  # sqrt(27.0625) = 5.2
    submit(client, "c/1", {"weight": np.float32([[3.0]]), "bias": np.float32([-4.0])})  # sqrt(9 + 16) = 5
    new = drain(client)

    assert (new.head.applied, new.head.refused) == (1, 1)
    assert [row.site for row in progress.history(client, "trial")] == ["c"]
    (event,) = events(client, "refused")
    assert (event.site, event.order, event.detail) == ("a", "a/1", "norm 5.20216 is past the maximum of 5")
    assert "trial a/1: refused: norm 5.20216 is past the maximum of 5" in caplog.text
    assert (new.sites["a"].sequence, new.sites["a"].refusals) == (2, 1)


@pytest.mark.parametrize("kind", ["fedasync", "fedbuff", "fedavg"])
def test_every_strategy_bounds_the_norm_and_drops_a_site_that_is_always_past_it(client, kind):
    begin(client, strategy={"kind": kind, "max_norm": 0.5})
    for number in range(1, MAX_REFUSALS + 1):
        submit(client, f"a/{number}", constant(12.3))
        new = drain(client)
    assert new.sites["a"].is_dropped
    assert weight_of(client) == 0.0
    # 12.3 sqrt(2) = 17.39
    assert {event.detail for event in events(client, "refused")} == {
        "norm 17.3948 is past the maximum of 0.5"
    }


def test_without_a_maximum_any_finite_norm_is_taken(client):
    begin(client)
    submit(client, "a/1", constant(9e17))
    assert drain(client).head.applied == 1


def test_a_delta_of_many_more_leaves_than_the_model_is_refused_before_they_are_decoded(client):
    begin(client)
    submit(client, "a/1", {str(number): np.zeros(1, np.float32) for number in range(40)})
    drain(client)
    (event,) = events(client, "refused")
    assert event.detail.endswith("40 exceeds max_array_len(32)")


def test_a_delta_of_no_examples_is_refused(client):
    begin(client)
    submit(client, "a/1", constant(1.0), num_examples=0)
    assert drain(client).head.applied == 0
    assert [event.detail for event in events(client, "refused")] == [
        "expected a number of examples of at least 1"
    ]


# What a site says, where people read it


def test_a_reason_that_a_site_gives_is_shown_in_one_line(client, caplog):
    begin(client)
    error = "no such file\n2026-01-01 ERROR: all is lost\x1b[2J"
    submit(client, "a/1", None, error=error)
    drain(client)
    (event,) = events(client, "refused")
    assert event.detail == "the site could not train: no such file 2026-01-01 ERROR: all is lost [2J"
    assert "\x1b" not in caplog.text and "\n2026" not in caplog.text


def test_a_refusal_of_a_delta_with_long_names_is_written_and_read(client):
    begin(client)
    submit(client, "a/1", {"\U0001d11e" * 1000: np.zeros(1, np.float32)})
    drain(client)
    (event,) = events(client, "refused")
    assert event.detail.startswith("leaf ") and len(event.detail) <= 1000


def test_a_site_that_floods_the_inbox_holds_up_nobody(client):
    begin(client, strategy={"kind": "fedasync", "mixing_rate": 0.5})
    client.rpush(keys.inbox("trial"), *["a"] * 2500)
    submit(client, "c/1", constant(1.0))
    new = drain(client)
    assert [row.site for row in progress.history(client, "trial")] == ["c"]
    assert (new.head.refused, client.llen(keys.inbox("trial"))) == (0, 0)


def test_a_submission_that_comes_while_it_is_looked_for_is_taken_whole(client):
    begin(client)
    with Ledger(client).turn("trial") as turn:
        read = turn._stored

        def look_too_early(site, limit):
            found = read(site, limit)
            submit(client, "a/1", constant(1.0))
            return found

        turn._stored = look_too_early
        found = turn.submission("a", zeros())
    assert found is not None and found[0].order == "a/1"
