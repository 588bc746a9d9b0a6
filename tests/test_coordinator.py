import subprocess
import sys

IMPORTED = "import sys, {}; print(*sorted(set(sys.modules) & {{'jax', 'optax', 'sklearn', 'matplotlib'}}))"


def heavy_imports_of(module):
    code = IMPORTED.format(module)
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()


def test_the_coordinator_needs_no_jax_and_no_scikit_learn():
    assert heavy_imports_of("tasks.coordinator") == []


def test_the_host_of_a_run_starts_its_processes_before_it_loads_anything_large():
    assert heavy_imports_of("orchestrator.embedded") == []
    code = (
        "import sys, orchestrator.embedded; print(*sorted(set(sys.modules) & {'celery', 'redis', 'numpy'}))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.split() == []
