"""What the commands `fedelta data` do."""

import json
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from tasks import environment
from workers import originals
from workers.catalogue import CATALOGUE, Entry
from workers.data_settings import TARGET_KINDS
from workers.errors import DataError
from workers.lazily import lazily

fetching = lazily("orchestrator.fetching")  # imports what speaks HTTP

COLUMNS = ("name", "examples", "sites", "features", "target", "licence", "here")

console = Console(markup=False, highlight=False, soft_wrap=True)


def list_data(*, as_json: bool) -> None:
    """List the data sets."""
    originals.use(environment.data_folders())
    if as_json:
        print(json.dumps([_facts(name, entry) for name, entry in CATALOGUE.items()], indent=2))
        return
    table = Table(box=None)
    for column in COLUMNS:
        table.add_column(column, no_wrap=column == "name")
    for name, entry in CATALOGUE.items():
        table.add_row(*_row(name, entry))
    console.print(table)


def fetch(name: str) -> None:
    """Download a data set, and say where it is."""
    if name not in CATALOGUE:
        raise DataError(f"{name}: expected one of {', '.join(CATALOGUE)}")
    if not CATALOGUE[name].originals:
        console.print(f"{name} comes with fedelta: there is nothing to fetch")
        return
    for path in fetching.fetch(name).values():
        console.print(f"{path}")


def _row(name: str, entry: Entry) -> tuple[str, ...]:
    examples = f"{entry.num_examples}"
    if entry.num_test:
        examples += f" ({entry.num_test} test)"
    return (
        name,
        examples,
        f"{len(entry.sites)}" if entry.sites else "-",
        " x ".join(f"{length}" for length in entry.shape if length > 1 or len(entry.shape) == 1),
        TARGET_KINDS[name],
        entry.licence,
        _here(name, entry),
    )


def _facts(name: str, entry: Entry) -> dict[str, object]:
    return {"name": name, "target": TARGET_KINDS[name], "here": _here(name, entry), **asdict(entry)}


def _here(name: str, entry: Entry) -> str:
    if not all(originals.find(original) for original in entry.originals):
        return "no"
    try:
        originals.paths(name)
    except DataError:
        return "not as published"
    return "yes"
