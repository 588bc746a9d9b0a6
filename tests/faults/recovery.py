"""How long a run takes to go on after a fault: from its end until the next update that was begun after it."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from tasks.messages import HistoryRow
from tests.faults.study import Injected


def seconds(fault: Injected, rows: Sequence[HistoryRow]) -> float | None:
    """From the fault's end to the commit of the next update of the site that it hit, or else of anybody.

    Only work that was begun after the fault counts, so that a delta which was on its way proves nothing. None
    if nothing is to recover, or the run was over before.
    """
    if fault.is_lasting or fault.over is None:
        return None
    over = fault.over
    later = (row.time - over for row in rows if row.started > over and fault.site in (None, row.site))
    return min(later, default=None)


def table(trials: Iterable[tuple[Sequence[Injected], Sequence[HistoryRow]]]) -> str:
    """Each kind of fault: how often, how often the run was over before, min, median, p95 and max seconds."""
    found: dict[str, list[float | None]] = defaultdict(list)
    for faults, rows in trials:
        for fault in faults:
            if not fault.is_lasting:
                found[fault.name].append(seconds(fault, rows))
    columns = "".join(f" {column:>6}" for column in ("n", "over", "min", "median", "p95", "max"))
    lines = [f"{'seconds until it goes on after':34}{columns}"]
    for name, all_of_them in sorted(found.items()):
        values = sorted(value for value in all_of_them if value is not None)
        shown = "".join(f" {quantile(values, q):6.1f}" for q in (0.0, 0.5, 0.95, 1.0)) if values else ""
        lines.append(f"{name:34} {len(values):6} {len(all_of_them) - len(values):6}{shown}")
    return "\n".join(lines)


def quantile(values: Sequence[float], q: float) -> float:
    """Of sorted values, the smallest that a share of q does not exceed."""
    return values[min(len(values) - 1, int(q * len(values)))]
