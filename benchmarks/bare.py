"""The limit: an update's bytes moved through the same Redis by a bare client, and one axpy for each."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

import numpy as np
import redis
from scipy.linalg.blas import saxpy

from benchmarks.trial import Trial
from tasks import environment

MODEL = "bare:model"
MIXING_RATE = 0.1
MIN_UPDATES = 5  # in a turn, at least


def delta_key(site: int) -> str:
    """Where a site's delta is."""
    return f"bare:delta:{site}"


@dataclass(frozen=True, kw_only=True)
class Rate:
    """How fast it went."""

    updates_per_second: float
    cpu: float  # ms of processor time for an update, Redis's included; of two processes, without the other


def one_process(real: Trial, num_params: int, seconds: float) -> Rate:
    """One process that plays the sites and the coordinator, one thing after another."""
    num_sites = len(real.sites)
    centre, sites = Centre(real.client, num_params), Sites(real.client, num_params)

    def update(number: int) -> None:
        sites.train(number % num_sites)
        centre.take_in(number % num_sites)

    rate = _timed(real, update, seconds)
    _forget(real.client, num_sites)
    return rate


def two_processes(real: Trial, num_params: int, seconds: float) -> Rate:
    """One process that plays the sites and another that plays the coordinator, at the same time."""
    num_sites, centre = len(real.sites), Centre(real.client, num_params)
    with _other_process(num_params) as (orders, deltas):
        orders.write(bytes(range(num_sites)))
        for _ in range(num_sites):  # the first are not counted
            _take_in(centre, orders, deltas)
        rate = _timed(real, lambda _: _take_in(centre, orders, deltas), seconds)
    _forget(real.client, num_sites)
    return rate


def _timed(real: Trial, update: Callable[[int], None], seconds: float) -> Rate:
    def cpu() -> float:
        return time.process_time() + real.cpu()["redis"]

    num_updates, begun, before = 0, time.perf_counter(), cpu()
    while (passed := time.perf_counter() - begun) < seconds or num_updates < MIN_UPDATES:
        update(num_updates)
        num_updates += 1
    return Rate(updates_per_second=num_updates / passed, cpu=1000 * (cpu() - before) / num_updates)


class Centre:
    """What a coordinator must do with an update."""

    def __init__(self, client: redis.Redis, num_params: int) -> None:
        """Write the first model."""
        self._client, self._params = client, np.zeros(num_params, np.float32)
        client.set(MODEL, _bytes(self._params))

    def take_in(self, site: int) -> None:
        """GET the delta, x <- x + w delta, SET the model."""
        delta = np.frombuffer(self._client.get(delta_key(site)), np.float32)
        self._params = saxpy(delta, self._params, a=MIXING_RATE)
        self._client.set(MODEL, _bytes(self._params))


class Sites:
    """What a site must do with an order."""

    def __init__(self, client: redis.Redis, num_params: int) -> None:
        """Have one delta for all."""
        self._client, self._delta = client, _bytes(np.full(num_params, 1e-3, np.float32))

    def train(self, site: int) -> None:
        """GET the model, SET the delta."""
        np.frombuffer(self._client.get(MODEL), np.float32)
        self._client.set(delta_key(site), self._delta)


def _take_in(centre: Centre, orders: IO[bytes], deltas: IO[bytes]) -> None:
    site = deltas.read(1)
    if not site:
        raise SystemExit("the process that plays the sites has ended")
    centre.take_in(site[0])
    orders.write(site)


@contextmanager
def _other_process(num_params: int) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """A process that plays the sites: it reads orders and says whose delta is there, a byte each."""
    url = environment.ledger_url()
    assert url is not None, "a trial is running"
    command = [sys.executable, "-m", "benchmarks.bare", url, str(num_params)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    assert process.stdin is not None and process.stdout is not None
    try:
        yield process.stdin, process.stdout
    finally:
        process.kill()
        process.communicate()


def _bytes(array: np.ndarray) -> memoryview:
    """Its bytes, uncopied: of a view, redis-py takes the length for the number of bytes."""
    return array.view(np.uint8).data


def _forget(client: redis.Redis, num_sites: int) -> None:
    client.unlink(MODEL, *map(delta_key, range(num_sites)))


if __name__ == "__main__":
    sites = Sites(redis.Redis.from_url(sys.argv[1]), int(sys.argv[2]))
    while order := os.read(0, 1):
        sites.train(order[0])
        os.write(1, order)
