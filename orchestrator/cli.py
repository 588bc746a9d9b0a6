"""The command line: every command, its arguments and its help; `commands` does what they say.

Exit codes:
    0    done
    1    the run failed, or was stopped before its end
    2    the command or the experiment file is wrong; nothing was started
    3    a server or a process that is needed does not answer
    4    there is no experiment or run of that name
    130  Ctrl-C: the run was stopped (`run`), or goes on (`watch`)
"""

import sys
import time
import traceback
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.lazily import lazily
from tasks import environment
from workers.errors import DataError, ExperimentError, FedeltaError, NotFound, Unavailable

LAUNCHED = time.time()

EXIT_CODES = {ExperimentError: 2, DataError: 2, Unavailable: 3, NotFound: 4}


# `fedelta --help` must not wait for Redis and pydantic.
commands = lazily("orchestrator.commands")
hosting = lazily("orchestrator.hosting")

app = typer.Typer(
    help="Asynchronous federated learning across hospitals.",
    epilog="Exit codes: 0 done, 1 failed or stopped, 2 wrong command or file, 3 no answer, 4 not found.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

File = Annotated[Path, typer.Argument(help="The experiment file (TOML).", show_default=False)]
Name = Annotated[str, typer.Argument(help="The run's name.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for a script to read.")]


@app.callback()
def options(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.")] = False,
) -> None:
    """Asynchronous federated learning across hospitals."""
    context.obj = debug


@app.command()
def run(file: File, json: Json = False) -> None:
    """Train as the file says, show how it goes, write the results to runs/<name>/.

    Without FEDELTA_BROKER_URL everything runs on this machine: a private Redis, a coordinator, and one worker
    for all sites. With it, the experiment goes to the sites whose workers are there. Ctrl-C stops the run; it
    does not need the terminal, and goes on if this command is killed: `watch` comes back to it.
    """
    # The processes of a run on this machine start while the rest of the command line is loaded.
    hosted = None if environment.has_broker() else hosting.launch(file, LAUNCHED)
    raise typer.Exit(commands.run(file, LAUNCHED, hosted, as_json=json))


@app.command()
def submit(file: File, json: Json = False) -> None:
    """Submit an experiment to the sites and return at once; `watch` shows how it goes."""
    commands.submit(file, LAUNCHED, as_json=json)


@app.command(name="list")
def list_runs(json: Json = False) -> None:
    """List the runs of this folder and the experiments in the ledger."""
    commands.list_runs(as_json=json)


@app.command()
def status(name: Name, json: Json = False) -> None:
    """Show how far an experiment is, once."""
    commands.status(name, as_json=json)


@app.command()
def watch(name: Name, json: Json = False) -> None:
    """Show how an experiment goes until it is finished. Ctrl-C leaves it running.

    The processes of a run on this machine are started again if they were killed.
    """
    raise typer.Exit(commands.watch(name, as_json=json))


@app.command()
def stop(name: Name) -> None:
    """Give no more orders; the sites score the last version, and the results are written."""
    commands.stop(name)


@app.command()
def resume(name: Name, json: Json = False) -> None:
    """Go on with an experiment that was stopped, or whose processes are gone, and watch it."""
    raise typer.Exit(commands.resume(name, as_json=json))


@app.command()
def report(name: Name) -> None:
    """Write a run's results, report and pictures again, as they are now."""
    commands.report(name)


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="runs/<name>/model.safetensors", show_default=False)],
    file: Annotated[Path, typer.Argument(help="A CSV file with the model's features.", show_default=False)],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to write; by default <file>.predictions.csv.")
    ] = None,
) -> None:
    """Write a model's predictions for the rows of a CSV file."""
    commands.predict(model, file, output)


@app.command()
def worker(
    site: Annotated[list[str], typer.Option("--site", help="A site's name; may be given again.")],
) -> None:
    """Start the worker of a site: it trains on the site's examples, and never sends them."""
    commands.worker(site)


@app.command()
def coordinator() -> None:
    """Start the coordinator: it folds updates into the model and gives the next orders."""
    commands.coordinator()


def main() -> None:
    """The `fedelta` command: an error is one message and an exit code."""
    try:
        app()
    except FedeltaError as error:
        if "--debug" in sys.argv:
            traceback.print_exc()
        print(f"fedelta: {error}", file=sys.stderr)
        sys.exit(EXIT_CODES.get(type(error), 1))
