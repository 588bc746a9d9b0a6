"""What a process does with memory that it has freed."""

import ctypes

# What glibc's <malloc.h> calls M_MMAP_THRESHOLD, M_TRIM_THRESHOLD and M_ARENA_MAX.
MMAP_THRESHOLD, TRIM_THRESHOLD, ARENA_MAX = -3, -1, -8
SETTINGS = {
    MMAP_THRESHOLD: 32 * 2**20,  # bytes of an array from which on its memory goes back at once
    TRIM_THRESHOLD: 64 * 2**20,  # bytes that are kept, at most, at the end of the heap
    ARENA_MAX: 1,  # heaps: what one thread has freed, the next one uses
}


def keep_freed_memory() -> None:
    """Keep some of it for what comes next, from now on; other C libraries than glibc do as they do.

    By default a large model's arrays are given back to the kernel and fetched anew with every update, page by
    page: with ten million parameters a quarter of the processor time of coordinator and worker.
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        for setting, value in SETTINGS.items():
            mallopt(setting, value)
