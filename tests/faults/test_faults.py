"""The fixed set: every fault that we know of, at its exact moment where it has one."""

import random
import shutil
import tempfile
from pathlib import Path

import pytest

from tests.faults import faults, recovery
from tests.faults.driver import Trial, conduct, trial
from tests.faults.plan import SITES, Plan
from tests.faults.study import Study

EAST, NORTH, WEST = SITES


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def folder():
    """Where logs are; those of what failed stay there, whatever else pytest removes."""
    return Path(tempfile.mkdtemp(prefix="fedelta-faults-"))


@pytest.fixture
def endure(folder, cache):
    """Run a plan under a script; what came of it must be sound."""
    return lambda plan, script: is_sound(conduct(plan, script, folder, cache))


def is_sound(made: Trial) -> Trial:
    print(f"{made}\n{made.story}\n{recovery.table([(made.log, made.found.rows)])}\nlogs: {made.folder}")
    assert made.failure is None, made.failure
    shutil.rmtree(made.folder.parent)
    return made


class Fixed(random.Random):
    """Random numbers that choose this site."""

    def __init__(self, site: str) -> None:
        super().__init__(site)
        self._site = site

    def choice(self, among):
        return self._site if self._site in among else super().choice(among)


def plan(strategy: str, updates: int, seconds: float = 0.3, **facts: object) -> Plan:
    return Plan(strategy=strategy, updates=updates, seconds=dict.fromkeys(SITES, seconds), **facts)


def names(made: Trial) -> set[str]:
    return {fault.name for fault in made.log}


def events(made: Trial, kind: str) -> list[str]:
    return [event.site for event in made.found.events if event.kind == kind]


@pytest.mark.parametrize("strategy", ["fedasync", "fedavg"])
def test_a_worker_may_die_at_every_moment_of_an_order(endure, strategy):
    def script(study: Study) -> None:
        for number, moment in enumerate(faults.SITE_MOMENTS):
            site = SITES[number % 3]
            study.begin(lambda s, rng, m=moment: faults.kill_worker_there(s, rng, m), Fixed(site))
            if number == 2:
                study.await_faults()

    made = endure(plan(strategy, 150, every=2), script)
    assert {f"kill at {moment}" for moment in faults.SITE_MOMENTS} <= names(made)


def test_a_coordinator_may_die_at_every_moment_of_a_turn_and_beat_and_command_line_at_any(endure):
    def script(study: Study) -> None:
        faults.kill_cli(study, random.Random(1))
        for moment in faults.CENTRE_MOMENTS:
            faults.kill_coordinator_there(study, random.Random(moment), moment)
            faults.kill_beat(study, random.Random(moment))

    made = endure(plan("fedasync", 180, has_beat=True), script)
    assert {f"kill at {moment}" for moment in faults.CENTRE_MOMENTS} <= names(made)


def test_a_coordinator_that_slept_while_another_went_on_writes_nothing(endure):
    def script(study: Study) -> None:
        for moment in ("aggregate.draining", "commit.before"):
            faults.stop_coordinator(study, random.Random(moment), moment)

    made = endure(plan("fedbuff", 150), script)
    assert "stop coordinator" in names(made)


@pytest.mark.parametrize("strategy", ["fedasync", "fedavg"])
def test_a_worker_that_slept_past_its_lease_changes_nothing_when_it_wakes_up(endure, strategy):
    def script(study: Study) -> None:
        study.begin(lambda s, rng: faults.stop_worker(s, rng, "train.trained", replaced=True), Fixed(EAST))
        study.begin(lambda s, rng: faults.stop_worker(s, rng, "train.taken", replaced=False), Fixed(WEST))

    made = endure(plan(strategy, 120), script)
    slept = {fault.site: fault for fault in made.log if fault.name == "stop worker"}
    assert set(slept) == {EAST, WEST}
    fault = slept[WEST]
    meanwhile = [row for row in made.found.rows if fault.begun < row.time < fault.over and row.site != WEST]
    assert len(meanwhile) >= 3  # nobody waits for it longer than for its lease
    if strategy == "fedavg":
        assert WEST in events(made, "gone") and WEST in events(made, "back")


@pytest.mark.parametrize("strategy", ["fedbuff", "fedavg"])
def test_one_site_may_leave_for_good_and_one_join_in_the_middle(endure, strategy):
    def script(study: Study) -> None:
        study.pause(5.0)
        faults.site_leaves(study, Fixed(EAST))
        study.pause(16.0)
        faults.site_joins(study, random.Random(1))

    made = endure(plan(strategy, 100, late=WEST), script)
    left = next(fault for fault in made.log if fault.name == "site leaves")
    assert EAST in events(made, "gone") and WEST in events(made, "back")
    assert [row.time for row in made.found.rows if row.site == EAST and row.started > left.over] == []
    assert sum(row.site == NORTH and row.started > left.over for row in made.found.rows) > 20


def test_redis_may_die_stand_still_be_full_and_lose_its_last_second(endure):
    def script(study: Study) -> None:
        for number in range(2):
            for fault in (faults.power_failure, faults.full_redis, faults.kill_redis, faults.freeze_redis):
                study.pause(2.0)
                fault(study, random.Random(number))

    made = endure(plan("fedasync", 120), script)
    assert {"power failure", "full redis", "kill redis", "freeze redis"} <= names(made)


def test_redis_may_be_out_of_reach_for_half_a_minute_and_a_site_cut_off(endure):
    def script(study: Study) -> None:
        for number in range(3):
            study.begin(faults.cut_site, random.Random(number))
        study.await_faults()
        faults.redis_unreachable(study, random.Random(1), 30.0)
        faults.reset_centre(study, random.Random(1))

    endure(plan("fedbuff", 120), script)


def test_messages_may_be_lost_or_come_three_times_with_two_coordinators(endure):
    def script(study: Study) -> None:
        for number in range(4):
            faults.lose_message(study, random.Random(number))
            for again in range(3):
                faults.deliver_three_times(study, random.Random(f"{number}/{again}"))

    made = endure(plan("fedasync", 120, num_coordinators=2), script)
    assert {"message lost", "message three times"} <= names(made)


@pytest.mark.parametrize(("strategy", "kind"), [("fedavg", "shapes"), ("fedasync", "format")])
def test_a_site_with_a_wrong_clock_takes_part_and_one_with_other_software_holds_nobody_up(
    endure, strategy, kind
):
    def script(study: Study) -> None:
        study.pause(5.0)
        faults.other_software(study, Fixed(WEST), kind)

    made = endure(plan(strategy, 100, wrong_clock={EAST: 3600, NORTH: -3600}), script)
    assert {EAST, NORTH} <= {row.site for row in made.found.rows}


def test_what_a_seed_draws(folder, cache):
    is_sound(trial(3, folder, cache, num_faults=5))
