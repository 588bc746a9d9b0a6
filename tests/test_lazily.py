import sys

import pytest

from orchestrator import experiment
from orchestrator.lazily import lazily

SOURCE = """
from pathlib import Path
with open(Path(__file__).with_name("executed"), "a") as file:
    file.write(__name__ + "\\n")
ANSWER = 42
"""


@pytest.fixture
def slow(tmp_path, monkeypatch):
    """The name of a module that leaves a trace where it is executed."""
    name = f"slow_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    sys.modules.pop(name, None)


def executions(tmp_path):
    trace = tmp_path / "executed"
    return trace.read_text().splitlines() if trace.exists() else []


def test_a_module_is_not_executed_until_its_first_use(slow, tmp_path):
    module = lazily(slow)
    assert executions(tmp_path) == []
    assert module.ANSWER == 42
    assert executions(tmp_path) == [slow]
    assert module.ANSWER == 42
    assert executions(tmp_path) == [slow]


def test_asked_for_twice_it_is_one_module_executed_once(slow, tmp_path):
    first, second = lazily(slow), lazily(slow)
    assert first is second
    assert executions(tmp_path) == []
    assert (first.ANSWER, second.ANSWER) == (42, 42)
    assert executions(tmp_path) == [slow]


def test_an_ordinary_import_afterwards_gives_the_same_module(slow, tmp_path):
    module = lazily(slow)
    assert __import__(slow) is module
    assert module.ANSWER == 42
    assert executions(tmp_path) == [slow]


def test_a_module_that_is_imported_already_is_given_as_it_is():
    assert lazily("orchestrator.experiment") is experiment


def test_a_mistake_in_the_module_shows_on_its_first_use(slow, tmp_path):
    (tmp_path / f"{slow}.py").write_text("raise OSError('no such disk')")
    module = lazily(slow)
    with pytest.raises(OSError, match="no such disk"):
        module.ANSWER  # noqa: B018  # to look is to execute
