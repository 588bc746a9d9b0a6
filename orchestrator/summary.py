"""A run in one page: as data, and as people read it."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, Literal

import redis
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator import faults, roster
from orchestrator.runs import Run
from tasks import progress
from tasks.messages import EvaluationRow
from tasks.progress import Progress
from workers.compression import Compression
from workers.metrics import METRICS, Metrics, weighted_mean
from workers.spec import Differences


def of(client: redis.Redis, run: Run, found: Progress) -> dict[str, Any]:
    """The run in one page: what it was, how it ended, what it counted, what it reached."""
    head, experiment = found.head, found.spec.experiment
    final = {site.name: row for site in found.sites if (row := _last_row(client, found, site.name))}
    happened = faults.of(found, list(progress.events(client, run.name)))
    launched = run.launched or head.started
    return {
        "name": run.name,
        "strategy": experiment.strategy.kind,
        "outcome": head.outcome or head.phase,
        "reason": head.reason or roster.preparation(found),
        "hospitals": _hospitals(found, run),
        "applied": head.applied,
        "versions": head.version,
        "refused": head.refused,
        "resent": head.resent,
        "seconds": round(found.seconds, 3),
        "first_update_seconds": head.first_update and round(head.first_update - launched, 3),
        "updates_per_second": round(head.applied / found.seconds, 3) if found.seconds else None,
        "bytes_up": head.bytes_up,
        "bytes_down": head.bytes_down,
        "compression": {
            "up": named(experiment.compression.up),
            "down": named(experiment.compression.down),
        },
        "faults": {kind: asdict(fault) for kind, fault in happened.items()},
        "watched_metric": experiment.watched_metric,
        "metrics": {
            "global": found.metrics[-1].metrics if found.metrics else {},
            "sites": {name: _of_global(found, row) for name, row in final.items()},
        },
        "own_models": _own_models(found, final, run),
        "sites": {
            site.name: {
                "updates": site.record.updates,
                "absences": site.record.absences,
                "resent": site.record.resent,
                "refused": site.record.refused,
                "is_dropped": site.record.is_dropped,
                "held_out_examples": final[site.name].num_examples if site.name in final else None,
            }
            for site in found.sites
        },
    }


def _hospitals(found: Progress, run: Run) -> dict[str, int] | None:
    """How many of a trial's table take part, where these are all with enough examples."""
    if run.num_hospitals is None:
        return None
    data = found.spec.experiment.data
    return {"taking_part": len(found.sites), "all": run.num_hospitals, "min_examples": data.min_examples}


def _last_row(client: redis.Redis, found: Progress, site: str) -> EvaluationRow | None:
    """What the site has measured of the last version, and of the models that stand beside it, in one row."""
    rows = [
        row for row in progress.evaluations(client, found.name, site) if row.version == found.head.version
    ]
    if not rows:
        return None
    merged = {name: value for row in rows for name, value in row.metrics.items()}
    return replace(rows[-1], metrics=merged)


def _of_global(found: Progress, row: EvaluationRow) -> Metrics:
    return {name: row.metrics.get(name) for name in METRICS[found.spec.schema.target_kind]}


def _own_models(found: Progress, final: Mapping[str, EvaluationRow], run: Run) -> dict[str, Any]:
    """By model that stands beside the global one: its metrics at each site, and their weighted mean."""
    names = METRICS[found.spec.schema.target_kind]
    pooled = run.pooled or {}
    models = {}
    for model in found.spec.experiment.compared:
        measured: dict[str, Metrics] = {
            site: pooled[site]
            if model == "pooled"
            else {name: row.metrics.get(f"{model} {name}") for name in names}
            for site, row in final.items()
            if (site in pooled if model == "pooled" else f"{model} {names[0]}" in row.metrics)
        }
        mean = weighted_mean((final[site].num_examples, metrics) for site, metrics in measured.items())
        models[model] = {"mean": mean, "sites": measured}
    return models


def named(compression: Compression | Differences | None) -> str | None:
    """As what something is written, in words; None if it is as it is."""
    if isinstance(compression, Differences):
        return f"{compression.kind} in {compression.coding.kind}"
    return None if compression is None else compression.kind


def traffic(found: Mapping[str, Any], direction: Literal["up", "down"]) -> str:
    """Bytes from the sites or to them: in all, for an update, and as what they are written."""
    num_bytes, told = found[f"bytes_{direction}"], []
    if found["applied"]:
        told.append(f"{num_bytes / found['applied']:,.0f} an update")
    if kind := found.get("compression", {}).get(direction):  # a summary of an older version has none
        told.append(f"as {kind}")
    return f"{num_bytes:,}" + (f" ({', '.join(told)})" if told else "")


def table(found: Mapping[str, Any], run: Run) -> RenderableType:
    """What came of a run: how it ended, and a row of metrics per site."""
    metrics = Table(box=None, padding=(0, 2))
    names = list(found["metrics"]["global"])
    for column in ("", "updates", "held out", *names):
        metrics.add_column(column, justify="left" if not column else "right")
    for site, facts in found["sites"].items():
        measured = found["metrics"]["sites"].get(site, {})
        values = [_shown(measured.get(name)) for name in names]
        metrics.add_row(site, str(facts["updates"]), str(facts["held_out_examples"] or "-"), *values)
    means = [_shown(found["metrics"]["global"][name]) for name in names]
    metrics.add_row("weighted mean", str(found["applied"]), "", *means, style="bold")
    outline = (
        f"{found['name']} {found['outcome']}: {found['reason']}\n"
        f"{found['applied']} updates and {found['versions']} versions in {found['seconds']:.1f} s\n"
        f"first update {_shown(found['first_update_seconds'])} s after the command\n"
        f"bytes from the sites {traffic(found, 'up')}, to them {traffic(found, 'down')}"
    )
    if hospitals := found.get("hospitals"):  # a summary of an older version has none
        outline += (
            f"\n{hospitals['taking_part']} of {hospitals['all']} hospitals of the table take part: "
            f"those with at least {hospitals['min_examples']} examples (min_examples)"
        )
    if idle := [site for site, facts in found["sites"].items() if not facts["updates"]]:
        outline += f"\nno update of {', '.join(idle)} is in the model"
    how = f"fedelta resume {found['name']} goes on" if found["outcome"] in ("stopped", "failed") else ""
    own = _own_models_table(found)
    return Group(outline, *_faults(found), "", metrics, *own, "", f"report: {run.folder}/report.html", how)


def _own_models_table(found: Mapping[str, Any]) -> list[RenderableType]:
    """The watched metric at each site, of the global model and of those that stand beside it, if any."""
    others = found.get("own_models")  # a summary of an older version has none
    if not others:
        return []
    watched = found["watched_metric"]
    shown = Table(box=None, padding=(0, 2))
    for column in (watched, "global", *others):
        shown.add_column(column, justify="left" if column == watched else "right")
    for site, measured in found["metrics"]["sites"].items():
        values = [
            measured.get(watched),
            *(model["sites"].get(site, {}).get(watched) for model in others.values()),
        ]
        shown.add_row(site, *map(_shown, values))
    means = [
        found["metrics"]["global"].get(watched),
        *(model["mean"].get(watched) for model in others.values()),
    ]
    shown.add_row("weighted mean", *map(_shown, means), style="bold")
    return ["", shown]


def _faults(found: Mapping[str, Any]) -> list[RenderableType]:
    """What went wrong: a row for each kind, or that there is none."""
    rows = faults.rows(found.get("faults", {}))  # a summary of an older version has none
    if not rows:
        return [f"{found['refused']} updates refused, {found['resent']} orders sent again"]
    happened = Table(box=None, padding=(0, 2))
    for column in faults.COLUMNS:
        happened.add_column(column, justify="left" if column in ("", "sites") else "right")
    for row in rows:
        happened.add_row(*map(Text, row))
    return ["", happened]


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
