import dataclasses
import io

import pytest
from rich.console import Console

from orchestrator import live
from orchestrator.live import BARS, TREND_LENGTH, PlainLines
from tasks.messages import Event, HistoryRow, MetricsRow
from tasks.progress import Progress, SiteProgress
from tasks.state import Head, SiteRecord
from tests.conftest import make_spec

STARTED = 1000.0


def update(site="a", *, time=STARTED, version=1, num_examples=100, loss=0.5):
    return HistoryRow(
        time=time,
        site=site,
        order=1,
        base_version=0,
        version=version,
        staleness=0,
        weight=1.0,
        num_examples=num_examples,
        loss=loss,
        bytes_up=1,
        bytes_down=1,
        started=time - 1.0,
        seconds=0.5,
    )


def score(version, *, mse, r2):
    metrics = {"mse": mse, "r2": r2}
    return MetricsRow(time=STARTED, version=version, applied=version, num_sites=3, metrics=metrics)


def site(name="a", *, seen=STARTED, is_training=False, **record):
    return SiteProgress(name=name, record=SiteRecord(**record), is_training=is_training, seen=seen)


def event(seconds, kind, site="", detail=""):
    return Event(time=STARTED + seconds, kind=kind, site=site, detail=detail)


def progress_of(
    *, seconds=0.0, spec=None, sites=(), history=(), metrics=(), has_coordinator=True, events=(), **head
):
    return Progress(
        name="trial",
        spec=spec or make_spec(),
        now=STARTED + seconds,
        head=Head(started=STARTED, **head),
        has_coordinator=has_coordinator,
        sites=sites,
        history=history,
        metrics=metrics,
        events=events,
    )


def shown(renderable):
    console = Console(record=True, width=100, file=io.StringIO())
    console.print(renderable)
    return console.export_text()


def row_of(text, first_word):
    """The cells of the row that begins so, without the frame."""
    (found,) = [
        words for line in text.splitlines() if (words := line.strip("│ ").split())[:1] == [first_word]
    ]
    return found


def test_a_line_before_anything_happened():
    assert live.line(progress_of()) == "    0.0 s  0 updates  version 0  0.0 updates/s"


def test_a_line_says_time_counts_loss_metrics_and_rate():
    history = [
        update("a", time=STARTED + 1, loss=9.0, num_examples=100),
        update("b", time=STARTED + 2, loss=0.6, num_examples=300),
        update("a", time=STARTED + 3, loss=0.2, num_examples=100),  # the newest of each site counts
    ]
    metrics = [score(0, mse=9.0, r2=0.0), score(2, mse=1.25, r2=0.875)]
    found = progress_of(seconds=12.54, history=history, metrics=metrics, applied=3, version=2)
    assert live.line(found) == (
        "   12.5 s  3 updates  version 2  loss 0.5000"  # (300 * 0.6 + 100 * 0.2) / 400
        "  mse 1.2500, r2 0.8750 at version 2  1.0 updates/s"  # 2 more in 2 seconds
    )


def test_a_line_leaves_out_a_metric_that_is_not_defined():
    found = progress_of(metrics=[score(0, mse=1.0, r2=None)])
    assert live.line(found) == "    0.0 s  0 updates  version 0  mse 1.0000 at version 0  0.0 updates/s"


def test_a_line_says_what_went_wrong():
    assert live.line(progress_of(refused=2, resent=1)).endswith("0.0 updates/s  2 refused, 1 sent again")


def test_a_line_counts_absences_only_if_there_were_any():
    assert live.line(progress_of(absences=2)).endswith("0.0 updates/s  0 refused, 0 sent again, 2 absences")
    assert live.line(progress_of()).endswith("0.0 updates/s")


def test_a_line_leaves_pauses_out_and_stops_its_clock_at_the_end():
    assert live.line(progress_of(seconds=50.0, paused=20.0)).startswith("   30.0 s")
    ended = progress_of(seconds=50.0, paused=20.0, phase="finished", finished=STARTED + 25.0)
    assert live.line(ended).startswith("    5.0 s")


def test_the_rate_is_that_of_the_newest_updates():
    history = [update(time=STARTED)] + [update(time=STARTED + 100 + n / 10) for n in range(50)]
    assert live.line(progress_of(history=history)).endswith("  10.0 updates/s")


def test_updates_committed_at_one_moment_have_no_rate():
    assert live.line(progress_of(history=[update(), update()])).endswith("  0.0 updates/s")


def test_a_trend_goes_from_the_lowest_bar_to_the_highest():
    assert live.trend(range(8)) == BARS
    assert live.trend([3.0, 1.0, 2.0]) == BARS[7] + BARS[0] + BARS[4]


def test_a_trend_of_equal_values_is_flat():
    assert live.trend([5.0, 5.0, 5.0]) == BARS[0] * 3


def test_a_trend_shows_the_newest_values():
    assert live.trend([1e9, *[0.0] * (TREND_LENGTH - 1), 1.0]) == BARS[0] * (TREND_LENGTH - 1) + BARS[7]


def test_goals_are_the_stop_conditions_that_count_something():
    stop = {"updates": 200, "seconds": 60.0, "patience": 5, "target": {"metric": "mse", "value": 1.0}}
    found = progress_of(spec=make_spec(stop=stop), seconds=12.34, applied=40, evaluations_since_best=2)
    assert live.goals(found) == [
        ("of the updates", 40.0, 200.0),
        ("of the seconds", 12.3, 60.0),
        ("of the patience", 2.0, 5.0),
    ]
    assert live.goals(progress_of(spec=make_spec(stop={"versions": 7}), version=3)) == [
        ("of the versions", 3.0, 7.0)
    ]


def test_the_table_shows_goals_trends_and_a_row_for_each_site():
    found = progress_of(
        seconds=20.0,
        spec=make_spec(stop={"updates": 200}),
        sites=[
            site("north", seen=STARTED + 18.0, updates=25, staleness=3, is_training=True, base_version=7),
            site("south", seen=None),
        ],
        history=[update("north", time=STARTED + n, loss=float(9 - n)) for n in range(8)],
        metrics=[score(0, mse=4.0, r2=None), score(8, mse=2.5, r2=None)],
        applied=40,
        version=8,
        refused=2,
        resent=1,
    )
    text = shown(live.table(found))
    assert "trial  fedasync  20.0 s" in text
    assert row_of(text, "phase") == ["phase", "running"]
    assert row_of(text, "of")[:3] == ["of", "the", "updates"]
    assert row_of(text, "of")[-3:] == ["40", "of", "200"]
    assert row_of(text, "updates") == ["updates", "40", "1.0", "per", "second"]
    assert row_of(text, "training") == ["training", "loss", "2.0000", BARS[::-1]]
    assert row_of(text, "mse") == ["mse", "2.5000", BARS[7] + BARS[0]]
    assert "r2" not in text  # defined nowhere
    assert row_of(text, "refused") == ["refused", "2", "1", "sent", "again"]
    assert row_of(text, "north") == ["north", "training", "25", "3", "2", "s", "ago"]
    assert row_of(text, "south") == ["south", "not", "there", "0", "0", "never"]


def test_the_trend_of_the_loss_is_the_mean_over_each_sites_latest():
    history = [
        update("a", loss=8.0, num_examples=100),  # 8
        update("b", loss=0.0, num_examples=300),  # (8 * 100 + 0 * 300) / 400 = 2
        update("a", loss=4.0, num_examples=100),  # (4 * 100 + 0 * 300) / 400 = 1
    ]
    text = shown(live.table(progress_of(history=history)))
    assert row_of(text, "training") == ["training", "loss", "1.0000", BARS[7] + BARS[1] + BARS[0]]


def test_the_table_of_an_experiment_that_has_just_begun():
    text = shown(live.table(progress_of(sites=[site("a", base_version=0)])))
    assert row_of(text, "a") == ["a", "ordered", "0", "0", "0", "s", "ago"]
    assert "training loss" not in text


def test_the_table_says_why_an_experiment_has_ended_whatever_the_reason_looks_like():
    found = progress_of(phase="finished", finished=STARTED, reason="refused [/red] [bold]often")
    assert "finished: refused [/red] [bold]often" in shown(live.table(found))


def test_a_goal_that_was_passed_is_shown_as_it_is():
    found = progress_of(spec=make_spec(stop={"updates": 200}), applied=203)
    assert "203 of 200" in shown(live.table(found))


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=40)


def lines_of(console):
    return console.file.getvalue().splitlines()


def test_plain_lines_show_each_newly_scored_version_once(console):
    show = PlainLines(console)
    scored = [score(0, mse=4.0, r2=0.0)]
    show(progress_of(seconds=0.0))
    show(progress_of(seconds=0.1, metrics=scored, evaluated=0))
    show(progress_of(seconds=0.1, metrics=scored, evaluated=0))
    show(progress_of(seconds=0.2, metrics=scored, evaluated=0, version=3))  # a version, but not scored
    scored.append(score(5, mse=2.0, r2=0.5))
    show(progress_of(seconds=0.3, metrics=scored, evaluated=5, version=6))
    show(progress_of(seconds=0.4, metrics=scored, evaluated=5, version=7))
    assert lines_of(console) == [
        "    0.0 s  0 updates  version 0  0.0 updates/s",
        "    0.1 s  0 updates  version 0  mse 4.0000, r2 0.0000 at version 0  0.0 updates/s",
        "    0.3 s  0 updates  version 6  mse 2.0000, r2 0.5000 at version 5  0.0 updates/s",
    ]


def test_plain_lines_show_every_other_second_that_it_still_goes_on(console):
    show = PlainLines(console)
    for tenth in range(0, 51, 5):
        show(progress_of(seconds=tenth / 10))
    assert [line.split()[0] for line in lines_of(console)] == ["0.0", "2.0", "4.0"]


def test_plain_lines_show_the_end_once(console):
    show = PlainLines(console)
    running = progress_of(seconds=1.0, evaluated=0)
    ended = dataclasses.replace(
        running, now=STARTED + 2.0, head=dataclasses.replace(running.head, phase="finished", finished=1001.5)
    )
    for found in (running, running, ended, dataclasses.replace(ended, now=STARTED + 9.0)):
        show(found)
    assert [line.split()[0] for line in lines_of(console)] == ["1.0", "1.5"]


def test_without_a_terminal_the_view_is_plain_lines(console):
    with live.view(console) as show:
        show(progress_of(applied=7))
    assert lines_of(console) == ["    0.0 s  7 updates  version 0  0.0 updates/s"]


def test_on_a_terminal_the_view_is_the_table():
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    with live.view(console) as show:
        show(progress_of(sites=[site("north")]))
    written = console.file.getvalue()
    assert "trial  fedasync  0.0 s" in written
    assert "north" in written


def test_an_evaluation_that_nobody_answered_does_not_disturb_the_view():
    unanswered = MetricsRow(time=1.0, version=0, applied=0, num_sites=0, metrics={})
    answered = MetricsRow(time=2.0, version=1, applied=1, num_sites=1, metrics={"mse": 0.5, "r2": None})
    assert "mse" in shown(live.table(progress_of(metrics=(unanswered, answered))))
    assert "at version" not in live.line(progress_of(metrics=(unanswered,)))


def test_a_mean_that_is_not_over_all_sites_says_so():
    metrics = (score(3, mse=0.25, r2=0.5),)  # over three
    of_three, of_four = ([site(name) for name in names] for names in ("abc", "abcd"))
    assert "at version 3 (mean over 3 of 4 sites)" in live.line(progress_of(metrics=metrics, sites=of_four))
    assert "mean over 3 of 4 sites" in shown(live.table(progress_of(metrics=metrics, sites=of_four)))
    assert "mean over" not in live.line(progress_of(metrics=metrics, sites=of_three))
    assert "mean over" not in shown(live.table(progress_of(metrics=metrics, sites=of_three)))


GONE = event(12.3, "gone", "north", "last seen 11 s ago")
BACK = event(40.0, "back", "north", "with fedelta 0.1.0")
UNATTENDED = event(77.0, "unattended", detail="no coordinator looked after it for 31 s")
FINISHED = event(80.0, "finished", detail="200 updates are applied")


def test_the_table_ends_with_the_newest_faults_the_newest_last():
    many = [event(n, "resent", "south", f"reason {n}") for n in range(1, 10)]
    text = shown(live.table(progress_of(seconds=90, events=[*many, GONE, BACK, UNATTENDED, FINISHED])))
    lines = [line.strip("│ ") for line in text.splitlines()]
    assert lines[lines.index("newest faults") + 1 : -1] == [
        "8.0 s  south  order sent again: reason 8",
        "9.0 s  south  order sent again: reason 9",
        "12.3 s  north  gone: last seen 11 s ago",
        "40.0 s  north  back: with fedelta 0.1.0",
        "77.0 s  unattended: no coordinator looked after it for 31 s",
    ]
    assert max(map(len, text.splitlines())) == live.WIDTH


def test_the_table_of_an_experiment_without_faults_has_no_list_of_them():
    assert "faults" not in shown(live.table(progress_of(events=[FINISHED])))


def test_a_fault_takes_one_line_of_the_table_however_long_it_is():
    long = event(1.0, "refused", "n" * 63, "[bold]no\nmarkup[/bold] " + "x" * 900)
    before = shown(live.table(progress_of(sites=[site("a")])))
    after = shown(live.table(progress_of(sites=[site("a")], events=[long])))
    assert len(after.splitlines()) == len(before.splitlines()) + 3  # an empty one, the heading, the fault
    assert f"{'n' * 24}  update refused: [bold]no markup[/bold]" in after


def test_times_of_faults_leave_pauses_out():
    resumed = Event(time=STARTED + 60.0, kind="resumed", pause=50.0)
    found = progress_of(seconds=90, paused=50.0, events=[event(5.0, "gone", "a"), resumed, UNATTENDED])
    text = shown(live.table(found))
    assert "5.0 s  a  gone" in text
    assert "27.0 s  unattended" in text  # 77 - 50


def test_plain_lines_show_each_fault_once_when_it_happens(console):
    show = PlainLines(console)
    show(progress_of(seconds=1.0))
    show(progress_of(seconds=1.1, events=[GONE]))
    show(progress_of(seconds=1.2, events=[GONE]))
    show(progress_of(seconds=1.3, events=[GONE, BACK, UNATTENDED]))
    show(progress_of(seconds=1.4, events=[BACK, UNATTENDED, FINISHED]))  # the window has moved on
    assert lines_of(console) == [
        "    1.0 s  0 updates  version 0  0.0 updates/s",
        "   12.3 s  north  gone: last seen 11 s ago",
        "   40.0 s  north  back: with fedelta 0.1.0",
        "   77.0 s  unattended: no coordinator looked after it for 31 s",
    ]


def test_who_begins_to_watch_late_is_shown_the_newest_faults(console):
    show = PlainLines(console)
    show(progress_of(seconds=50.0, events=[event(n, "resent", "south") for n in range(10)]))
    assert [line.split()[0] for line in lines_of(console)] == ["5.0", "6.0", "7.0", "8.0", "9.0", "50.0"]


def test_a_fault_is_shown_as_it_is_written_whatever_it_looks_like(console):
    PlainLines(console)(progress_of(events=[event(2.0, "refused", "a", "[red]no[/red] \x1b[2Jmarkup")]))
    assert lines_of(console)[0] == "    2.0 s  a  update refused: [red]no[/red]  [2Jmarkup"


def test_plain_lines_go_on_when_the_time_begins_anew_with_training():
    console = Console(file=io.StringIO(), width=200)
    lines = PlainLines(console)
    lines(progress_of(seconds=60.0, sites=[site("a", base_version=0)], phase="describing"))
    lines(progress_of(seconds=60.5, paused=60.0))
    lines(progress_of(seconds=61.0, paused=60.0))
    assert [text.split()[:2] for text in console.file.getvalue().splitlines()] == [
        ["60.0", "s"],
        ["0.5", "s"],
    ]
