"""Rounds of FedAvg whose sites go away: when they close, with whom, and when a run fails."""

import pytest

from tasks import progress, supervise
from tasks.aggregate import aggregate
from tasks.ledger import Ledger
from tasks.site_ledger import LEASE
from tasks.state import MAX_REFUSALS
from tasks.supervise import Care, look_after
from tests.conftest import announce, constant, drain, make_spec, sent, submit, zeros

SITES = ("a", "ab", "c")


class Rounds:
    """An experiment of FedAvg, driven by its submissions and the coordinator's ticks."""

    def __init__(self, client, clock, sites=SITES, **options):
        self.client, self.clock = client, clock
        strategy = {"kind": "fedavg", "weighting": "equal", **options}
        Ledger(client).create("trial", make_spec(sites=list(sites), strategy=strategy), zeros())

    def answer(self, **deltas):
        """These sites submit such a delta for their standing order, and the coordinator looks."""
        for site, value in deltas.items():
            submit(self.client, f"{site}/{self.record(site).sequence}", constant(value))
        return drain(self.client)

    def tick(self, *here):
        """Time passes, in which these sites are heard, and the coordinator looks."""
        self.clock["now"] += LEASE + 1
        announce(self.client, *here, seen=self.clock["now"])
        with Ledger(self.client).turn("trial") as turn:
            supervise.repair(turn, Care())
        return drain(self.client)

    def record(self, site):
        return {found.name: found.record for found in progress.read(self.client, "trial").sites}[site]

    @property
    def head(self):
        return progress.read(self.client, "trial").head

    @property
    def weight(self):
        return float(progress.model(self.client, "trial", self.head.version)["weight"][0, 0])


@pytest.fixture
def rounds(client, clock):
    return lambda **options: Rounds(client, clock, **options)


def test_two_of_three_sites_are_a_quorum_of_a_half_when_the_third_has_gone(rounds):
    trial = rounds()
    trial.answer(a=1.0, c=3.0)
    assert trial.head.version == 0  # `ab` may still answer
    new = trial.tick("a", "c")
    assert (new.head.version, trial.weight, new.outstanding) == (1, 2.0, ("a", "c"))
    assert [(row.site, row.version) for row in progress.history(trial.client, "trial")] == [
        ("a", 1),
        ("c", 1),
    ]


def test_a_round_whose_missing_site_has_gone_closes_with_the_last_submission(rounds):
    trial = rounds()
    trial.tick("a", "c")
    assert trial.answer(a=1.0).head.version == 0
    assert trial.answer(c=3.0).head.version == 1


def test_one_of_two_sites_is_a_quorum_of_a_half(rounds):
    trial = rounds(sites=("a", "ab"))
    trial.answer(a=1.0)
    assert trial.tick("a").head.version == 1


def test_one_of_three_sites_waits_and_goes_on_when_a_second_is_back(rounds):
    trial = rounds()
    trial.answer(a=1.0)
    for _ in range(3):
        new = trial.tick("a")
        assert (new.head.version, new.head.phase, new.outstanding) == (0, "running", ())
    new = trial.tick("a", "c")
    assert (new.head.version, new.outstanding) == (0, ("c",))
    new = trial.answer(c=3.0)
    assert (new.head.version, trial.weight, new.outstanding) == (1, 2.0, ("a", "c"))


def test_a_round_that_waits_for_its_quorum_writes_nothing(rounds):
    trial = rounds()
    trial.answer(a=1.0)
    commits = trial.tick("a").head.commits
    for _ in range(3):
        drain(trial.client)
        trial.tick("a")
    assert trial.head.commits == commits


def test_all_sites_are_waited_for_if_the_quorum_is_one(rounds):
    trial = rounds(quorum=1.0)
    trial.answer(a=1.0, c=3.0)
    for _ in range(3):
        assert trial.tick("a", "c").head.version == 0
    assert trial.tick(*SITES).outstanding == ("ab",)
    new = trial.answer(ab=5.0)
    assert (new.head.version, trial.weight, new.outstanding) == (1, 3.0, SITES)


def test_a_quorum_of_almost_none_goes_on_with_one_site(rounds):
    trial = rounds(quorum=0.01)
    trial.answer(a=1.0)
    assert trial.tick("a").head.version == 1
    trial.answer(a=1.0)
    assert (trial.head.version, trial.weight) == (2, 2.0)


def test_a_round_that_nobody_has_answered_waits_when_all_have_gone(rounds):
    trial = rounds(quorum=0.01)
    new = trial.tick()
    assert (new.head.version, new.head.phase, new.outstanding) == (0, "running", ())
    assert trial.tick("ab").outstanding == ("ab",)
    assert trial.answer(ab=1.0).head.version == 1


def test_a_site_counts_once_in_a_round_however_often_it_went_away(rounds):
    trial = rounds()
    trial.answer(a=1.0)
    for _ in range(2):
        trial.tick("c")
        assert trial.tick("a", "c").outstanding == ("c",)
    assert trial.head.applied == 1


def test_a_round_that_is_closed_by_supervision_is_followed_by_orders_in_the_queues(client, clock):
    trial = Rounds(client, clock)
    trial.answer(a=1.0, c=3.0)
    clock["now"] += LEASE + 1
    announce(client, "a", "c", seen=clock["now"])
    look_after(Ledger(client), "trial", Care())  # `ab` has gone
    look_after(Ledger(client), "trial", Care())  # the round is closed
    assert trial.head.version == 1
    orders = {site: [id for id in sent(client, f"site.{site}") if ".v" not in id] for site in SITES}
    assert orders == {"a": ["a.2.trial"], "ab": [], "c": ["c.2.trial"]}


def test_an_update_that_was_refused_is_waited_for_again(rounds):
    trial = rounds(max_norm=10)
    trial.answer(a=1.0, c=3.0)
    new = trial.answer(ab=100.0)
    assert (new.head.version, new.head.refused, new.outstanding) == (0, 1, ("ab",))
    assert trial.answer(ab=5.0).head.version == 1
    assert trial.weight == 3.0


# When too few are left


def drop(trial, *sites):
    for site in sites:
        for _ in range(MAX_REFUSALS):
            submit(trial.client, f"{site}/{trial.record(site).sequence}", None, error="no such file")
            drain(trial.client)


def test_a_run_fails_when_fewer_sites_are_left_than_a_round_needs(rounds):
    trial = rounds()
    drop(trial, "a")
    assert trial.head.phase == "running"
    drop(trial, "ab")
    assert (trial.head.outcome, trial.head.reason) == (
        "failed",
        "1 sites are left, and a round needs 2; the events say why the others were dropped",
    )


def test_a_run_fails_at_the_first_site_that_is_dropped_if_all_are_needed(rounds):
    trial = rounds(quorum=1.0)
    drop(trial, "a")
    assert trial.head.outcome == "failed"


def test_sites_that_are_away_are_not_lost_to_a_run(rounds):
    trial = rounds(quorum=1.0)
    assert trial.tick().head.phase == "running"


def test_an_asynchronous_run_goes_on_with_its_last_site(client):
    Ledger(client).create("trial", make_spec(), zeros())
    for number in range(1, MAX_REFUSALS + 1):
        for site in ("a", "ab"):
            submit(client, f"{site}/{number}", None, error="no such file")
        new = drain(client)
    assert (new.active, new.head.phase) == (("c",), "running")


def test_the_task_closes_a_round_that_has_no_mail(client, clock):
    trial = Rounds(client, clock)
    trial.answer(a=1.0, c=3.0)
    clock["now"] += LEASE + 1
    announce(client, "a", "c", seen=clock["now"])
    with Ledger(client).turn("trial") as turn:
        supervise.repair(turn, Care())
    assert trial.head.version == 0
    aggregate("trial")
    assert trial.head.version == 1
