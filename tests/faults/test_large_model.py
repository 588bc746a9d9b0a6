"""A model of 200 million parameters, 800 MB, through real processes: what it comes to, and what it takes."""

import numpy as np

from benchmarks import memory, trial
from benchmarks.trial import NAME
from orchestrator import deployment
from tasks import keys, progress
from workers.strategies import Server, Update

NUM_PARAMS, NUM_SITES, NUM_UPDATES = 200_000_000, 2, 4
SECONDS = 900.0  # for each step, on a busy machine
AT_ONCE = "proto-max-bulk-len"


def test_a_model_of_200_million_parameters_goes_through_and_the_coordinator_takes_three_of_them():
    with trial.trial(NUM_PARAMS, NUM_SITES, strategy={"kind": "fedasync"}) as real:
        (setting,) = [
            line.split()[1]
            for line in deployment.redis_conf("", "", 0, "").splitlines()
            if line.startswith(AT_ONCE)
        ]
        real.client.config_set(AT_ONCE, setting)
        real.client.config_set("appendonly", "no")  # its file would be 8 GB
        real.start_worker()
        real.submit()
        real.wait(lambda: real.num_waiting() == NUM_SITES, "a delta of each site", SECONDS)
        kinds = {real.client.type(keys.delta(NAME, site)) for site in real.sites}
        real.start_coordinator()
        real.wait(lambda: real.applied() >= NUM_UPDATES, f"{NUM_UPDATES} updates", SECONDS)
        real.pause()
        found = progress.read(real.client, NAME)
        kinds.add(real.client.type(keys.model(NAME, found.head.version)))
        params = progress.model(real.client, NAME, found.head.version)
        rows = list(progress.history(real.client, NAME))
        peak_mb = memory.peak_mb(real, "coordinator")
    assert kinds == {b"hash"} and found.head.refused == 0
    expected = replayed(found.spec.experiment.strategy, rows)
    assert sum(leaf.size for leaf in params.values()) == NUM_PARAMS
    for leaf in params.values():  # every number of every leaf is the same
        assert leaf.min() == leaf.max() == expected
    assert peak_mb < memory.ALLOWED_MODELS * 4e-6 * NUM_PARAMS + memory.ALLOWED_MB


def replayed(strategy, rows):
    """One of the model's numbers, from the history and the echo's deltas."""
    server = Server(params={"x": np.zeros(1, np.float32)}, version=0, memory={})
    models = {0: server.params}
    for row in rows:
        delta = {"x": np.full(1, 1e-3 * int(row.site.removeprefix("site")), np.float32)}
        update = Update(
            delta=delta,
            base=models[row.base_version],
            num_examples=row.num_examples,
            staleness=row.staleness,
        )
        server = strategy.fold(server, update)
        models[server.version] = server.params
    return server.params["x"][0]
