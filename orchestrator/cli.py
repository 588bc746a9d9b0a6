"""The command line: every command, its arguments and its help; `commands` does what they say.

Exit codes:
    0    done
    1    the run failed, or was stopped before its end; or something is unsafe (`doctor`), or
         examples are not as they should be (`check`)
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

from tasks import environment
from workers.errors import DataError, ExperimentError, FedeltaError, NotFound, SettingsError, Unavailable
from workers.lazily import lazily

LAUNCHED = time.time()

EXIT_CODES = {ExperimentError: 2, SettingsError: 2, DataError: 2, Unavailable: 3, NotFound: 4}


# `fedelta --help` must not wait for Redis and pydantic.
commands = lazily("orchestrator.commands")
hosting = lazily("orchestrator.hosting")
administration = lazily("orchestrator.administration")
checking = lazily("orchestrator.checking")
data_commands = lazily("orchestrator.data_commands")

app = typer.Typer(
    help="Asynchronous federated learning across hospitals.",
    epilog="Exit codes: 0 done, 1 failed or stopped, 2 wrong command or file, 3 no answer, 4 not found.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

data = typer.Typer(help="Data sets that fedelta knows by name.", no_args_is_help=True)
app.add_typer(data, name="data")

# Headings of `fedelta --help`.
PROCESSES, CENTRE = "Processes of a centre and of a hospital", "A centre and its hospitals"

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
def export(
    name: Name,
    file: Annotated[Path, typer.Argument(help="The file to write, such as study.zip.", show_default=False)],
    json: Json = False,
) -> None:
    """Write an experiment, as it is now, into a file that `import` takes in elsewhere.

    In the file are the model, what the strategy remembers, counts, history, metrics, events and scores; no
    order, no credentials and no examples. An experiment that runs goes on here, and is stopped in the file.
    """
    commands.export(name, file, as_json=json)


@app.command(name="import")
def import_(
    file: Annotated[Path, typer.Argument(help="The file that `export` wrote.", show_default=False)],
    json: Json = False,
) -> None:
    """Take in an experiment that `export` wrote; nothing trains until `resume`.

    Without FEDELTA_BROKER_URL it becomes a run on this machine; with it, it goes into the ledger there. What
    is there already is never overwritten, and a damaged file changes nothing.
    """
    commands.import_(file, as_json=json)


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="runs/<name>/model.safetensors", show_default=False)],
    file: Annotated[
        Path, typer.Argument(help="A CSV or Parquet file with the model's features.", show_default=False)
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to write; by default <file>.predictions.csv.")
    ] = None,
    allow_model: Annotated[
        str | None,
        typer.Option(help="package.module:name, where the model is a user's own: it is called here."),
    ] = None,
    site: Annotated[
        Path | None, typer.Option(help="A hospital's site.toml: the file is written as its data sets are.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Which of them; by default the one that the model was trained on.")
    ] = None,
) -> None:
    """Write a model's predictions for the rows of a table, numbered from 1."""
    commands.predict(model, file, output, allow_model, site, dataset)


@data.command(name="list")
def list_data(json: Json = False) -> None:
    """List the data sets, and whether their files are here."""
    data_commands.list_data(as_json=json)


@data.command(name="fetch")
def fetch_data(
    name: Annotated[str, typer.Argument(help="The data set's name, as in `list`.", show_default=False)],
) -> None:
    """Download a data set from its publisher; files that are here already are not downloaded again.

    They go into FEDELTA_CACHE_DIR, and each must have the contents that were published (sha256).
    """
    data_commands.fetch(name)


@app.command(rich_help_panel=PROCESSES)
def worker(
    site: Annotated[
        list[str], typer.Option("--site", help="The site's file (site.toml); in trials a name, or several.")
    ],
) -> None:
    """Start the worker of a site: it trains on the site's examples, and never sends them."""
    administration.worker(site)


@app.command(rich_help_panel=CENTRE)
def check(
    file: Annotated[Path, typer.Argument(help="The hospital's site.toml.", show_default=False)],
    experiment: Annotated[
        Path | None, typer.Option("--experiment", help="The study's file: check what it asks for.")
    ] = None,
    json: Json = False,
) -> None:
    """Say what a hospital's data sets hold, and what is wrong with them, with row and column.

    Nothing leaves this machine. Exit code 1 if anything is wrong.
    """
    raise typer.Exit(0 if checking.check(file, experiment, as_json=json) else 1)


@app.command(rich_help_panel=PROCESSES)
def coordinator(
    beat: Annotated[bool, typer.Option(help="With its clock in it, or with `fedelta beat` apart.")] = True,
) -> None:
    """Start the coordinator: it folds updates into the model and gives the next orders."""
    administration.coordinator(has_own_beat=beat)


@app.command(rich_help_panel=PROCESSES)
def beat() -> None:
    """Start the clock of coordinators that were started with --no-beat."""
    administration.beat()


@app.command(rich_help_panel=PROCESSES)
def flower(
    address: Annotated[str, typer.Option(help="Where its pages are.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Likewise.")] = 5555,
) -> None:
    """Start Flower: workers, queues and tasks in a browser, behind the login in FEDELTA_LOGIN_FILE."""
    administration.flower(address, port)


@app.command(rich_help_panel=CENTRE)
def init_centre(
    folder: Annotated[Path, typer.Argument(help="The centre's folder.", show_default=False)],
    host: Annotated[
        str, typer.Option(help="The name or IP address at which hospitals reach the centre.")
    ] = "localhost",
    port: Annotated[int, typer.Option(help="The port of its Redis there.")] = 6379,
    docker: Annotated[
        bool, typer.Option(help="For docker compose, or for processes of this machine.")
    ] = True,
    keep: Annotated[bool, typer.Option("--keep", help="Be content with a centre that is there.")] = False,
) -> None:
    """Make what a coordinating centre needs: certificates, Redis's settings and users, compose files."""
    administration.init_centre(folder, host, port, uses_docker=docker, keeps=keep)


Centre = Annotated[Path, typer.Option("--centre", help="The centre's folder.")]
RedisUrl = Annotated[
    str | None,
    typer.Option("--redis", help="rediss://<host>:<port>/0, where the centre's Redis is seen from here."),
]
SiteName = Annotated[str, typer.Argument(help="The site's name.", show_default=False)]


@app.command(rich_help_panel=CENTRE)
def add_site(
    name: SiteName,
    centre: Centre = Path(),
    redis: RedisUrl = None,
    renew: Annotated[bool, typer.Option("--renew", help="New credentials for one that is in.")] = False,
) -> None:
    """Let a hospital in, and write the archive that it gets."""
    administration.add_site(centre, name, redis, renews=renew)


@app.command(rich_help_panel=CENTRE)
def renew_centre(centre: Centre = Path()) -> None:
    """Give the centre's own processes new certificates, before the old ones run out."""
    administration.renew(centre)


@app.command(rich_help_panel=CENTRE)
def remove_site(name: SiteName, centre: Centre = Path(), redis: RedisUrl = None) -> None:
    """Let a hospital in no more, from now on, and end its connections."""
    administration.remove_site(centre, name, redis)


@app.command(rich_help_panel=CENTRE)
def doctor(
    centre: Annotated[Path | None, typer.Option("--centre", help="The centre's folder.")] = None,
    site: Annotated[Path | None, typer.Option("--site", help="A hospital's site.toml.")] = None,
    redis: RedisUrl = None,
    json: Json = False,
) -> None:
    """Say what is unsafe: about a centre, a hospital's access, or else the Redis that the environment names.

    Exit code 1 if anything is.
    """
    raise typer.Exit(0 if administration.examine(centre, site, redis, as_json=json) else 1)


def main() -> None:
    """The `fedelta` command: an error is one message and an exit code."""
    try:
        app()
    except Exception as error:
        if "--debug" in sys.argv:
            traceback.print_exc()
        if isinstance(error, FedeltaError):
            print(f"fedelta: {error}", file=sys.stderr)
            sys.exit(EXIT_CODES.get(type(error), 1))
        if _is_of_redis(error):  # it is full, or went away meanwhile
            print(f"fedelta: Redis does not do what it is asked: {error}", file=sys.stderr)
            sys.exit(EXIT_CODES[Unavailable])
        raise


def _is_of_redis(error: Exception) -> bool:
    client = sys.modules.get("redis")  # nobody else can have raised one of its errors
    return client is not None and isinstance(error, client.RedisError)
