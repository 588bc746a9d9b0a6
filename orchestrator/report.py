"""A run's report: its pictures as PNG files, and one self-contained HTML page with tables and pictures.

    python -m orchestrator.report runs/<name>

Made from the run's own tables, so it can be made again at any time.
"""

import base64
import html
import io
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from orchestrator import faults, pictures
from orchestrator.pictures import Tables, read_table
from orchestrator.runs import Run
from orchestrator.summary import traffic
from orchestrator.timeline import timeline
from tasks import environment
from workers import data, model_file, originals
from workers.errors import FedeltaError, NotFound

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 60rem; margin: 2rem auto }
h1 { margin-bottom: 0 } h2 { margin-top: 2rem } p.lead { color: #555; margin-top: .2rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
td, th { padding: .25rem .9rem; text-align: right; border-bottom: 1px solid #ddd }
th { border-bottom: 2px solid #888 } td:first-child, th:first-child { text-align: left }
table + table { margin-top: 1.5rem } tr.mean { font-weight: bold }
img { max-width: 100%; display: block; margin: 1rem 0 }
pre { background: #f5f5f5; padding: 1rem; overflow-x: auto; font-size: 14px }
"""


def write(run: Run) -> None:
    """Write the pictures and `report.html`.

    Raises:
        NotFound: the run has no results yet.
    """
    summary = run.summary
    if summary is None:
        raise NotFound(f"{run.name} has no results yet")
    spec, params = model_file.load(run.folder / "model.safetensors")
    tables = Tables(
        spec=spec,
        params=params,
        seconds=summary["seconds"],
        history=read_table(run.folder / "history.csv"),
        evaluations=read_table(run.folder / "evaluations.csv"),
        events=read_table(run.folder / "events.csv"),
    )
    embedded = []
    for name, figure in draw(tables).items():
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=110)
        (run.folder / f"{name}.png").write_bytes(png.getvalue())
        embedded.append((name, base64.b64encode(png.getvalue()).decode()))
    (run.folder / "report.html").write_text(page(run, summary, tables, embedded), "utf-8")


def draw(tables: Tables) -> dict[str, Figure]:
    """Every picture that this run has, by the name of its file."""
    drawn = {
        "metric-over-time": pictures.metric_over_time(tables),
        "metric-over-updates": pictures.metric_over_updates(tables),
        "loss": pictures.loss(tables),
        "staleness": pictures.staleness(tables),
        "timeline": timeline(tables),
    }
    is_line = tables.spec.schema.target_kind == "regression" and len(tables.spec.schema.features) == 1
    is_own = tables.spec.experiment.model.kind == "own"  # a report calls no function of somebody's
    if is_line and not is_own and not tables.spec.experiment.data.is_at_sites:
        originals.use(environment.data_folders())
        examples = [data.load_raw(tables.spec.experiment, site) for site in tables.sites]
        drawn["fitted-line"] = pictures.fitted_line(tables, *zip(*examples, strict=True))
    return drawn


def page(
    run: Run,
    summary: Mapping[str, Any],
    tables: Tables,
    embedded: Iterable[tuple[str, str]],
) -> str:
    """The report as one HTML page."""
    images = "\n".join(
        f'<img alt="{name}" src="data:image/png;base64,{encoded}">' for name, encoded in embedded
    )
    file = run.experiment_file
    written = file.read_text("utf-8") if file.exists() else "submitted elsewhere"
    title = html.escape(f"{summary['name']}: {summary['strategy']}")
    reason = html.escape(f"{summary['outcome']}: {summary['reason']}")
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style></head><body>
<h1>{title}</h1><p class="lead">{reason}</p>
<h2>The run</h2>{_table(("", ""), _facts(summary))}
<h2>The sites</h2>{_table(*_sites(summary, tables))}
<p>Metrics are measured on the examples that each site holds out, with the last version; "at work" is the
share of the run's time in which the site was training.</p>
{_own_models(summary)}<h2>Faults</h2>{_faults(summary)}
<h2>The course</h2>{images}
<h2>Events</h2>{_events(tables.events)}
<h2>The experiment</h2><pre>{html.escape(written)}</pre>
</body></html>
"""


def _facts(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        ("updates applied", f"{summary['applied']}"),
        ("versions", f"{summary['versions']}"),
        ("seconds", f"{summary['seconds']:.1f}"),
        ("updates per second", _number(summary["updates_per_second"])),
        ("seconds from the command to the first update", _number(summary["first_update_seconds"])),
        ("updates refused", f"{summary['refused']}"),
        ("orders sent again", f"{summary['resent']}"),
        ("bytes from the sites", traffic(summary, "up")),
        ("bytes to the sites", traffic(summary, "down")),
    ]


def _sites(summary: Mapping[str, Any], tables: Tables) -> tuple[Sequence[str], list[Sequence[str]]]:
    names = list(summary["metrics"]["global"])
    rows: list[Sequence[str]] = []
    for site in tables.sites:
        updates = [row for row in tables.history if row["site"] == site]
        seconds = sum(float(row["training_seconds"]) for row in updates)
        staleness = sum(int(row["staleness"]) for row in updates) / len(updates) if updates else None
        metrics = summary["metrics"]["sites"].get(site, {})
        rows.append(
            (
                site,
                updates[0]["num_examples"] if updates else "-",
                str(summary["sites"][site]["held_out_examples"] or "-"),
                str(len(updates)),
                _number(staleness),
                f"{min(1.0, seconds / summary['seconds']):.0%}" if summary["seconds"] else "-",
                *(_number(metrics.get(name)) for name in names),
            )
        )
    means = [_number(summary["metrics"]["global"][name]) for name in names]
    rows.append(("weighted mean", "", "", str(summary["applied"]), "", "", *means))
    return ("", "trained on", "held out", "updates", "mean staleness", "at work", *names), rows


def _own_models(summary: Mapping[str, Any]) -> str:
    """For each metric, the global model at each site beside the others that were asked for."""
    others = summary.get("own_models")
    if not others:
        return ""
    tables = []
    for metric, mean in summary["metrics"]["global"].items():
        rows: list[Sequence[str]] = [
            (
                site,
                _number(measured.get(metric)),
                *(_number(found["sites"].get(site, {}).get(metric)) for found in others.values()),
            )
            for site, measured in summary["metrics"]["sites"].items()
        ]
        means = (_number(found["mean"].get(metric)) for found in others.values())
        rows.append(("weighted mean", _number(mean), *means))
        tables.append(_table((metric, "global", *others), rows))
    return (
        "<h2>Each site's own model</h2><p>On what the site holds out. Global: the last version; personal: "
        "the site's own, which stays there; alone: trained by the site without the others, by as many "
        "orders; pooled: one training on all examples in one place, by as many steps.</p>"
        f"{''.join(tables)}"
    )


def _faults(summary: Mapping[str, Any]) -> str:
    happened = summary.get("faults")
    if happened is None:
        return "<p>Not counted by the version that wrote these results.</p>"
    if not happened:
        return "<p>None.</p>"
    by_site = faults.site_rows(summary["sites"])
    return _table(faults.COLUMNS, faults.rows(happened)) + (
        f"<p>By site, how often:</p>{_table(faults.SITE_COLUMNS, by_site)}" if by_site else ""
    )


def _events(events: Sequence[Mapping[str, str]]) -> str:
    if not events:
        return "<p>Nothing.</p>"
    columns = ("seconds", "kind", "site", "order", "detail")
    return _table(columns, [[row[column] for column in columns] for row in events[-200:]])


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    body = "".join(
        f"<tr{' class=mean' if row[0] == 'weighted mean' else ''}>"
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in row)
        + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


if __name__ == "__main__":
    try:
        write(Run(folder=Path(sys.argv[1])))
    except FedeltaError as error:
        sys.exit(str(error))
