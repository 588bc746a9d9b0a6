"""The example of docs/data.md, done as it stands there."""

import os
import re
import shlex
import subprocess

import numpy as np
import pytest

from orchestrator import experiment
from tests.centres import PROGRAM
from tests.conftest import REPOSITORY
from workers import data, model_file
from workers.spec import Spec
from workers.standardization import Preprocessing

HOME = "/home/lakeside"  # where the example says that it is
OTHERWISE = re.compile(r"Had `site.toml` not said .* only `(?P<values>values = .*)`:")

_, _, EXAMPLE = (REPOSITORY / "docs" / "data.md").read_text("utf-8").partition("### An example\n")
EXAMPLE, _, _ = EXAMPLE.partition("**What a site tells.**")


def blocks():
    """Each piece of text before an indented block, and the block."""
    pieces = re.split(r"((?:^(?:    .*)?\n)*^    .*\n)", EXAMPLE, flags=re.MULTILINE)
    for before, block in zip(pieces[::2], pieces[1::2], strict=False):
        yield before, "".join(line[4:] or "\n" for line in block.strip("\n").splitlines(keepends=True))


def save_model(folder):
    """A model of the study's: logit = (age - 70) / 10 + 2 [male] - 1 + (pressure - 140) / 20."""
    written = experiment.read(folder / "study.toml")
    schema = data.schema_of(written.data)
    fill = (70.0, 0.5, 0.5, 140.0)
    preprocessing = Preprocessing(fill=fill, shift=(70.0, 0.0, 0.0, 140.0), scale=(10.0, 1.0, 1.0, 20.0))
    spec = Spec(experiment=written, schema=type(schema)(**{**vars(schema), "preprocessing": preprocessing}))
    weight = np.array([[1.0], [0.0], [2.0], [1.0]], np.float32)
    params = {"weight": weight, "bias": np.array([-1.0], np.float32)}
    model_file.save(folder / "model.safetensors", spec, params, version=100)


def done(command, folder):
    """What the command says, as if the folder were the example's."""
    program, *arguments = shlex.split(command)
    if program == "cat":
        return (folder / arguments[0]).read_text()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FEDELTA_")}
    said = subprocess.run(
        [PROGRAM, *arguments],
        cwd=folder,
        env={**kept, "NO_COLOR": "1", "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return (said.stdout + said.stderr).replace(str(folder), HOME)


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """Does all of it: each command, with what the document says that it says, and what it said."""
    folder = tmp_path_factory.mktemp("lakeside")
    found = []
    for before, block in blocks():
        if otherwise := OTHERWISE.search(before.replace("\n", " ")):
            path = folder / "site.toml"
            right = path.read_text()
            path.write_text(re.sub("^values = .*$", otherwise["values"], right, flags=re.MULTILINE))
        if not block.startswith("$ "):
            (name,) = re.findall(r"`([a-z]+\.[a-z]+)`", before)
            (folder / name).write_text(block + "\n")
            if name == "study.toml":
                save_model(folder)
            continue
        for command, expected in re.findall(r"^\$ (.*)\n((?:[^$\n].*\n?|\n)*)", block + "\n", re.MULTILINE):
            found.append((command, expected.strip("\n"), done(command, folder)))
        if otherwise:
            path.write_text(right)
    return found


def lines(text):
    """Each line, without spaces at its end."""
    return [line.rstrip() for line in text.rstrip("\n").splitlines()]


def test_every_command_of_the_example_says_what_is_written_there(example):
    assert [command.split()[:2] for command, _, _ in example] == [
        *(["fedelta", "check"], ["fedelta", "check"], ["fedelta", "predict"]),
        ["cat", "new.predictions.csv"],
    ]
    for command, expected, said in example:
        assert lines(said) == lines(expected), command


def test_its_predictions_are_those_of_its_model(example):
    rows = [line.split(",") for line in lines(example[-1][2])[1:]]
    logits = [2 - 1, (82.5 - 70) / 10 - 1]
    assert [float(row[3]) for row in rows] == pytest.approx([1 / (1 + np.exp(-x)) for x in logits], rel=1e-5)
