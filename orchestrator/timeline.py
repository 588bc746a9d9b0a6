"""The picture of who trained when, and of what went wrong meanwhile."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from orchestrator.pictures import Row, Tables, coloured, picture

MAX_SITES = 60
MARKS = {"refused": ("x", "refused"), "resent": (">", "sent again"), "dropped": ("s", "dropped")}


def timeline(tables: Tables) -> Figure:
    """Who trained when: a bar per order, from when the site took it to when it was done; and the faults."""
    shown = tables.sites[:MAX_SITES]
    title = "Who trained when" + (
        f" (the first {len(shown)} sites)" if len(shown) < len(tables.sites) else ""
    )
    with picture(title, "seconds since the start", "", height=1.4 + 0.35 * len(shown)) as (figure, axes):
        _orders(axes, tables, shown)
        _absences(axes, tables, shown)
        _moments(axes, tables.events, shown)
        axes.set_yticks(range(len(shown)), shown)
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        if axes.get_legend_handles_labels()[0]:
            figure.legend(loc="outside lower center", ncols=5, fontsize="small", frameon=False)
    return figure


def absences(events: Sequence[Row], site: str, end: float) -> list[tuple[float, float]]:
    """From when to when the site was away; one that is not back is away until the end."""
    spans, since = [], None
    for row in events:
        if row["site"] == site and row["kind"] == "gone":
            since = float(row["seconds"])
        elif row["site"] == site and row["kind"] == "back" and since is not None:
            spans.append((since, float(row["seconds"])))
            since = None
    return spans if since is None else [*spans, (since, end)]


def _orders(axes: Axes, tables: Tables, shown: Sequence[str]) -> None:
    # A line between orders, unless the orders are too short to be seen beside it.
    widths = [float(row["training_seconds"]) for row in tables.history]
    span = max((float(row["started"]) for row in tables.history), default=0.0)
    gap = 0.5 if widths and np.median(widths) > span / 150 else 0.0
    for place, (site, colour) in enumerate(coloured(shown)):
        bars = [
            (float(row["started"]), float(row["training_seconds"]))
            for row in tables.history
            if row["site"] == site
        ]
        axes.broken_barh(bars, (place - 0.38, 0.76), facecolor=colour, edgecolor="white", linewidth=gap)


def _absences(axes: Axes, tables: Tables, shown: Sequence[str]) -> None:
    label = "away"
    for place, site in enumerate(shown):
        if spans := absences(tables.events, site, end=tables.seconds):
            bands = [(since, until - since) for since, until in spans]
            axes.broken_barh(bands, (place - 0.5, 1.0), facecolor="0.85", zorder=0.5, label=label)
            label = "_nolegend_"  # once is enough


def _moments(axes: Axes, events: Sequence[Row], shown: Sequence[str]) -> None:
    for kind, (marker, label) in MARKS.items():
        found = [row for row in events if row["kind"] == kind and row["site"] in shown]
        if found:
            places = [shown.index(row["site"]) for row in found]
            times = [float(row["seconds"]) for row in found]
            axes.plot(times, places, marker, color="black", markersize=5, markeredgewidth=1.6, label=label)
    lapses = [float(row["seconds"]) for row in events if row["kind"] == "unattended"]
    if lapses:
        axes.vlines(lapses, -0.5, len(shown) - 0.5, "black", "dotted", label="a coordinator again")
