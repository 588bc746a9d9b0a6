"""What compressing a leaf of ten million values costs, and what it loses, for each kind.

Times are processor time, the least of several, as ratios to a copy of the leaf's 40 MB in the same run: so
they mean something on a busy machine, too. `--json FILE` writes the numbers.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.learning import study
from tasks import environment
from workers import client_update, compression, datasets, originals
from workers.compression import BFloat16, Compressed, Compression, Float16, Int2, Int3, Int4, Int8, TopK
from workers.data import Examples
from workers.models import ConvolutionalNetwork
from workers.optimizers import Adam
from workers.params import Params
from workers.spec import LocalTraining

NUM_VALUES = 10_000_000
NUM_UPDATES = 10  # of the real delta, whose mean error is looked at

KINDS: dict[str, Compression] = {
    "bfloat16": BFloat16(),
    "float16": Float16(),
    "int8": Int8(),
    "int8, rotated": Int8(rotation=True),
    "int4": Int4(),
    "int4, rotated": Int4(rotation=True),
    "int3": Int3(),
    "int2": Int2(),
    "int2, rotated": Int2(rotation=True),
    "top-k 1 %": TopK(fraction=0.01),
    "top-k 10 %": TopK(fraction=0.1),
}
COLUMNS = {
    "bytes": "bytes, of float32's",
    "encode": "encode",
    "decode": "decode",
    "add": "decode and add",
    "normal": "error, normal values",
    "real_bytes": "bytes, real delta",
    "real": "error, real delta",
    "mean": f"mean of {NUM_UPDATES}",
}


def seconds(work: Callable[[], object], repetitions: int = 5) -> float:
    """Processor time of the fastest repetition."""
    taken = []
    for _ in range(repetitions):
        begun = time.process_time()
        work()
        taken.append(time.process_time() - begun)
    return min(taken)


def speed(kind: Compression, leaf: np.ndarray, buffer: np.ndarray) -> dict[str, float]:
    data = compression.encode(kind, leaf, 1)
    decoded = compression.decode(kind, data, leaf.shape, 1)
    copy = seconds(lambda: np.copyto(buffer, leaf), 20)
    return {
        "bytes": len(data) / leaf.nbytes,
        "encode": seconds(lambda: compression.encode(kind, leaf, 1)) / copy,
        "decode": seconds(lambda: compression.decode(kind, data, leaf.shape, 1)) / copy,
        "add": seconds(lambda: Compressed(kind, data, leaf.shape, 1).add_to(buffer, 0.5)) / copy,
        "normal": float(np.linalg.norm(decoded - leaf) / np.linalg.norm(leaf)),
    }


def real_delta() -> Params:
    """What a site sends: an epoch of the small CNN on BreastMNIST's training images."""
    originals.use(environment.data_folders())
    images = datasets.load("breastmnist", 0)
    chosen = np.flatnonzero(~images.is_test)
    model = ConvolutionalNetwork()
    return client_update.train(
        model.init(np.random.default_rng(0), images.features.shape[1:], 1),
        Examples(features=images.features[chosen], targets=images.targets[chosen].astype(np.float32)),
        model=model,
        target_kind="binary",
        training=LocalTraining(optimizer=Adam(learning_rate=0.003), batch_size=16, epochs=1),
        seed=0,
    ).delta


def losses(kind: Compression, delta: Params) -> dict[str, float]:
    """Relative L2 errors over all leaves: of one update, and of the mean of several that are the same.

    Those have seeds of their own, and feedback where the kind needs it.
    """
    exact = np.concatenate([leaf.ravel() for leaf in delta.values()]).astype(np.float64)
    residuals = {path: np.zeros_like(leaf) for path, leaf in delta.items()}
    decoded = np.zeros((NUM_UPDATES, exact.size))
    for update in range(NUM_UPDATES):
        leaves = []
        for place, (path, leaf) in enumerate(delta.items()):
            seed = update * len(delta) + place
            whole = leaf + residuals[path]
            sent = compression.decode(kind, compression.encode(kind, whole, seed), leaf.shape, seed)
            residuals[path] = whole - sent if kind.needs_feedback else residuals[path]
            leaves.append(sent.ravel())
        decoded[update] = np.concatenate(leaves)
    num_bytes = sum(compression.num_bytes(kind, leaf.shape) for leaf in delta.values())
    return {
        "real_bytes": num_bytes / (4 * exact.size),
        "real": float(np.linalg.norm(decoded[0] - exact) / np.linalg.norm(exact)),
        "mean": float(np.linalg.norm(decoded.mean(axis=0) - exact) / np.linalg.norm(exact)),
    }


def main() -> None:
    """Measure all kinds, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE")
    file = parser.parse_args().json
    leaf = np.random.default_rng(0).standard_normal(NUM_VALUES, np.float32)
    buffer, delta = np.zeros_like(leaf), real_delta()
    found: dict[str, dict[str, Any]] = {
        name: speed(kind, leaf, buffer) | losses(kind, delta) for name, kind in KINDS.items()
    }
    rows = ((name, *(f"{numbers[column]:.3g}" for column in COLUMNS)) for name, numbers in found.items())
    print(study.table(("", *COLUMNS.values()), rows))
    if file:
        file.write_text(json.dumps(found, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
