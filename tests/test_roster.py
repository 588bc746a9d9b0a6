import pytest

from orchestrator import live, roster
from tasks.attendance import PRESENCE
from tests.conftest import make_spec
from tests.test_live import STARTED, progress_of, row_of, shown, site


@pytest.mark.parametrize(
    ("state", "facts"),
    [
        ("not there", {"seen": None}),
        ("gone", {"seen": STARTED - PRESENCE}),
        ("waiting", {"seen": STARTED - PRESENCE + 0.1}),
        ("waiting", {}),
        ("ordered", {"base_version": 0}),
        ("training", {"base_version": 0, "is_training": True}),
        ("gone", {"seen": STARTED - 60.0, "base_version": 0, "is_training": True}),
        ("gone", {"is_away": True, "is_owed": True}),  # it is back, but has no order yet
        ("not there", {"is_away": True, "seen": None}),
        ("dropped", {"is_dropped": True}),
        ("dropped", {"is_dropped": True, "seen": None}),
    ],
)
def test_the_state_of_a_site(state, facts):
    assert roster.site_state(progress_of(), site(**facts)) == state


def test_who_is_missing_is_named_after_a_few_seconds():
    sites = (site("a", seen=STARTED + 9), site("b", seen=None), site("c", seen=STARTED - 60))
    assert roster.missing(progress_of(seconds=10, sites=sites)) == ["no worker of b, c"]
    assert roster.missing(progress_of(seconds=10, has_coordinator=False)) == ["no coordinator"]
    assert roster.missing(progress_of(seconds=1, sites=sites, has_coordinator=False)) == []
    assert roster.missing(progress_of(seconds=10, sites=sites, phase="finished")) == []
    assert "no worker of b, c" in live.line(progress_of(seconds=10, sites=sites))
    assert "no worker of b, c" in shown(live.table(progress_of(seconds=10, sites=sites)))


def test_a_site_that_is_back_is_not_missing_though_the_coordinator_has_not_noted_it():
    sites = [site("a", seen=STARTED + 9, is_away=True)]
    assert roster.missing(progress_of(seconds=10, sites=sites)) == []


@pytest.mark.parametrize("phase", ["finishing", "finished"])
def test_who_was_away_when_the_orders_ended_is_judged_by_its_signs_of_life(phase):
    assert roster.site_state(progress_of(phase=phase), site(is_away=True)) == "waiting"


ROUNDS = make_spec(strategy={"kind": "fedavg", "quorum": 0.6})  # 2 of 3 sites


def round_of(*records, spec=ROUNDS, **head):
    sites = [site(name, seen=STARTED + 10, **record) for name, record in zip("abc", records, strict=True)]
    return progress_of(seconds=10, spec=spec, sites=sites, **head)


AT_WORK, DONE, OWED = {"base_version": 3}, {}, {"is_away": True, "is_owed": True}
AWAY_AFTER_ITS_UPDATE, DROPPED = {"is_away": True}, {"is_dropped": True}


@pytest.mark.parametrize(
    "records",
    [(AT_WORK, AT_WORK, AT_WORK), (DONE, AT_WORK, OWED), (DONE, AWAY_AFTER_ITS_UPDATE, OWED)],
)
def test_a_round_that_has_its_quorum_waits_for_nobody(records):
    assert roster.quorum(round_of(*records)) == []


@pytest.mark.parametrize(
    "records", [(DONE, OWED, OWED), (AT_WORK, OWED, OWED), (DONE, OWED, DROPPED), (OWED, AT_WORK, OWED)]
)
def test_a_round_that_is_too_small_says_so_before_and_while_it_waits(records):
    assert roster.missing(round_of(*records)) == ["a round needs 2 of 3 sites and has 1"]


def test_a_round_that_nobody_takes_part_in_waits_too():
    waiting = round_of(OWED, OWED, OWED)
    assert roster.quorum(waiting) == ["a round needs 2 of 3 sites and has 0"]
    assert live.line(waiting).endswith("  a round needs 2 of 3 sites and has 0")
    assert "a round needs 2 of 3 sites and has 0" in shown(live.table(waiting))


def test_only_rounds_that_are_to_go_on_wait_for_a_quorum():
    assert roster.quorum(round_of(OWED, OWED, OWED, spec=make_spec())) == []
    assert roster.quorum(round_of(OWED, OWED, OWED, phase="finishing")) == []


def head_of(table):
    (found,) = [line.split() for line in table.splitlines() if line.split()[:1] == ["site"]]
    return found


def test_the_sites_of_an_experiment_without_faults_have_no_columns_for_them():
    text = shown(roster.sites_table(progress_of(sites=[site("a"), site("b")])))
    assert head_of(text) == ["site", "state", "updates", "staleness", "last", "seen"]


def test_what_went_wrong_at_a_site_has_a_column_if_it_did_at_any():
    sites = [site("north", absences=2, refused=1), site("south", refused=3), site("west")]
    text = shown(roster.sites_table(progress_of(sites=sites)))
    assert head_of(text)[-4:] == ["last", "seen", "away", "refused"]
    assert row_of(text, "north")[-2:] == ["2", "1"]
    assert row_of(text, "south")[-2:] == ["0", "3"]
    assert row_of(text, "west")[-2:] == ["0", "0"]
    with_all = shown(roster.sites_table(progress_of(sites=[site("east", absences=1, resent=2, refused=3)])))
    assert head_of(with_all)[-3:] == ["away", "re-sent", "refused"]
    assert row_of(with_all, "east")[-3:] == ["1", "2", "3"]


def test_a_long_name_is_shown_whole_beside_all_columns():
    name = "university-hospital-of-the-lakeside"
    text = shown(live.table(progress_of(sites=[site(name, absences=1, resent=2, refused=3)])))
    lines = text.splitlines()
    (first,) = [number for number, line in enumerate(lines) if " waiting " in line]
    cells = [line.strip("│ ").split()[:1] for line in lines[first : first + 3]]
    assert "".join(cell[0] for cell in cells if cell) == name
    assert max(map(len, lines)) == live.WIDTH


# Before training


def describing(*records, **head):
    sites = [
        site(name, seen=STARTED + 10, **record) for name, record in zip("abcdefgh", records, strict=False)
    ]
    return progress_of(seconds=10, sites=sites, phase="describing", **head)


TOLD, ASKED, AWAY = {}, {"base_version": 0}, {"is_away": True, "is_owed": True}


def test_how_many_sites_have_described_their_examples_and_who_is_waited_for():
    found = describing(TOLD, ASKED, TOLD, ASKED, DROPPED)
    assert roster.preparation(found) == "2 of 5 sites have described their examples; waiting for b, d"
    assert roster.preparation(progress_of()) == ""


def test_nobody_waits_to_hear_of_who_is_away_unless_too_few_others_are_there():
    of_three = "sites have described their examples"
    assert roster.preparation(describing(TOLD, AWAY, ASKED)) == f"1 of 3 {of_three}; waiting for c"
    assert roster.preparation(describing(TOLD, AWAY, AWAY)) == f"1 of 3 {of_three}; waiting for b, c"
    assert roster.preparation(describing(TOLD, TOLD, TOLD)) == f"3 of 3 {of_three}"


def test_a_site_that_told_and_went_away_has_told():
    found = describing({"is_away": True}, ASKED)
    assert roster.preparation(found).startswith("1 of 2 sites have")


def test_of_many_sites_that_are_waited_for_the_first_are_named():
    told = roster.preparation(describing(*[ASKED] * 8))
    assert told == "0 of 8 sites have described their examples; waiting for a, b, c, d, e and 3 more"


def test_a_line_and_the_table_say_how_far_the_description_is():
    found = describing(TOLD, ASKED, refused=1)
    told = "describing: 1 of 2 sites have described their examples; waiting for b"
    assert live.line(found) == f"   10.0 s  {told}  1 refused, 0 sent again"
    text = " ".join(shown(live.table(found)).split())
    assert f"phase {told}" in text.replace(" │ │ ", " ")


@pytest.mark.parametrize(
    ("state", "facts"),
    [
        ("waiting", TOLD),
        ("ordered", ASKED),
        ("describing", {**ASKED, "is_training": True}),
        ("gone", AWAY),
    ],
)
def test_the_state_of_a_site_before_training(state, facts):
    assert roster.site_state(progress_of(phase="describing"), site(**facts)) == state
