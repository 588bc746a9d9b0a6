import io
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator import summary
from orchestrator.runs import Run
from workers.compression import Int3, Int4
from workers.spec import Differences

RUN = Run(folder=Path("runs/trial"))
LAPSE = {"count": 1, "is_at_least": False, "first_seconds": 20.0, "last_seconds": 20.0, "sites": {}}
RESENT = {"count": 3, "is_at_least": False, "first_seconds": 1.26, "last_seconds": 9.0, "sites": {"a": 3}}


def written(**changed):
    return {
        **{"name": "trial", "outcome": "completed", "reason": "it is enough", "applied": 7, "versions": 7},
        **{"seconds": 8.0, "first_update_seconds": 2.0, "refused": 0, "resent": 0, "faults": {}},
        **{"bytes_up": 7000, "bytes_down": 10_500_000, "compression": {"up": "int8", "down": None}},
        "metrics": {"global": {}, "sites": {}},
        "sites": {"a": {"updates": 7, "held_out_examples": 5}},
        **changed,
    }


def lines(found):
    console = Console(file=io.StringIO(), width=84)
    console.print(summary.table(found, RUN))
    return [line.strip() for line in console.file.getvalue().splitlines()]


def test_the_end_of_a_run_without_faults_says_so_in_a_line():
    shown = lines(written())
    assert "0 updates refused, 0 orders sent again" in shown
    assert not any("times" in line for line in shown)


def test_the_end_of_a_run_names_its_faults_with_times_counts_and_sites():
    shown = lines(written(resent=3, faults={"resent": RESENT, "unattended": LAPSE}))
    head = next(number for number, line in enumerate(shown) if line.split()[:1] == ["times"])
    assert [line.split() for line in shown[head : head + 3]] == [
        ["times", "first", "last", "sites"],
        ["orders", "sent", "again", "3", "1.3", "s", "9.0", "s", "a", "3"],
        ["without", "a", "coordinator", "1", "20.0", "s", "20.0", "s"],
    ]
    assert not any("updates refused, " in line for line in shown)  # it would say less


def test_a_summary_of_a_version_that_counted_no_faults_shows_what_it_has():
    old = written(refused=1, resent=2)
    del old["faults"]
    assert "1 updates refused, 2 orders sent again" in lines(old)


def test_of_a_trials_table_the_hospitals_that_take_part_are_told():
    shown = lines(written(hospitals={"taking_part": 11, "all": 12, "min_examples": 5}))
    told = " ".join(shown)
    assert "11 of 12 hospitals of the table take part: those with at least 5 examples (min_examples)" in told
    assert not any("hospitals" in line for line in lines(written(hospitals=None)))


def test_the_bytes_of_a_run_are_told_in_all_and_for_an_update_and_how_they_are_written():
    told = " ".join(lines(written()))
    assert "bytes from the sites 7,000 (1,000 an update, as int8)" in told
    assert "to them 10,500,000 (1,500,000 an update)" in told
    assert summary.traffic(written(applied=0, bytes_up=0), "up") == "0 (as int8)"


@pytest.mark.parametrize(
    ("compression", "told"),
    [(None, None), (Int4(), "int4"), (Differences(coding=Int3()), "differences in int3")],
)
def test_compression_is_named(compression, told):
    assert summary.named(compression) == told


def test_a_summary_of_a_version_without_compression_tells_its_bytes():
    old = written()
    del old["compression"]
    assert summary.traffic(old, "up") == "7,000 (1,000 an update)"
