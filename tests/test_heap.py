import subprocess
import sys

import pytest

from tasks import heap

ALLOCATE = """
import resource
import sys
import threading
import numpy as np
from tasks import heap

keeps, count, megabytes = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
if keeps == "keeps":
    heap.keep_freed_memory()

def use():
    arrays = [np.empty(megabytes * 2**18, np.float32) for _ in range(count)]
    for array in arrays:
        array[::1024] = 1.0

def use_in_threads():
    for _ in range(8):
        thread = threading.Thread(target=use)
        thread.start()
        thread.join()

use_in_threads()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
use_in_threads()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(keeps, count, megabytes):
    """Pages that were fetched from the kernel, as a share of those that were used."""
    command = [sys.executable, "-c", ALLOCATE, keeps, str(count), str(megabytes)]
    # NumPy asks for huge pages, where there are any: of these there would be few either way.
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={"NUMPY_MADVISE_HUGEPAGE": "0"}
    )
    return int(done.stdout) / (8 * count * megabytes * 2**20 / 4096)


def test_what_one_thread_has_freed_the_next_one_uses():
    assert faults("keeps", 5, 10) < 0.02
    assert faults("not", 5, 10) > 0.5


def test_what_is_very_large_goes_back_at_once():
    assert faults("keeps", 1, 40) > 0.5


def test_a_c_library_without_such_settings_does_as_it_does(monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    heap.keep_freed_memory()


@pytest.mark.parametrize("module", ["tasks.coordinator", "tasks.site_worker"])
def test_the_processes_that_handle_models_keep_it(module):
    program = f"from tasks import heap; heap.keep_freed_memory = lambda: print('kept'); import {module}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "kept\n"
