import matplotlib.colors

from orchestrator.pictures import COLOURS
from orchestrator.timeline import MAX_SITES, absences, timeline
from tests.test_pictures import can_be_saved, lines, many_sites, tables_of, update


def event(seconds, kind, site=""):
    return {"seconds": str(seconds), "kind": kind, "site": site, "order": "", "detail": ""}


def test_the_timeline_has_a_bar_for_each_order():
    history = [
        update("c", started=0.5, training_seconds=2.0),
        update("a", started=1.0, training_seconds=0.25),
        update("c", started=3.0, training_seconds=1.5),
    ]
    (axes,) = timeline(tables_of(history=history)).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "ab", "c"]
    bars = [
        [path.get_extents().intervalx.tolist() for path in collection.get_paths()]
        for collection in axes.collections
    ]
    assert bars == [[[1.0, 1.25]], [], [[0.5, 2.5], [3.0, 4.5]]]
    colours = [matplotlib.colors.to_hex(collection.get_facecolor()[0]) for collection in axes.collections]
    assert colours == list(COLOURS[:3])


def test_the_timeline_of_very_many_sites_shows_the_first_and_says_so():
    spec = many_sites(MAX_SITES + 1)
    last = spec.experiment.sites[-1]
    (axes,) = timeline(tables_of(spec=spec, history=[update(last)])).axes
    assert axes.get_title(loc="left") == f"Who trained when (the first {MAX_SITES} sites)"
    assert len(axes.collections) == MAX_SITES


def test_a_site_is_away_from_when_it_was_noted_until_it_is_back():
    events = [
        event(10.0, "gone", "a"),
        event(11.0, "gone", "c"),
        event(12.5, "back", "a"),
        event(40.0, "gone", "a"),
    ]
    assert absences(events, "a", end=50.0) == [(10.0, 12.5), (40.0, 50.0)]
    assert absences(events, "ab", end=50.0) == []
    assert absences(events, "c", end=50.0) == [(11.0, 50.0)]


def test_an_absence_whose_beginning_is_forgotten_is_left_out():
    assert absences([event(12.5, "back", "a")], "a", end=50.0) == []


def test_the_timeline_has_a_band_while_a_site_was_away_and_says_what_it_is_once():
    events = [
        event(2.0, "gone", "a"),
        event(3.0, "gone", "c"),
        event(5.0, "back", "a"),
    ]
    (axes,) = timeline(tables_of(events=events, seconds=9.0)).axes
    bands = axes.collections[3:]  # after the orders of three sites
    assert [band.get_paths()[0].get_extents().intervalx.tolist() for band in bands] == [
        [2.0, 5.0],
        [3.0, 9.0],
    ]
    assert [band.get_paths()[0].get_extents().intervaly.tolist() for band in bands] == [
        [-0.5, 0.5],
        [1.5, 2.5],
    ]
    assert axes.get_legend_handles_labels()[1] == ["away"]


def test_the_timeline_marks_moments_at_their_sites():
    events = [
        event(1.0, "refused", "ab"),
        event(2.0, "resent", "a"),
        event(3.0, "refused", "c"),
        event(4.0, "dropped", "c"),
        event(6.0, "resumed"),
        event(7.0, "unattended"),
    ]
    figure = timeline(tables_of(events=events))
    (axes,) = figure.axes
    assert lines(axes) == {
        "refused": ([1.0, 3.0], [1, 2]),
        "sent again": ([2.0], [0]),
        "dropped": ([4.0], [2]),
    }
    (lapse,) = axes.collections[3:]
    assert [segment.tolist() for segment in lapse.get_segments()] == [[[7.0, -0.5], [7.0, 2.5]]]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        *("refused", "sent again", "dropped", "a coordinator again")
    ]
    assert can_be_saved(figure)


def test_the_timeline_of_a_run_without_faults_has_no_legend():
    figure = timeline(tables_of(history=[update("a")], events=[event(9.0, "finished")]))
    assert figure.legends == []


def test_what_happened_at_a_site_that_is_not_shown_is_not_marked():
    spec = many_sites(MAX_SITES + 1)
    last = spec.experiment.sites[-1]
    (axes,) = timeline(
        tables_of(spec=spec, events=[event(1.0, "resent", last), event(2.0, "gone", last)])
    ).axes
    assert lines(axes) == {}
    assert len(axes.collections) == MAX_SITES
