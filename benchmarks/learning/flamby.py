"""What the comparisons with FLamby have in common: a learning rate for each strategy, then the real runs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from benchmarks.learning import rehearsal, study
from benchmarks.learning.study import Outcome

Settings: TypeAlias = dict[str, Any]


def settings(
    name: str, sites: Sequence[str], data: Settings, strategy: Settings, orders: int, **more: Any
) -> Settings:
    """The experiment, with so many orders for each site; the first is ten times slower than the others."""
    return {
        "name": name,
        "sites": list(sites),
        "data": {"holdout": "given", **data},
        "strategy": strategy,
        "evaluation": {"every": 1000},
        "stop": {"updates": orders * len(sites)},
        "seconds_per_order": {"default": 0.05, sites[0]: 0.5},
        **more,
    }


def compare(
    section: str,
    metric: str,
    strategies: Mapping[str, Settings],
    rates: Sequence[float],
    make: Callable[..., Settings],
    published: Mapping[str, float],
    personal: Mapping[str, Settings],
) -> None:
    """Choose and run, for each strategy; `make(name, strategy, rate, **more)` gives the settings.

    `personal` names the methods that are tried, too. The section has the mean over sites, as FLamby takes it.
    """
    rows, chosen = [], []

    def add(label: str, found: Sequence[Outcome], model: str = "global") -> None:
        rows.append((f"fedelta, {label}", study.spread(run.mean(metric, model) for run in found)))

    for name, strategy in strategies.items():
        rate, scores = rehearsal.best({rate: make("rehearsal", strategy, rate) for rate in rates}, metric)
        chosen.append((name, f"{rate:g}", ", ".join(f"{scores[rate]:.4f}" for rate in rates)))
        found = study.several(make(name.lower(), strategy, rate, baselines=["alone", "pooled"]))
        add(name, found)
        if len(chosen) == 1:
            add("pooled", found, "pooled")
            add("each site alone", found, "alone")
        for label, method in personal.items():
            found = study.several(make(f"{name.lower()}-own", strategy, rate, personal=method))
            add(f"{name}, {label}", found, "personal")
    rows += [(f"FLamby, {name}", f"{value:.4f}") for name, value in published.items()]
    tried = ", ".join(f"{rate:g}" for rate in rates)
    study.publish(
        section,
        f"{study.table(('', f'mean {metric} of the sites'), rows)}\n\n"
        f"{study.table(('strategy', 'learning rate', f'cross-validated {metric} for {tried}'), chosen)}",
    )
