"""Fewer bytes, the same model? Runs with what travels compressed, beside runs without, seed by seed.

Perceptrons for the hospitals of heart disease and of the stroke trial, a convolutional network for those of
BreastMNIST. Logistic regression on a table is not here: its leaves are too small to be worth compressing, and
travel as they are.

A site alone fetches one version for each order, so an order's bytes are those of an update and of a version;
the history's bytes down are fewer where sites share a worker, which remembers a large version.
"""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.learning import heart, medmnist, stroke, study
from benchmarks.learning.study import Outcome
from tasks import codec, differences, environment, messages
from tasks.messages import Chain
from workers import data, inference, originals, scoring
from workers.spec import Differences

UNCOMPRESSED = "none"
AGAIN = "none, again"  # with the same seeds: what the order in which updates come changes
INT4 = {"kind": "int4", "block": 1024}
VARIANTS: dict[str, dict[str, Any]] = {
    UNCOMPRESSED: {},
    AGAIN: {},
    "int4": {"up": INT4, "down": INT4},
    "int2 up, int4 down": {"up": {"kind": "int2"}, "down": INT4},
}
# Eight updates make a version and there are eight sites, so a site fetches one difference for most orders.
BREAST_VARIANTS: dict[str, dict[str, Any]] = {
    UNCOMPRESSED: {},
    "int4 up, int3 differences down": {
        "up": {"kind": "int4", "block": 4096},
        "down": {"kind": "differences", "coding": {"kind": "int3", "block": 4096}},
    },
}
COLUMNS = ("up and down", "bytes up", "bytes down", "times fewer", "AUROC", "difference to none")


def heart_settings() -> dict[str, Any]:
    """Heart disease with a hidden layer of 512, 7,681 parameters, in the orders of its own section.

    Learning rate and penalty are the best of several in cross-validation within the training examples.
    """
    found = heart.settings("heart", {"kind": "fedbuff", "buffer_size": 4}, 0.01)
    training = {**found["training"], "l2": 0.3}
    return {**found, "model": {"kind": "mlp", "hidden": [512]}, "training": training}


def stroke_settings() -> dict[str, Any]:
    """The stroke trial with a hidden layer of 128: 4,225 parameters.

    Learning rate and penalty are the best of several in cross-validation within the training examples. At a
    rate of .03 the order in which updates come changes the AUROC by .01, and hides what compression does.
    """
    found = stroke.settings({"kind": "fedbuff", "buffer_size": 10})
    training = {**found["training"], "optimizer": {"name": "sgd", "learning_rate": 0.02}, "l2": 0.3}
    return {**found, "model": {"kind": "mlp", "hidden": [128]}, "training": training}


def breast_settings() -> dict[str, Any]:
    """BreastMNIST, 23,473 parameters, as in the section on MedMNIST."""
    return medmnist.settings("breastmnist", "FedBuff, Adam at the server")


def at_hospitals(run: Outcome) -> float:
    """AUROC, the mean over hospitals, weighted by what they hold out."""
    return run.weighted_mean("auroc")


def everywhere(run: Outcome) -> float:
    """AUROC on what all hospitals hold out together: the official test images, or FLamby's test patients."""
    originals.use(environment.data_folders())
    held_out = [data.load_site(run.spec, site).holdout for site in run.spec.experiment.sites]
    outputs = [inference.outputs(run.spec.model, run.params["global"], part.features) for part in held_out]
    targets = np.concatenate([part.targets for part in held_out])
    return float(scoring.measure("binary", np.concatenate(outputs), targets)["auroc"] or np.nan)


@dataclass(frozen=True, kw_only=True)
class Study:
    """An experiment, and how good what it makes is."""

    settings: dict[str, Any]
    auroc: Callable[[Outcome], float]
    variants: Mapping[str, dict[str, Any]]


STUDIES = {
    "heart": Study(settings=heart_settings(), auroc=everywhere, variants=VARIANTS),
    "stroke": Study(settings=stroke_settings(), auroc=at_hospitals, variants=VARIANTS),
    "breastmnist": Study(settings=breast_settings(), auroc=everywhere, variants=BREAST_VARIANTS),
}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What an order of a variant's runs takes, and how good their models are, by seed."""

    up: float  # bytes of an update
    down: float  # bytes of a version of the model
    aurocs: Sequence[float]

    @classmethod
    def of(cls, runs: Sequence[Outcome], auroc: Callable[[Outcome], float]) -> "Measured":
        """Measure these runs."""
        return cls(
            up=sum(run.summary["bytes_up"] for run in runs) / sum(run.summary["applied"] for run in runs),
            down=float(np.mean([bytes_down(run) for run in runs])),
            aurocs=[auroc(run) for run in runs],
        )

    def row(self, raw: "Measured") -> tuple[str, ...]:
        """Its part of a row of the table, beside what was measured without compression."""
        differences = np.subtract(self.aurocs, raw.aurocs)
        error = differences.std(ddof=1) / np.sqrt(len(differences))
        return (
            f"{self.up:,.0f}",
            f"{self.down:,.0f}",
            f"{(raw.up + raw.down) / (self.up + self.down):.1f}",
            study.spread(self.aurocs),
            "" if self is raw else f"{differences.mean():+.4f} ± {error:.4f}",
        )


def bytes_down(run: Outcome) -> float:
    """Bytes of the version of the model that a site fetches for an order; they follow from its shapes.

    Of differences, a site fetches those since its order before, as many as that was versions ago; an order of
    the same version counts as one of the next, as where versions are fetched in full it counts as one.
    """
    experiment, params = run.spec.experiment, run.params["global"]
    coding = messages.coding_of_model(experiment, run.summary["versions"])
    whole = len(codec.encode_tree(params, coding))
    if not isinstance(experiment.compression.down, Differences):
        return whole
    packed = codec.pack_tree(params, messages.coding_of_difference(experiment))
    difference = len(codec.packed_in_parts(packed, bytes(codec.ID_BYTES)))
    most = differences.num_links(whole, difference)
    newest = [run.summary["versions"]] * (most + 1)
    chain = len(messages.encode(Chain(versions=newest, ids=[bytes(codec.ID_BYTES)] * len(newest))))
    had, fetched = dict[str, int](), []
    for site, version in sorted(run.orders):
        behind = max(version - had[site], 1) if site in had else most + 1
        fetched.append(chain + (whole if behind > most else behind * difference))
        had[site] = version
    return float(np.mean(fetched))


def main(names: Iterable[str]) -> None:
    """Run all of it, for these studies; each has a section of its own."""
    for name in names:
        chosen, rows, measured = STUDIES[name], [], dict[str, Measured]()
        for variant, compression in chosen.variants.items():
            runs = study.several({**chosen.settings, "compression": compression})
            measured[variant] = Measured.of(runs, chosen.auroc)
            rows.append((variant, *measured[variant].row(measured[UNCOMPRESSED])))
            study.publish(f"compressed {name}", study.table(COLUMNS, rows))


if __name__ == "__main__":
    main(sys.argv[1:] or STUDIES)
