"""What a hospital writes is read as far as it may reach, and no further."""

import pytest

from tasks import attendance, keys, messages
from tasks.ledger import Ledger
from tasks.messages import Announcement, EvaluationRow
from tasks.presence import HOLDER
from tasks.turn import MAX_DRAIN, MAX_LEASE
from tests.conftest import make_spec, order_of, zeros
from workers.errors import NotFound


@pytest.fixture
def begun(client):
    Ledger(client).create("trial", make_spec(), zeros())
    return client


def turn(client):
    return Ledger(client).turn("trial")


def test_a_lease_is_read_up_to_its_longest(begun):
    claim = order_of(begun, "a").claim
    begun.set(keys.lease("trial", "a"), f"{claim} {'x' * 1_000_000}")
    begun.set(keys.lease("trial", "c"), b"\xff\xfe" * 1000)
    with turn(begun) as found:
        leases = found.leases()
    assert leases == {"a": "x" * (MAX_LEASE - len(claim) - 1)}


def test_the_longest_claim_there_is_leaves_room_in_a_lease_for_its_holder():
    longest = messages.claim("x" * 63 + f"/{2**53 - 1}", 1e11 - 1 / 3)
    assert len(f"{longest} {HOLDER}") < MAX_LEASE


@pytest.mark.parametrize("stored", [b"", b"\xc1", bytes(1_000_000), b"\x81\xa1v\x02"])
def test_an_announcement_that_is_none_is_as_if_the_site_had_said_nothing(begun, stored):
    begun.set(keys.site("a"), stored)
    begun.set(keys.site("c"), messages.encode(Announcement(seen=5.0, software="fedelta")))
    assert attendance.last_seen(begun, ["a", "ab", "c"]) == {"c": 5.0}
    assert attendance.last_seen(begun, []) == {}


@pytest.mark.parametrize(
    "fields", [{"row": bytes(100_000)}, {"row": b""}, {"other": b"x"}, {b"\xff": b"", "row": b"\xc1"}]
)
def test_a_score_that_is_none_is_left_out_and_logged(begun, caplog, fields):
    begun.xadd(keys.evaluations("trial", "a"), fields)
    row = EvaluationRow(time=0.0, version=0, num_examples=3, metrics={"mse": 0.5})
    begun.xadd(keys.evaluations("trial", "c"), {"row": messages.encode(row)})
    with turn(begun) as found:
        assert found.evaluations() == {"c": row}
    assert "trial a: a score that is none: " in caplog.text


def test_an_inbox_of_rubbish_names_nobody(begun):
    begun.rpush(keys.inbox("trial"), bytes(1_000_000), "\xe9", b"\xff", "A", "a ", "a", "nobody", "a", "c")
    with turn(begun) as found:
        assert found.waiting == ["a", "c"]


def test_of_a_flood_in_the_inbox_a_turn_reads_some_and_sees_behind_it_who_has_submitted(begun):
    begun.rpush(keys.inbox("trial"), *["x"] * MAX_DRAIN, "a", "ab")
    begun.set(keys.delta("trial", "ab"), b"anything")
    with turn(begun) as found:
        assert found.waiting == ["ab"]
        found.commit(found.state, is_mail_handled=True)
    assert begun.llen(keys.inbox("trial")) == 0


@pytest.mark.parametrize("key", [keys.model("trial", 0), keys.memory("trial")])
def test_a_ledger_that_has_lost_a_model_says_so(begun, key):
    begun.delete(key)
    with (
        turn(begun) as found,
        pytest.raises(NotFound, match="experiment trial: the ledger has lost fedelta:"),
    ):
        found.server()
