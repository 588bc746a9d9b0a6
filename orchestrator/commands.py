"""What the commands of `cli` do."""

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table

from orchestrator import (
    control,
    experiment,
    hosting,
    live,
    results,
    runs,
    summary,
    watching,
)
from orchestrator.runs import Run
from tasks import attendance, environment, progress, site_file
from tasks.app import connect, connect_to, use_broker
from tasks.ledger import Ledger
from workers.errors import NotFound, SettingsError
from workers.lazily import lazily
from workers.models import own

# Loads data sets, which takes a second: meanwhile the processes of a run on this machine start.
submission = lazily("orchestrator.submit")
moving = lazily("orchestrator.moving")
prediction = lazily("orchestrator.prediction")

console = Console(markup=False)
messages = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)

INTERRUPTED = 130


def run(
    file: Path, launched: float, hosted: tuple[Run, subprocess.Popen[bytes]] | None, *, as_json: bool
) -> int:
    """Run the experiment to its end, on this machine if it has a host there; returns the exit code."""
    if hosted is None:
        run, host = _submit(file, launched), None
    else:
        run, host = hosted
        _submit_here(run, host)
    shown = messages if as_json else console
    is_interrupted = False
    with live.view(shown) as show:
        try:
            watching.follow(run, show, host)
        except KeyboardInterrupt:
            shown.print("stopping: the sites score the model as it is (Ctrl-C again: do not wait)")
            if not _stop_and_wait(run, show, host):
                return INTERRUPTED
            is_interrupted = True
    code = _finish(run, as_json)
    return INTERRUPTED if is_interrupted else code


def submit(file: Path, launched: float, *, as_json: bool) -> None:
    """Submit to the sites that are there."""
    claimed = _submit(file, launched)
    _print({"name": claimed.name}, f"{claimed.name} is submitted; see fedelta watch {claimed.name}", as_json)


def watch(name: str, *, as_json: bool) -> int:
    """Show an experiment until it is finished; returns the exit code."""
    run = _open(name)
    with live.view(messages if as_json else console) as show:
        try:
            watching.follow(run, show)
        except KeyboardInterrupt:
            messages.print(f"{name} goes on without you; fedelta watch {name} comes back to it")
            return INTERRUPTED
    return _finish(run, as_json)


def stop(name: str) -> None:
    """Stop an experiment."""
    run = _open(name)
    if run.is_here and not hosting.is_alive(run):
        messages.print(f"{name} does not run")
        return
    if not control.stop(connect(), name):
        messages.print(f"{name} is {progress.read(connect(), name, num_rows=1).head.outcome} already")
        return
    with live.view(messages) as show:
        watching.follow(run, show)
    messages.print(f"stopped, with results in {run.folder}/; fedelta resume {run.name} goes on")


def resume(name: str, *, as_json: bool) -> int:
    """Go on with an experiment, and watch it; returns the exit code."""
    run = _open(name)
    if not run.is_here:
        control.resume(connect(), name)
    elif not hosting.is_alive(run):
        if not run.redis_folder.exists():
            raise NotFound(f"{name} has no state to go on from; run its file again for a new run")
        use_broker(hosting.address(run, hosting.start(run, is_resumed=True)))
    return watch(name, as_json=as_json)


def status(name: str, *, as_json: bool) -> None:
    """Show an experiment once."""
    run = _open(name)
    if not run.is_here or hosting.is_alive(run):
        found = progress.read(connect(), name)
        _print(summary.of(connect(), run, found), live.table(found), as_json)
    elif written := run.summary:
        _print(written, summary.table(written, run), as_json)
    else:
        raise NotFound(f"{name} has no results, and does not run; fedelta resume {name} goes on with it")


def list_runs(*, as_json: bool) -> None:
    """List the runs of this folder and the experiments in the ledger."""
    rows = {run.name: _row(run) for run in runs.every(environment.runs_dir())}
    if environment.has_broker():
        client = connect()
        for name in Ledger(client).names():
            head = progress.read(client, name, num_rows=1).head
            rows[name] = {"name": name, "state": head.outcome or head.phase, "applied": head.applied}
    table = Table(box=None)
    for column in ("name", "state", "applied"):
        table.add_column(column)
    for row in rows.values():
        table.add_row(*("-" if value is None else str(value) for value in row.values()))
    _print(list(rows.values()), table if rows else f"no runs in {environment.runs_dir()}/", as_json)


def report(name: str) -> None:
    """Write results and report again."""
    run = _open(name)
    if not run.is_here or hosting.is_alive(run):
        results.write(connect(), run)
    results.report(run)
    console.print(f"{run.folder}/report.html", highlight=False)


def export(name: str, file: Path, *, as_json: bool) -> None:
    """Write an experiment into a file."""
    found = moving.export(_open(name), file)
    head, size = found.state.head, file.stat().st_size
    told = f"{name} is in {file} ({size:,} bytes), as it is after {head.applied} updates"
    if found.was_running:
        told += "; in the file it is stopped, here it is as it was"
    facts = {"name": name, "file": str(file), "bytes": size, "was_running": found.was_running}
    _print({**facts, "applied": head.applied, "version": head.version}, told, as_json)


def import_(file: Path, *, as_json: bool) -> None:
    """Take in an experiment from a file."""
    found = moving.import_(file)
    name, head = found.name, found.state.head
    told = f"{name} is here, {head.outcome} after {head.applied} updates"
    if head.outcome == "completed":
        told += f"; fedelta report {name} writes its report"
    else:
        told += f"; nothing trains until fedelta resume {name}"
    facts = {"name": name, "outcome": head.outcome, "applied": head.applied, "version": head.version}
    _print(facts, told, as_json)


def predict(
    model: Path,
    file: Path,
    output: Path | None,
    allow_model: str | None,
    site: Path | None,
    dataset: str | None,
) -> None:
    """Write predictions, of a file as a site writes its own; a user's own model may be allowed for them."""
    if dataset is not None and site is None:
        raise SettingsError("--dataset: is one of a site's; say which site.toml by --site")
    if allow_model is not None:
        own.allow([allow_model])
    sources = {} if site is None else site_file.read(site).sources
    if site is not None and not sources:
        raise SettingsError(f"{site}: expected [[datasets]] that say how the file is written, and has none")
    written = output or file.with_suffix(".predictions.csv")
    num_rows = prediction.predict(model, file, written, sources, dataset)
    console.print(f"{num_rows} predictions in {written}", highlight=False)


def _submit_here(run: Run, host: subprocess.Popen[bytes]) -> None:
    """Submit to a run's own processes; if that fails, end them and leave no trace of the run."""
    try:
        use_broker(hosting.address(run, host))
        submission.submit(run)
    except BaseException:
        host.terminate()
        host.wait()
        shutil.rmtree(run.folder)
        raise


def _submit(file: Path, launched: float) -> Run:
    """Claim a name that is free here and in the ledger, and submit under it."""
    written = experiment.read(file)
    while True:
        taken = Ledger(connect()).names()
        claimed = runs.claim(
            environment.runs_dir(),
            file,
            written.name,
            launched=launched,
            is_here=False,
            is_taken=taken.__contains__,
        )
        try:
            is_ours = submission.submit(claimed)
        except BaseException:
            shutil.rmtree(claimed.folder)
            raise
        if is_ours:
            _name_strangers(Ledger(connect()).spec(claimed.name).experiment.sites)
            return claimed
        shutil.rmtree(claimed.folder)  # somebody took the name meanwhile: the next one, then


def _name_strangers(sites: Sequence[str]) -> None:
    """Say which sites nobody has seen: their workers may be still to come, or their names mistyped."""
    seen = attendance.last_seen(connect(), sites)
    if strangers := [site for site in sites if site not in seen]:
        messages.print(
            f"no worker of {', '.join(strangers)} was ever seen: is each name the one that the centre knows?"
        )


def _open(name: str) -> Run:
    """The run of that name, with its Redis in use: its own while it lives here, else that of the broker.

    Raises:
        NotFound: neither this folder nor the ledger has it.
    """
    try:
        run = runs.find(environment.runs_dir(), name)
    except NotFound:
        if not environment.has_broker():
            raise
        Ledger(connect()).spec(name)
        return runs.adopt(environment.runs_dir(), name)
    if run.broker_url:
        use_broker(run.broker_url)
    return run


def _stop_and_wait(run: Run, show: watching.Show, host: subprocess.Popen[bytes] | None) -> bool:
    """Stop the run and wait for its results; False if a second Ctrl-C did not want to wait."""
    try:
        control.stop(connect(), run.name)
        watching.follow(run, show, host)
    except KeyboardInterrupt:
        hosting.end(run)
        return False
    return True


def _finish(run: Run, as_json: bool) -> int:
    """Show what came of the run; returns the exit code."""
    written = run.summary
    if written is None:
        raise NotFound(f"{run.name} has ended without results: {hosting.last_words(run)}")
    _print(written, summary.table(written, run), as_json)
    return 0 if written["outcome"] == "completed" else 1


def _print(data: object, shown: RenderableType, as_json: bool) -> None:
    if as_json:
        print(json.dumps(data, indent=2))
    else:
        console.print(shown, highlight=False)


def _row(run: Run) -> dict[str, Any]:
    """A run in the list."""
    written = run.summary
    if hosting.is_alive(run) and (url := run.broker_url):
        head = progress.read(connect_to(environment.as_ledger_url(url)), run.name, num_rows=1).head
        return {"name": run.name, "state": head.phase, "applied": head.applied}
    return {
        "name": run.name,
        "state": written["outcome"] if written else "no results",
        "applied": written["applied"] if written else None,
    }
