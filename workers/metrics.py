"""Metrics by kind of target, which way is better, and their mean over sites; `scoring` measures them."""

from collections.abc import Iterable, Mapping
from typing import Literal, TypeAlias

from workers.models import TargetKind

MetricName: TypeAlias = Literal["accuracy", "auroc", "c_index", "log_loss", "mse", "r2"]
Metrics: TypeAlias = dict[str, float | None]  # None: not defined on these examples (AUROC of a single class)

METRICS: Mapping[TargetKind, tuple[MetricName, ...]] = {  # the first is the one that is watched
    "binary": ("auroc", "accuracy", "log_loss"),
    "multiclass": ("accuracy", "log_loss"),
    "regression": ("mse", "r2"),
    "survival": ("c_index",),
}
LOWER_IS_BETTER: frozenset[MetricName] = frozenset({"log_loss", "mse"})


def is_better(metric: MetricName, value: float, than: float) -> bool:
    """Whether the first value is the better one."""
    return value < than if metric in LOWER_IS_BETTER else value > than


def weighted_mean(measured: Iterable[tuple[int, Mapping[str, float | None]]]) -> Metrics:
    """Mean over sites of (number of examples, metrics), weighted by examples.

    A site where a metric is not defined has no part in that metric's mean.
    """
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    names: list[str] = []
    for num_examples, metrics in measured:
        for name, value in metrics.items():
            names.append(name)
            if value is not None:
                sums[name] = sums.get(name, 0.0) + num_examples * value
                counts[name] = counts.get(name, 0) + num_examples
    return {name: sums[name] / counts[name] if name in counts else None for name in dict.fromkeys(names)}
