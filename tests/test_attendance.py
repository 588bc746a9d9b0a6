"""Who is there, by what is written in a real Redis."""

import msgpack
import pytest

from tasks import attendance, keys
from tasks.attendance import PRESENCE
from tasks.messages import Announcement
from tests.conftest import announce
from workers.errors import MalformedMessage


def test_what_is_announced_is_read_by_site_and_a_silent_site_is_not_in_it(client):
    announce(client, "a", seen=5.0, software="fedelta 1")
    announce(client, "c", seen=7.0, software="fedelta 2")
    assert attendance.announced(client, ["a", "ab", "c"]) == {
        "a": Announcement(seen=5.0, software="fedelta 1"),
        "c": Announcement(seen=7.0, software="fedelta 2"),
    }
    assert attendance.last_seen(client, ["ab", "c"]) == {"c": 7.0}


def test_an_announcement_that_cannot_be_read_is_told_apart_from_none(client):
    client.set(keys.site("a"), msgpack.packb({"v": 2, "seen": 5.0, "software": "fedelta 9"}))
    client.set(keys.site("ab"), bytes(1_000_000))
    client.set(keys.site("c"), b"")
    found = attendance.announced(client, ["a", "ab", "c"])
    assert {site: type(said) for site, said in found.items()} == {
        "a": MalformedMessage,
        "ab": MalformedMessage,
    }
    assert str(found["a"]) == "Announcement: expected format 1, got 2"
    assert str(found["ab"]) == "Announcement: expected at most 16384 bytes, got 16385"  # no more is read
    assert attendance.last_seen(client, ["a", "ab", "c"]) == {}


@pytest.mark.parametrize(
    ("now", "present"),
    [
        (1000.0, {"a"}),
        (1000.0 + PRESENCE - 0.001, {"a"}),
        (1000.0 + PRESENCE, set()),
        (1000.0 - PRESENCE + 0.001, {"a"}),
        (1000.0 - PRESENCE, set()),  # the ledger's clock was set back
    ],
)
def test_a_site_is_there_while_its_announcement_is_younger_than_a_lease(now, present):
    assert attendance.recent({"a": 1000.0, "never": 0.0}, now) == present


def test_a_coordinator_announces_itself_for_as_long_as_a_lease(client):
    attendance.announce_coordinator(client, "coordinator@here")
    assert client.get(keys.COORDINATOR) == b"coordinator@here"
    assert 0 < client.ttl(keys.COORDINATOR) <= PRESENCE
    assert client.ttl(keys.ATTENDED) == -1  # whoever comes next week is told since when nobody was there


def test_a_coordinator_is_told_for_how_long_none_had_looked(client):
    assert attendance.announce_coordinator(client, "first") is None
    assert 0 <= attendance.announce_coordinator(client, "first") < PRESENCE
    seconds, microseconds = client.time()
    client.set(keys.ATTENDED, repr(seconds + microseconds / 1e6 - 3600))
    assert attendance.announce_coordinator(client, "second") == pytest.approx(3600, abs=30)
    assert attendance.announce_coordinator(client, "second") < PRESENCE


def test_a_coordinator_whose_clock_was_set_back_is_told_of_no_lapse(client):
    client.set(keys.ATTENDED, repr(client.time()[0] + 3600.0))
    assert attendance.announce_coordinator(client, "name") < 0
