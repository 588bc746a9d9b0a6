"""How an experiment is shown while it runs: a live table on a terminal, plain lines elsewhere."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.watching import Show
from tasks.ledger import PRESENCE
from tasks.messages import HistoryRow
from tasks.progress import Progress, SiteProgress
from workers.spec import Stop

BARS = "▁▂▃▄▅▆▇█"
TREND_LENGTH = 24  # characters
WIDTH = 84  # characters
RATE_SECONDS = 10.0  # over which the updates per second are counted
MISSING_SECONDS = 5.0  # after the start, before anybody is called missing
LINE_SECONDS = 2.0  # between plain lines, if nothing was scored meanwhile


@contextmanager
def view(console: Console) -> Iterator[Show]:
    """Something to show progress with: on a terminal a table that is drawn anew, else one line at a time."""
    if not console.is_terminal:
        yield PlainLines(console)
        return
    with Live(console=console, refresh_per_second=8) as live:
        yield lambda progress: live.update(table(progress))


class PlainLines:
    """A line whenever the model has been scored, or every other second."""

    def __init__(self, console: Console) -> None:
        """Nothing shown yet."""
        self._console = console
        self._last_seconds = float("-inf")
        self._last_version = -1

    def __call__(self, progress: Progress) -> None:
        """Show what is new."""
        scored = progress.head.evaluated if progress.head.evaluated is not None else -1
        is_due = progress.seconds - self._last_seconds >= LINE_SECONDS
        if is_due or scored != self._last_version or progress.head.phase == "finished":
            if (progress.seconds, scored) != (self._last_seconds, self._last_version):
                self._console.print(line(progress), highlight=False, soft_wrap=True)
            self._last_seconds, self._last_version = progress.seconds, scored


def line(progress: Progress) -> str:
    """The progress in one line."""
    head = progress.head
    parts = [f"{progress.seconds:7.1f} s", f"{head.applied} updates", f"version {head.version}"]
    if losses := _losses(progress):
        parts.append(f"loss {losses[-1]:.4f}")
    if progress.metrics:
        scored = progress.metrics[-1]
        shown = [f"{name} {value:.4f}" for name, value in scored.metrics.items() if value is not None]
        parts += [f"{', '.join(shown)} at version {scored.version}{of_sites(progress)}"] if shown else []
    parts.append(f"{_rate(progress):.1f} updates/s")
    if head.refused or head.resent:
        parts.append(f"{head.refused} refused, {head.resent} sent again")
    parts += missing(progress)
    return "  ".join(parts)


def of_sites(progress: Progress) -> str:
    """That the newest scores are not of all sites, whose mean would be another; nothing if they are."""
    scored, num_sites = progress.metrics[-1:], len(progress.sites)
    if not scored or scored[0].num_sites >= num_sites:
        return ""
    return f" (mean over {scored[0].num_sites} of {num_sites} sites)"


def table(progress: Progress) -> RenderableType:
    """The progress as a panel: the goal, the trends, a row per site."""
    head, experiment = progress.head, progress.spec.experiment
    summary = Table.grid(padding=(0, 2))
    summary.add_row("phase", Text(_phase(progress), style="bold"))
    for label, done, goal in goals(progress):
        bar = ProgressBar(total=goal, completed=min(done, goal), width=32)
        summary.add_row(label, bar, f"{done:g} of {goal:g}")
    summary.add_row("updates", f"{head.applied}", f"{_rate(progress):.1f} per second")
    if losses := _losses(progress):
        summary.add_row("training loss", f"{losses[-1]:.4f}", trend(losses))
    for name in progress.metrics[-1].metrics if progress.metrics else ():
        values = [value for row in progress.metrics if (value := row.metrics.get(name)) is not None]
        if values:
            style = "bold" if name == experiment.watched_metric else ""
            summary.add_row(Text(name, style=style), Text(f"{values[-1]:.4f}", style=style), trend(values))
    if partial := of_sites(progress):
        summary.add_row("scores", Text(partial.strip(" ()"), style="red"))
    summary.add_row("refused", f"{head.refused}", f"{head.resent} sent again")
    for text in missing(progress):
        summary.add_row(Text("missing", style="red"), Text(text, style="red"))
    title = f"{progress.name}  {experiment.strategy.kind}  {progress.seconds:.1f} s"
    return Panel(Group(summary, "", sites_table(progress)), title=title, width=WIDTH)


def missing(progress: Progress) -> list[str]:
    """Who must be there for the experiment to go on, and is not."""
    if progress.head.phase == "finished" or progress.seconds < MISSING_SECONDS:
        return []
    absent = [s.name for s in progress.sites if site_state(progress, s) in ("not there", "gone")]
    shown = ", ".join(absent[:5]) + (f" and {len(absent) - 5} more" if len(absent) > 5 else "")
    return ["no coordinator"] * (not progress.has_coordinator) + [f"no worker of {shown}"] * bool(absent)


def sites_table(progress: Progress) -> Table:
    """A row per site."""
    sites = Table(box=None, padding=(0, 2))
    for name in ("site", "state", "updates", "staleness", "last seen"):
        sites.add_column(name, justify="right" if name in ("updates", "staleness") else "left")
    last_update = {row.site: row.time for row in progress.history}
    for site in progress.sites:
        last = max(site.seen or 0.0, last_update.get(site.name, 0.0))
        seen = f"{max(0.0, progress.now - last):.0f} s ago" if last else "never"
        state = site_state(progress, site)
        style = {"training": "green", "gone": "red", "dropped": "red"}.get(state, "")
        record = site.record
        sites.add_row(site.name, Text(state, style=style), f"{record.updates}", f"{record.staleness}", seen)
    return sites


def site_state(progress: Progress, site: SiteProgress) -> str:
    """What the site is doing, in a word."""
    if site.record.is_dropped:
        return "dropped"
    if site.seen is None or progress.now - site.seen > PRESENCE:
        return "not there" if site.seen is None else "gone"
    if site.is_training:
        return "training"
    return "ordered" if site.record.base_version is not None else "waiting"


def goals(progress: Progress) -> list[tuple[str, float, float]]:
    """What the stop conditions count: name, done, goal."""
    stop: Stop = progress.spec.experiment.stop
    counted = [
        ("of the updates", float(progress.head.applied), stop.updates),
        ("of the versions", float(progress.head.version), stop.versions),
        ("of the seconds", round(progress.seconds, 1), stop.seconds),
        ("of the patience", float(progress.head.evaluations_since_best), stop.patience),
    ]
    return [(name, done, float(goal)) for name, done, goal in counted if goal]


def trend(values: Sequence[float]) -> str:
    """The newest values as little bars, the lowest of them the lowest bar."""
    newest = values[-TREND_LENGTH:]
    low, high = min(newest), max(newest)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((value - low) * scale)] for value in newest)


def _phase(progress: Progress) -> str:
    head = progress.head
    return f"{head.phase}: {head.reason}" if head.reason else head.phase


def _rate(progress: Progress) -> float:
    """Updates per second over the newest seconds in which there were any."""
    newest = [row for row in progress.history if row.time > progress.history[-1].time - RATE_SECONDS]
    seconds = newest[-1].time - newest[0].time if newest else 0.0
    return (len(newest) - 1) / seconds if seconds > 0 else 0.0


def _losses(progress: Progress) -> list[float]:
    """After each of the newest updates: every site's latest training loss, weighted by its examples."""
    latest: dict[str, HistoryRow] = {}
    means = []
    for row in progress.history:
        latest[row.site] = row
        num_examples = sum(other.num_examples for other in latest.values())
        means.append(sum(other.loss * other.num_examples for other in latest.values()) / num_examples)
    return means
