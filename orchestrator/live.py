"""How an experiment is shown while it runs: a live table on a terminal, plain lines elsewhere."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator import faults, roster
from orchestrator.clock import Clock
from orchestrator.watching import Show
from tasks.messages import Event, HistoryRow
from tasks.progress import Progress
from tasks.state import Head
from workers.spec import Stop

BARS = "▁▂▃▄▅▆▇█"
TREND_LENGTH = 24  # characters
WIDTH = 84  # characters
RATE_SECONDS = 10.0  # over which the updates per second are counted
NUM_FAULTS = 5  # of the newest, below the sites
MAX_SITE_WIDTH = 24  # characters, there
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
    """A line whenever the model has been scored, or every other second; and one for each fault."""

    def __init__(self, console: Console) -> None:
        """Nothing shown yet."""
        self._console = console
        self._noted: frozenset[Event] | None = None
        self._last_seconds = float("-inf")
        self._last_version = -1

    def __call__(self, progress: Progress) -> None:
        """Show what is new."""
        self._show_faults(progress)
        scored = progress.head.evaluated if progress.head.evaluated is not None else -1
        # What was described before training began does not count, so then the seconds begin anew.
        is_due = not 0 <= progress.seconds - self._last_seconds < LINE_SECONDS
        if is_due or scored != self._last_version or progress.head.phase == "finished":
            if (progress.seconds, scored) != (self._last_seconds, self._last_version):
                self._print(line(progress))
            self._last_seconds, self._last_version = progress.seconds, scored

    def _show_faults(self, progress: Progress) -> None:
        """Each once; of those that were there at the first look, the newest."""
        noted, clock = faults.noted(progress.events), Clock.of(progress.head, progress.events)
        new = noted[-NUM_FAULTS:] if self._noted is None else [e for e in noted if e not in self._noted]
        for event in new:
            time, site, what = faults.told(event, clock)
            self._print("  ".join(filter(None, (f"{time:>9}", site, what))))
        self._noted = frozenset(noted)

    def _print(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


def line(progress: Progress) -> str:
    """The progress in one line."""
    head = progress.head
    parts = [f"{progress.seconds:7.1f} s"]
    parts += [_phase(progress)] if head.phase == "describing" else _done(progress)
    if head.refused or head.resent or head.absences:
        parts.append(f"{head.refused} refused, {_troubles(head)}")
    parts += roster.missing(progress)
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
    summary.add_row("refused", f"{head.refused}", _troubles(head))
    missing = [Text(f"missing: {text}", style="red") for text in roster.missing(progress)]
    title = f"{progress.name}  {experiment.strategy.kind}  {progress.seconds:.1f} s"
    sites = roster.sites_table(progress)
    return Panel(Group(summary, *missing, "", sites, *newest_faults(progress)), title=title, width=WIDTH)


def newest_faults(progress: Progress) -> list[RenderableType]:
    """The newest faults, the newest last; nothing if there was none."""
    clock = Clock.of(progress.head, progress.events)
    newest = [faults.told(event, clock) for event in faults.noted(progress.events)[-NUM_FAULTS:]]
    width = min(MAX_SITE_WIDTH, max((len(site) for _, site, _ in newest), default=0))
    lines = []
    for time, site, what in newest:
        where = f"{site:<{width}.{width}}  " if site else ""
        lines.append(Text(f"{time:>9}  {where}{what}", overflow="ellipsis", no_wrap=True))
    return ["", Text(" newest faults", style="bold"), *lines] if lines else []


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


def _done(progress: Progress) -> list[str]:
    """What the sites have trained and scored, and how fast."""
    head = progress.head
    parts = [f"{head.applied} updates", f"version {head.version}"]
    if losses := _losses(progress):
        parts.append(f"loss {losses[-1]:.4f}")
    if progress.metrics:
        scored = progress.metrics[-1]
        shown = [f"{name} {value:.4f}" for name, value in scored.metrics.items() if value is not None]
        parts += [f"{', '.join(shown)} at version {scored.version}{of_sites(progress)}"] if shown else []
    return [*parts, f"{_rate(progress):.1f} updates/s"]


def _troubles(head: Head) -> str:
    return f"{head.resent} sent again" + (f", {head.absences} absences" if head.absences else "")


def _phase(progress: Progress) -> str:
    why = progress.head.reason or roster.preparation(progress)
    return f"{progress.head.phase}: {why}" if why else progress.head.phase


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
