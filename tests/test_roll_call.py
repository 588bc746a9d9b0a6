"""Which sites have gone and which are back, as the coordinator notes it: a real ledger, a faked clock."""

import msgpack
import pytest

from orchestrator import control
from tasks import keys, progress, state, supervise
from tasks.ledger import Ledger
from tasks.site_ledger import LEASE, SiteLedger
from tasks.supervise import Care
from tests.conftest import announce, constant, drain, make_spec, order_of, skip_last_scores, submit, zeros


def begin(client, **changes):
    Ledger(client).create("trial", make_spec(**changes), zeros())


def begin_rounds(client, **options):
    begin(client, strategy={"kind": "fedavg", **options})


def repair(client, **care):
    with Ledger(client).turn("trial") as turn:
        return supervise.repair(turn, Care(**care))


def noted(client, *kinds):
    found = progress.events(client, "trial")
    return [(event.kind, event.site, event.detail) for event in found if not kinds or event.kind in kinds]


def test_a_site_has_gone_when_it_was_silent_for_longer_than_a_lease_and_not_before(client, clock):
    begin(client)
    announce(client, "ab", "c", seen=1000.0)
    announce(client, "a", seen=998.0)
    clock["now"] = (
        1000.0 + LEASE
    )  # a was seen 12 s ago, but the experiment has not run for longer than a lease
    announce(client, "ab", "c", seen=clock["now"])
    assert repair(client).head.absences == 0
    clock["now"] += 0.5
    new = repair(client)
    assert {site: record.is_away for site, record in new.sites.items()} == {
        "a": True,
        "ab": False,
        "c": False,
    }
    assert (new.head.absences, new.sites["a"].absences) == (1, 1)
    assert noted(client, "gone") == [("gone", "a", "last seen 12 s ago")]


def test_a_dead_site_that_is_given_another_order_is_missed_no_later_for_it(client, clock):
    begin(client)
    announce(client, "a", "ab", "c", seen=1000.0)
    submit(client, "a/1", constant(1.0))
    clock["now"] = 1008.0
    assert drain(client).sites["a"].sequence == 2
    announce(client, "ab", "c", seen=1010.5)
    clock["now"] = 1010.5
    repair(client)
    assert noted(client, "gone") == [("gone", "a", "last seen 10 s ago")]


def test_a_resumed_experiment_gives_its_sites_as_long_to_start_as_a_new_one(client, clock):
    begin(client)
    announce(client, "a", "ab", "c", seen=1000.0)
    control.stop(client, "trial")
    skip_last_scores(client)
    clock["now"] = 5000.0
    control.resume(client, "trial")
    clock["now"] += LEASE
    assert repair(client).head.absences == 0
    clock["now"] += 0.5
    assert repair(client).head.absences == 3


def test_a_site_that_announced_itself_just_now_has_not_gone_however_old_its_order_is(client, clock):
    begin(client)
    clock["now"] += 3600
    announce(client, "a", "ab", seen=clock["now"] - LEASE + 0.1)
    announce(client, "c", seen=clock["now"] - LEASE)
    new = repair(client)
    assert [site for site, record in new.sites.items() if record.is_away] == ["c"]


def test_a_site_whose_lease_is_kept_has_not_gone_whatever_it_announces(client, clock):
    begin(client)
    SiteLedger(client).take("trial", "a/1", "worker")
    clock["now"] += 3600
    new = repair(client)
    assert [site for site, record in new.sites.items() if record.is_away] == ["ab", "c"]


def test_a_site_that_never_announced_itself_is_never_seen(client, clock):
    begin(client)
    clock["now"] += LEASE + 1
    repair(client)
    assert noted(client, "gone") == [("gone", site, "never seen") for site in ("a", "ab", "c")]


def test_a_site_with_another_format_is_away_and_the_event_says_which(client, clock):
    begin(client, sites=["a"])
    client.set(keys.site("a"), msgpack.packb({"v": 7, "seen": 1000.0, "software": "fedelta 9"}))
    clock["now"] += LEASE + 1
    repair(client)
    detail = "what it announces cannot be read here: Announcement: expected format 1, got 7"
    assert noted(client, "gone") == [("gone", "a", detail)]


def test_that_a_site_has_gone_is_noted_once_and_again_after_it_was_back(client, clock):
    begin(client, sites=["a"])
    for absence in (1, 2):
        for _ in range(3):
            clock["now"] += LEASE + 1
            assert repair(client).sites["a"].absences == absence
        announce(client, "a", seen=clock["now"], software="fedelta 1")
        for _ in range(2):
            new = repair(client)
            assert not new.sites["a"].is_away
    assert [kind for kind, *_ in noted(client, "gone", "back")] == ["gone", "back"] * 2
    assert noted(client, "back")[0] == ("back", "a", "with fedelta 1")
    assert new.head.absences == 2


def test_a_site_is_back_when_it_holds_its_lease_though_its_announcement_is_old(client, clock):
    begin(client, sites=["a"])
    clock["now"] += LEASE + 1
    repair(client)
    SiteLedger(client).take("trial", "a/1", "worker")
    assert not repair(client).sites["a"].is_away
    assert noted(client, "back") == [("back", "a", "")]


def test_the_log_says_who_has_gone_and_who_is_back(client, clock, caplog):
    begin(client, sites=["a"])
    clock["now"] += LEASE + 1
    repair(client)
    announce(client, "a", seen=clock["now"], software="fedelta 1")
    repair(client)
    assert "trial a: gone: never seen" in caplog.messages
    assert "trial a: back: with fedelta 1" in caplog.messages


def test_other_software_is_noted_and_the_first_is_not(client, clock):
    begin(client)
    announce(client, "a", "c", seen=1000.0, software="fedelta 1")
    assert repair(client).sites["a"].software == "fedelta 1"
    announce(client, "a", seen=1001.0, software="fedelta 2\x1b[2J")
    for _ in range(2):
        new = repair(client)
    assert {site: record.software for site, record in new.sites.items()} == {
        "a": "fedelta 2\x1b[2J",
        "ab": "",
        "c": "fedelta 1",
    }
    assert noted(client) == [("software", "a", "fedelta 2 [2J now, fedelta 1 before")]


def test_a_roll_call_that_finds_nothing_new_writes_nothing(client, clock):
    begin(client)
    announce(client, "a", "ab", "c", seen=1000.0)
    commits = repair(client).head.commits
    assert repair(client).head.commits == commits
    assert progress.read(client, "trial").head.commits == commits


def test_a_clock_that_was_set_back_by_an_hour_keeps_nobody_from_being_missed(client, clock):
    clock["now"] = 10_000.0
    begin(client)
    announce(client, "a", "ab", "c", seen=10_000.0)
    clock["now"] -= 3600
    announce(client, "c", seen=clock["now"])
    new = repair(client)
    assert [site for site, record in new.sites.items() if record.is_away] == ["a", "ab"]
    assert noted(client, "gone")[0] == ("gone", "a", "last seen 0 s ago")
    assert new.head.resent == 3  # orders of a time that is to come are not waited for either


# In rounds


def test_an_asynchronous_site_keeps_its_order_while_it_is_away(client, clock):
    begin(client)
    clock["now"] += LEASE + 1
    repair(client)
    assert order_of(client, "a").id == "a/1"
    announce(client, "a", seen=clock["now"])
    repair(client)
    submit(client, "a/1", constant(1.0))
    assert drain(client).head.applied == 1


def test_a_site_that_goes_away_from_a_round_has_no_order_until_it_is_back(client, clock):
    begin_rounds(client)
    clock["now"] += LEASE + 1
    announce(client, "ab", "c", seen=clock["now"])
    assert repair(client).outstanding == ("ab", "c")
    assert SiteLedger(client).take("trial", "a/1", "worker") is None
    clock["now"] += 5
    announce(client, "a", seen=clock["now"])
    new = repair(client)
    assert new.outstanding == ("a", "ab", "c")
    assert order_of(client, "a").claim == "a/2 1016.0"
    assert repair(client).sites["a"].sequence == 2  # once


def test_a_site_that_is_back_has_no_second_order_in_a_round_that_has_its_update(client, clock):
    begin_rounds(client)
    submit(client, "a/1", constant(1.0))
    drain(client)
    clock["now"] += LEASE + 1
    announce(client, "ab", "c", seen=clock["now"])
    assert repair(client).sites["a"].is_away
    announce(client, "a", seen=clock["now"])
    new = repair(client)
    assert (new.sites["a"].is_away, new.outstanding, new.sites["a"].sequence) == (False, ("ab", "c"), 1)
    for site in ("ab", "c"):
        submit(client, f"{site}/{new.sites[site].sequence}", constant(1.0))
    new = drain(client)
    assert (new.head.version, new.outstanding) == (1, ("a", "ab", "c"))


def test_a_site_whose_update_is_in_the_round_that_closes_while_it_is_away_is_owed_an_order(client, clock):
    begin_rounds(client)
    submit(client, "a/1", constant(1.0))
    drain(client)
    clock["now"] += LEASE + 1
    announce(client, "ab", "c", seen=clock["now"])
    repair(client)
    for site in ("ab", "c"):
        submit(client, f"{site}/1", constant(1.0))
    new = drain(client)
    assert (new.head.version, new.outstanding, new.sites["a"].is_owed) == (1, ("ab", "c"), True)
    announce(client, "a", seen=clock["now"])
    assert repair(client).outstanding == ("a", "ab", "c")
    assert order_of(client, "a").base_version == 1


def test_a_site_that_has_submitted_to_a_round_and_goes_away_keeps_its_update(client, clock):
    begin_rounds(client)
    submit(client, "a/1", constant(1.0))  # while there is no coordinator
    clock["now"] += LEASE + 1
    announce(client, "ab", "c", seen=clock["now"])
    repair(client)
    assert drain(client).head.applied == 1


# Nobody looked


@pytest.mark.parametrize(("lapse", "expected"), [(None, []), (-3600.0, []), (LEASE, []), (9.0, [])])
def test_a_coordinator_that_was_away_for_less_than_a_lease_is_not_missed(client, clock, lapse, expected):
    begin(client)
    repair(client, lapse=lapse)
    assert noted(client, "unattended") == expected


def test_a_lapse_without_a_coordinator_is_noted_once(client):
    begin(client)
    client.hset(keys.head("trial"), "started", repr(client.time()[0] - 7200.0))
    supervise.supervise()
    assert noted(client, "unattended") == []  # nobody has ever looked before
    client.set(keys.ATTENDED, repr(client.time()[0] - 3600.0))
    supervise.supervise()
    supervise.supervise()
    ((_, site, detail),) = noted(client, "unattended")
    assert (site, detail[:-6]) == ("", "no coordinator looked after it for ")
    assert 3600 <= int(detail[-6:-2]) <= 3630


def test_an_experiment_that_has_just_begun_or_been_resumed_was_not_unattended_before(client, clock):
    begin(client)
    clock["now"] += LEASE + 1
    repair(client, lapse=3600.0)
    with Ledger(client).turn("trial") as turn:
        turn.commit(state.at_rest(turn.state, "by hand", turn.now))
    clock["now"] += 1000
    with Ledger(client).turn("trial") as turn:
        turn.commit(state.resume(turn.state, is_synchronous=False, now=turn.now))
    clock["now"] += LEASE
    repair(client, lapse=3600.0)
    clock["now"] += 1
    repair(client, lapse=3600.0)
    told = "no coordinator looked after it for 11 s"
    assert noted(client, "unattended") == [("unattended", "", told)] * 2


# Before training


def begin_describing(client):
    data = {"dataset": "ours", "layout": {"features": ["x"], "target": {"kind": "regression", "column": "y"}}}
    begin(client, data=data)


def test_a_site_that_is_away_before_training_gives_its_order_back_though_nobody_trains_in_rounds(
    client, clock
):
    begin_describing(client)
    clock["now"] += LEASE + 1
    announce(client, "ab", "c", seen=clock["now"])
    new = repair(client)
    assert (new.outstanding, new.sites["a"].is_owed) == (("ab", "c"), True)
    assert noted(client, "gone") == [("gone", "a", "never seen")]
    assert SiteLedger(client).take("trial", "a/1", "worker") is None
    announce(client, "a", seen=clock["now"])
    assert repair(client).outstanding == ("a", "ab", "c")
    assert (order_of(client, "a").id, order_of(client, "a").asks) == ("a/2", "describe")


def test_a_site_whose_lease_is_kept_while_it_describes_has_not_gone(client, clock):
    begin_describing(client)
    SiteLedger(client).take("trial", "a/1", "worker")
    clock["now"] += LEASE + 1
    assert [site for site, record in repair(client).sites.items() if record.is_away] == ["ab", "c"]
