"""Pictures of a run, from its tables: each a function from `Tables` to a matplotlib figure."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from workers import site_names
from workers.metrics import METRICS
from workers.models import predictions
from workers.params import Params
from workers.spec import Spec

COLOURS = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#d55e00",
    "#cc79a7",
    "#56b4e9",
    "#8c6d31",
    "#7f7f7f",
)  # Okabe, Ito
MAX_NAMED_SITES = 12  # in a legend

Row = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Tables:
    """A run's history, evaluations and events, as its folder has them, and the saved model."""

    spec: Spec
    params: Params
    seconds: float  # how long it ran
    history: Sequence[Row]
    evaluations: Sequence[Row]
    events: Sequence[Row]

    @property
    def metrics(self) -> tuple[str, ...]:
        """All metrics of the kind of target, the watched one first."""
        watched = self.spec.experiment.watched_metric
        return (watched, *(name for name in METRICS[self.spec.schema.target_kind] if name != watched))

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites, in the order of tables."""
        return site_names.in_order(self.spec.experiment.sites)

    def scores(self, site: str, metric: str) -> list[tuple[str, float]]:
        """Versions and values of a metric at a site, or of the mean ("global"), where it is defined."""
        rows = [row for row in self.evaluations if row["site"] == site and row[metric]]
        return [(row["version"], float(row[metric])) for row in rows]


def read_table(path: Path) -> list[Row]:
    """A CSV file's rows."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def metric_over_time(tables: Tables) -> Figure:
    """Every metric at every site and their mean, against seconds."""
    return _metric_picture(tables, "seconds", "seconds since the start")


def metric_over_updates(tables: Tables) -> Figure:
    """Every metric at every site and their mean, against committed updates."""
    return _metric_picture(tables, "applied", "updates")


def loss(tables: Tables) -> Figure:
    """Each update's training loss, by site."""
    with picture("Training loss", "updates", "loss") as (figure, axes):
        for site, colour in coloured(tables.sites):
            found = [
                (n, float(row["loss"])) for n, row in enumerate(tables.history, 1) if row["site"] == site
            ]
            if found:
                axes.plot(
                    *zip(*found, strict=True), ".-", markersize=3, linewidth=0.8, color=colour, label=site
                )
        if any(float(row["loss"]) > 0 for row in tables.history):
            axes.set_yscale("log")
        _legend(axes, tables)
    return figure


def staleness(tables: Tables) -> Figure:
    """How stale each site's updates were: a box per site, every update a point."""
    with picture("Staleness by site", "", "versions behind") as (figure, axes):
        groups = [
            [int(row["staleness"]) for row in tables.history if row["site"] == site] for site in tables.sites
        ]
        places = range(1, len(groups) + 1)
        rng = np.random.default_rng(0)
        for place, group, (_, colour) in zip(places, groups, coloured(tables.sites), strict=True):
            jitter = rng.uniform(-0.15, 0.15, len(group))
            axes.plot(place + jitter, group, ".", color=colour, alpha=0.5)
        axes.boxplot(groups, showfliers=False, widths=0.5)
        axes.set_xticks(list(places), [f"{s}\n{len(g)}" for s, g in zip(tables.sites, groups, strict=True)])
        axes.tick_params(axis="x", labelrotation=90 if len(groups) > MAX_NAMED_SITES else 0)
        axes.set_xlabel("site, and its number of updates")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def fitted_line(tables: Tables, features: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> Figure:
    """A regression of one feature: every site's examples, and the model's line through them."""
    schema = tables.spec.schema
    with picture("Data and fitted line", schema.features[0], schema.target) as (figure, axes):
        for (site, colour), x, y in zip(coloured(tables.sites), features, targets, strict=True):
            axes.plot(x[:, 0], y, ".", markersize=2, alpha=0.5, color=colour, label=site)
        everything = np.concatenate(features)
        ends = np.linspace(everything.min(), everything.max(), 100)[:, None]
        outputs = tables.spec.model.apply(tables.params, schema.prepared(ends))
        axes.plot(ends, predictions("regression", outputs), color="black", label="the model")
        axes.legend()
    return figure


def _metric_picture(tables: Tables, column: str, label: str) -> Figure:
    """The metrics against a column that the mean's rows have; a site's point is at its version's."""
    place = {row["version"]: float(row[column]) for row in tables.evaluations if row["site"] == "global"}
    figure = Figure(figsize=(8, 4), layout="constrained")
    panels = figure.subplots(1, len(tables.metrics), squeeze=False)[0]
    for metric, axes in zip(tables.metrics, panels, strict=True):
        _adorn(axes, f"{metric}, held out", label, "")
        lines = [(site, colour, 1.0) for site, colour in coloured(tables.sites)]
        for site, colour, width in [*lines, ("global", "black", 2.0)]:
            scores = [
                (place[version], value) for version, value in tables.scores(site, metric) if version in place
            ]
            if scores:
                name = "weighted mean" if site == "global" else site
                axes.plot(
                    *zip(*scores, strict=True), ".-", markersize=3, color=colour, linewidth=width, label=name
                )
    _legend(panels[-1], tables)
    return figure


@contextmanager
def picture(title: str, x: str, y: str, height: float = 4.0) -> Iterator[tuple[Figure, Axes]]:
    """A figure with one adorned panel, `height` inches high."""
    figure = Figure(figsize=(8, height), layout="constrained")
    axes = figure.add_subplot()
    _adorn(axes, title, x, y)
    yield figure, axes


def _adorn(axes: Axes, title: str, x: str, y: str) -> None:
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, loc="left")
    axes.set_xlabel(x)
    axes.set_ylabel(y)


def _legend(axes: Axes, tables: Tables) -> None:
    if len(tables.sites) <= MAX_NAMED_SITES and axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize="small")


def coloured(sites: Sequence[str]) -> list[tuple[str, str]]:
    """Each site with its colour, the same in every picture."""
    return [(site, COLOURS[index % len(COLOURS)]) for index, site in enumerate(sites)]
