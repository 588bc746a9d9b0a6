"""`fedelta check`: what a hospital's data sets hold, and what is wrong with them, for its own screen."""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from orchestrator import experiment
from tasks import site_file
from workers import inventory, sources, tables
from workers.data_settings import Data, Layout
from workers.datasets import Dataset
from workers.errors import DataError, ExperimentError, SettingsError
from workers.inventory import ColumnFacts
from workers.mistakes import Mistake, Mistakes
from workers.source_settings import Source

MAX_COLUMNS = 150  # that are listed one by one; of more, those that are no complete numbers

console = Console(markup=False, highlight=False)


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What was found in one data set."""

    name: str
    format: str
    path: Path
    num_examples: int | None = None
    columns: Sequence[ColumnFacts] = ()
    target: str = ""  # how it is distributed, for a study's layout
    notes: Sequence[str] = ()
    mistakes: Sequence[Mistake] = field(default=())
    num_mistakes: int = 0


def check(file: Path, experiment_file: Path | None, *, as_json: bool) -> bool:
    """Say what is in the data sets of this site.toml; returns whether nothing is wrong.

    Raises:
        SettingsError: the site's file is wrong.
        ExperimentError: the experiment's is, or it does not ask for a data set of this site.
    """
    with _looking():
        found = site_file.read(file)
        study = None if experiment_file is None else experiment.read(experiment_file)
    asked, warnings = None, []
    if study is not None:
        asked = study.data
        _check_asked(asked, file, tuple(found.sources))
        if found.name not in study.sites:
            sites = tables.listed(study.sites)
            warnings.append(f"{found.name} is not among the sites of the experiment, which are {sites}")
    checked = [
        _check(source, asked.layout if asked is not None and asked.dataset == name else None)
        for name, source in found.sources.items()
    ]
    if as_json:
        print(
            json.dumps(
                {"site": found.name, "warnings": warnings, "datasets": [_plain(one) for one in checked]},
                indent=2,
            )
        )
    else:
        _show(found.name, file, checked, warnings)
    return not any(one.num_mistakes for one in checked)


@contextmanager
def _looking() -> Iterator[None]:
    """Reading a file that is only looked at: a mistake in it keeps nothing from being started."""
    try:
        yield
    except (ExperimentError, SettingsError) as error:
        raise type(error)(str(error).replace("nothing was started, because of", "this is wrong:")) from error


def _check_asked(data: Data, file: Path, names: Sequence[str]) -> None:
    if not data.is_at_sites:
        raise ExperimentError(
            f"data: the experiment does not use what sites have, but {data.dataset or data.file}"
        )
    if data.dataset not in names:
        raise ExperimentError(
            f"data.dataset: the experiment asks for {data.dataset}; {file} has {', '.join(names) or 'none'}"
        )


def _check(source: Source, layout: Layout | None) -> Checked:
    """What one data set holds; with a layout, as the study sees it."""
    mistakes = Mistakes(source.name, source.path)
    found = Checked(name=str(source.name), format=source.format, path=source.path)
    try:
        if layout is None:
            held = sources.inventory(source, mistakes)
            found = dataclasses.replace(
                found, num_examples=held.num_examples, columns=held.columns, notes=held.notes
            )
        else:
            examples = sources.read(source, layout, mistakes=mistakes)
            found = dataclasses.replace(
                found,
                num_examples=len(examples),
                columns=_columns(examples),
                target=_target(examples, layout),
                notes=_notes(examples, source),
            )
    except DataError:
        if not mistakes.total:
            raise
        found = dataclasses.replace(found, notes=sources.hints(source))
    return dataclasses.replace(found, mistakes=mistakes.first, num_mistakes=mistakes.total)


def _columns(examples: Dataset) -> list[ColumnFacts]:
    """What the study's features are here; of images, there are none to list."""
    if examples.features.ndim > 2:
        return []
    columns = []
    for name, values in zip(examples.feature_names, examples.features.T, strict=True):
        facts = inventory.of_numbers(name, values)
        if name in examples.categories:
            counts = _counts(values[~np.isnan(values)], examples.categories[name])
            facts = dataclasses.replace(facts, kind="categorical", values=counts)
        columns.append(facts)
    return columns


def _target(examples: Dataset, layout: Layout) -> str:
    """How the target is distributed, in a line."""
    name, targets = layout.target.name, examples.targets
    if examples.classes:
        return f"{name}: {_counts(targets, examples.classes)}"
    if targets.ndim == 1:
        return f"{name}: {inventory.of_numbers(name, targets).values}"
    time = inventory.of_numbers(name, targets[:, 0]).values
    return f"{name}: {targets[:, 1].sum():.0f} events in {len(targets)} examples; time {time}"


def _notes(examples: Dataset, source: Source) -> list[str]:
    num_rows, _ = sources.size(source)
    notes = []
    if num_rows != len(examples):
        notes.append(f"{num_rows - len(examples)} of {num_rows} rows are left out, as the study asks")
    if examples.features.ndim > 2:
        height, width, channels = examples.features.shape[1:]
        notes.append(
            f"images of {height} x {width} pixels, {channels} channels, mean {examples.features.mean():.3f}"
        )
    return notes


def _counts(codes: np.ndarray, names: Sequence[str]) -> str:
    counts = np.bincount(codes.astype(int), minlength=len(names)).tolist()
    total = max(sum(counts), 1)
    return ", ".join(
        f"{name} {count} ({count / total:.0%})" for name, count in zip(names, counts, strict=True)
    )


def _plain(checked: Checked) -> dict[str, object]:
    """As JSON has it."""
    plain = dataclasses.asdict(checked)
    return json.loads(json.dumps(plain, default=str))  # type: ignore[no-any-return]


def _show(site: str, file: Path, checked: Iterable[Checked], warnings: Sequence[str]) -> None:
    console.print(f"site {site}: what follows stays on this screen", style="bold")
    for warning in warnings:
        console.print(warning, style="yellow", soft_wrap=True)
    num_shown = 0
    for one in checked:
        num_shown += 1
        examples = "" if one.num_examples is None else f", {one.num_examples:,} examples"
        console.print(f"\n{one.name}: {one.format}, {one.path}{examples}", style="bold", soft_wrap=True)
        if one.columns:
            console.print(_table(one.columns))
        for line in filter(None, (_left_out(one.columns), one.target, *one.notes)):
            console.print(line, soft_wrap=True)
        for mistake in one.mistakes:
            console.print(str(mistake), style="red", soft_wrap=True)
        told = sum(1 + mistake.others for mistake in one.mistakes)
        if one.num_mistakes > told:
            console.print(f"and {one.num_mistakes - told} more", style="red")
    if not num_shown:
        console.print(f"{file} has no [[datasets]]: docs/data.md says how to write one", soft_wrap=True)


def _table(columns: Sequence[ColumnFacts]) -> Table:
    table = Table(box=None, padding=(0, 2))
    for name in ("column", "kind", "missing", "values"):
        table.add_column(name, justify="right" if name == "missing" else "left", overflow="fold")
    for facts in _listed(columns):
        table.add_row(facts.name, facts.kind, f"{facts.num_missing:,}", facts.values)
    return table


def _listed(columns: Sequence[ColumnFacts]) -> list[ColumnFacts]:
    """The columns that are worth a line each."""
    if len(columns) <= MAX_COLUMNS:
        return list(columns)
    noticed = [facts for facts in columns if facts.kind != "numeric" or facts.num_missing]
    return (noticed or list(columns))[:MAX_COLUMNS]


def _left_out(columns: Sequence[ColumnFacts]) -> str:
    """What all columns are, where not each has its line."""
    if len(columns) <= MAX_COLUMNS:
        return ""
    num_numeric = sum(facts.kind == "numeric" for facts in columns)
    missing = [facts.num_missing for facts in columns if facts.num_missing]
    return (
        f"{len(columns):,} columns, of which {len(_listed(columns))} are listed: {num_numeric:,} numeric, "
        f"{len(columns) - num_numeric:,} categorical; "
        f"{sum(missing):,} values are missing, in {len(missing):,} columns"
    )
