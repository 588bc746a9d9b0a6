"""Fewer bytes, the same model? Runs with what travels compressed, beside runs without, seed by seed.

A perceptron for the hospitals of the stroke trial, a convolutional network for PneumoniaMNIST's. Logistic
regression on a table is not here: its leaves are too small to be worth compressing, and travel as they are.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.learning import medmnist, stroke, study
from benchmarks.learning.study import Outcome
from tasks import codec, environment, messages
from workers import data, inference, originals, scoring

SEEDS = study.SEEDS[:3]
UNCOMPRESSED = "none"
TOP_K = {"kind": "top-k", "fraction": 0.01}
VARIANTS: dict[str, dict[str, Any]] = {
    UNCOMPRESSED: {},
    "none, again": {},  # with the same seeds: what the order in which updates come changes
    "bfloat16": {"up": {"kind": "bfloat16"}, "down": {"kind": "bfloat16"}},
    "int8": {"up": {"kind": "int8"}, "down": {"kind": "int8"}},
    "int4 up, int8 down": {"up": {"kind": "int4"}, "down": {"kind": "int8"}},
    "int4": {"up": {"kind": "int4"}, "down": {"kind": "int4"}},
    "top-k 1 % up, int8 down": {"up": TOP_K, "down": {"kind": "int8"}},
    "top-k 1 % up, int4 down": {"up": TOP_K, "down": {"kind": "int4"}},
}
COLUMNS = (
    *("", "up and down", "bytes up", "bytes down", "times fewer", "times fewer, as counted"),
    *("AUROC", "difference to none"),
)


def stroke_settings() -> dict[str, Any]:
    """The stroke trial with a hidden layer of 64: 2,113 parameters.

    The learning rate is the best of .01, .03 and .1 in cross-validation within the training examples.
    """
    found = stroke.settings({"kind": "fedbuff", "buffer_size": 10})
    training = {**found["training"], "optimizer": {"name": "sgd", "learning_rate": 0.03}}
    return {**found, "model": {"kind": "mlp", "hidden": [64]}, "training": training}


def pneumonia_settings() -> dict[str, Any]:
    """PneumoniaMNIST, 23,473 parameters, with a ninth of the updates of the section on MedMNIST."""
    found = medmnist.settings("pneumoniamnist", "FedBuff, Adam at the server")
    return {**found, "stop": {"updates": 1600}}


def at_hospitals(run: Outcome) -> float:
    """AUROC, the mean over hospitals, weighted by what they hold out."""
    return run.weighted_mean("auroc")


def everywhere(run: Outcome) -> float:
    """AUROC on what all hospitals hold out together, which is all of the official test images."""
    originals.use(environment.data_folders())
    held_out = [data.load_site(run.spec, site).holdout for site in run.spec.experiment.sites]
    outputs = [inference.outputs(run.spec.model, run.params["global"], part.features) for part in held_out]
    targets = np.concatenate([part.targets for part in held_out])
    return float(scoring.measure("binary", np.concatenate(outputs), targets)["auroc"] or np.nan)


@dataclass(frozen=True, kw_only=True)
class Study:
    """An experiment, and how good what it makes is."""

    name: str
    settings: dict[str, Any]
    auroc: Callable[[Outcome], float]


STUDIES = {
    "pneumoniamnist": Study(name="PneumoniaMNIST", settings=pneumonia_settings(), auroc=everywhere),
    "stroke": Study(name="stroke trial", settings=stroke_settings(), auroc=at_hospitals),
}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a variant's runs sent, and how good their models are, by seed."""

    up: float  # bytes of an update
    down: float  # bytes of a version of the model, which a site alone fetches for an order
    counted_down: float  # bytes fetched for an order in these runs, whose sites share a worker
    aurocs: Sequence[float]

    @classmethod
    def of(cls, runs: Sequence[Outcome], auroc: Callable[[Outcome], float]) -> "Measured":
        """Measure these runs."""
        applied = sum(run.summary["applied"] for run in runs)
        return cls(
            up=sum(run.summary["bytes_up"] for run in runs) / applied,
            down=float(np.mean([version_bytes(run) for run in runs])),
            counted_down=sum(run.summary["bytes_down"] for run in runs) / applied,
            aurocs=[auroc(run) for run in runs],
        )

    def row(self, raw: "Measured") -> tuple[str, ...]:
        """Its part of a row of the table, beside what was measured without compression."""
        return (
            f"{self.up:,.0f}",
            f"{self.down:,.0f}",
            f"{(raw.up + raw.down) / (self.up + self.down):.1f}",
            f"{(raw.up + raw.counted_down) / (self.up + self.counted_down):.1f}",
            study.spread(self.aurocs),
            "" if self is raw else study.spread(np.subtract(self.aurocs, raw.aurocs)),
        )


def version_bytes(run: Outcome) -> int:
    """Bytes of a version of the model in the ledger; they follow from its shapes."""
    coding = messages.coding_of_model(run.spec.experiment, run.summary["versions"])
    return len(codec.encode_tree(run.params["global"], coding))


def main(names: Iterable[str]) -> None:
    """Run all of it, for these studies."""
    rows = []
    for chosen in map(STUDIES.__getitem__, names):
        measured: dict[str, Measured] = {}
        for variant, compression in VARIANTS.items():
            runs = study.several({**chosen.settings, "compression": compression}, SEEDS)
            measured[variant] = Measured.of(runs, chosen.auroc)
            rows.append((chosen.name, variant, *measured[variant].row(measured[UNCOMPRESSED])))
            study.publish("compressed", study.table(COLUMNS, rows))


if __name__ == "__main__":
    main(sys.argv[1:] or STUDIES)
