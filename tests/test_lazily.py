import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from orchestrator import experiment
from workers.lazily import lazily

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


def test_asked_for_twice_it_is_executed_once(slow, tmp_path):
    first, second = lazily(slow), lazily(slow)
    assert executions(tmp_path) == []
    assert (first.ANSWER, second.ANSWER) == (42, 42)
    assert executions(tmp_path) == [slow]


def test_an_ordinary_import_afterwards_gives_the_same_module(slow, tmp_path):
    module = lazily(slow)
    assert __import__(slow).ANSWER == module.ANSWER == 42
    assert executions(tmp_path) == [slow]


def test_threads_that_use_it_at_once_all_see_the_whole_module(slow, tmp_path):
    with (tmp_path / f"{slow}.py").open("a") as file:
        file.write("import time; time.sleep(0.2)\nLAST = 43\n")
    module = lazily(slow)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: module.LAST, range(4))) == [43] * 4
    assert executions(tmp_path) == [slow]


def test_nothing_of_the_package_around_it_is_imported_before(slow, tmp_path):
    package = tmp_path / f"{slow}_package"
    package.mkdir()
    (package / "__init__.py").write_text(SOURCE)
    (package / "inner.py").write_text(SOURCE)
    module = lazily(f"{package.name}.inner")
    assert not (package / "executed").exists()
    assert module.ANSWER == 42
    assert (package / "executed").read_text().splitlines() == [package.name, f"{package.name}.inner"]


def test_a_module_that_is_imported_already_is_given_as_it_is():
    assert lazily("orchestrator.experiment") is experiment


def test_a_mistake_in_the_module_shows_on_its_first_use(slow, tmp_path):
    (tmp_path / f"{slow}.py").write_text("raise OSError('no such disk')")
    module = lazily(slow)
    with pytest.raises(OSError, match="no such disk"):
        module.ANSWER  # noqa: B018  # to look is to execute


def test_a_worker_and_the_command_line_begin_a_first_trial_without_scikit_learn():
    """To import it takes longer than all else that is done until the first update."""
    begun = "import tasks.site_worker, orchestrator.submit; from workers import datasets"
    look = "datasets.load('breast-cancer', 0); import sys; print('sklearn' in sys.modules)"
    shown = subprocess.run(
        [sys.executable, "-c", f"{begun}; {look}"], capture_output=True, text=True, check=True
    )
    assert shown.stdout == "False\n"
