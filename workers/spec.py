"""What an experiment fixes, as its author writes it (`Experiment`) and as it travels (`Spec`).

Everything here is checked when it is made: from a file, from a message, or in code.
"""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias

import numpy as np
from pydantic import Discriminator, Field, Strict, Tag, model_validator

from workers.compression import Compression, Int4
from workers.data_settings import Data
from workers.metrics import METRICS, MetricName
from workers.models import ConvolutionalNetwork, Model, OwnModel, TargetKind
from workers.optimizers import Optimizer, Sgd
from workers.personal_settings import Baseline, Ditto, FineTuning, LocalLayers, Personal
from workers.schema import Schema
from workers.settings import Name, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, settings
from workers.strategies import Strategy

ClassWeights: TypeAlias = Literal["balanced"] | Annotated[tuple[PositiveFloat, ...], Field(min_length=2)]


@settings
class LocalTraining:
    """What a site does with one order."""

    optimizer: Optimizer = Sgd(learning_rate=0.1)
    batch_size: PositiveInt = 16
    epochs: PositiveInt | None = None  # passes over the site's examples ...
    steps: PositiveInt | None = None  # ... or optimizer steps, whatever the number of examples
    proximal: NonNegativeFloat = 0.0  # μ of FedProx (Li et al. 2020, arXiv 1812.06127)
    clip_norm: PositiveFloat | None = None  # largest global norm of a step's gradient
    l1: NonNegativeFloat = 0.0  # penalties on the weights of the model, not on its biases:
    l2: NonNegativeFloat = 0.0  # l1 ||w||_1 + l2/2 ||w||², added to the mean loss
    class_weights: ClassWeights | None = None  # by the site's own counts, or one number for each class
    ties: Literal["efron", "breslow"] = "efron"  # of survival times

    @model_validator(mode="after")
    def _one_length(self) -> "LocalTraining":
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("expected either epochs or steps, and not both")
        return self

    @model_validator(mode="after")
    def _l1_has_its_step(self) -> "LocalTraining":
        """Its proximal step ends at the minimum only after a step by the whole gradient."""
        is_plain = isinstance(self.optimizer, Sgd) and not self.optimizer.momentum and self.clip_norm is None
        if self.l1 and not is_plain:
            raise ValueError("l1: is for the optimizer sgd, without momentum and clip_norm")
        return self


@settings
class Differences:
    """Each version as its difference to the one before, where that is fewer bytes (`tasks/differences.py`).

    What one difference leaves out is in the next, so any coding will do, even top-k.
    """

    kind: Literal["differences"] = "differences"
    coding: Compression = Int4(block=1024)


@settings
class Traffic:
    """How what travels is compressed, if it is."""

    up: Compression | None = None  # sites' deltas
    down: Annotated[Compression | Differences, Field(discriminator="kind")] | None = None  # versions

    @model_validator(mode="after")
    def _leaves_nothing_out_for_good(self) -> "Traffic":
        if self.down is not None and not isinstance(self.down, Differences) and self.down.needs_feedback:
            raise ValueError(
                f"down: {self.down.kind} is for deltas; a model has no values that can be left out"
            )
        return self


@settings
class Evaluation:
    """How often the sites score the model on what they hold out, and which metric is watched."""

    every: PositiveInt = 10  # versions
    metric: MetricName | None = None  # by default the first of the target kind's metrics


@settings
class Target:
    """Stop when the example-weighted mean of a metric has reached a value."""

    metric: MetricName
    value: Annotated[float, Strict()]


@settings
class Stop:
    """When the experiment ends: at the first of these."""

    updates: PositiveInt | None = None
    versions: PositiveInt | None = None
    seconds: PositiveFloat | None = None
    target: Target | None = None
    patience: PositiveInt | None = None  # evaluations in a row without a better watched metric

    @model_validator(mode="after")
    def _at_least_one(self) -> "Stop":
        if not any((self.updates, self.versions, self.seconds, self.target, self.patience)):
            raise ValueError("expected at least one of updates, versions, seconds, target, patience")
        return self


@settings
class Delay:
    """Seconds that an order takes at least, drawn for each order."""

    distribution: Literal["exponential", "half-normal", "uniform"]
    mean: PositiveFloat

    def draw(self, seed: int) -> float:
        """The seconds of the order with that seed."""
        rng = np.random.default_rng(seed)
        match self.distribution:
            case "exponential":
                return float(rng.exponential(self.mean))
            case "half-normal":
                return float(abs(rng.normal(0.0, self.mean * np.sqrt(np.pi / 2))))
            case "uniform":
                return float(rng.uniform(0.0, 2 * self.mean))


# A number, or a table that says how it is drawn.
Seconds: TypeAlias = Annotated[
    Annotated[NonNegativeFloat, Tag("number")] | Annotated[Delay, Tag("table")],
    Discriminator(lambda value: "table" if isinstance(value, Mapping | Delay) else "number"),
]


@settings
class Experiment:
    """One study: the file that a person writes."""

    name: Name
    seed: NonNegativeInt = 0
    sites: Annotated[tuple[Name, ...], Field(max_length=10_000)] = ()  # by default those of data.file
    data: Data
    model: Model
    training: LocalTraining
    strategy: Strategy
    compression: Traffic = Traffic()
    evaluation: Evaluation = Evaluation()
    stop: Stop
    personal: Personal | None = None  # how each site comes to a model of its own
    baselines: tuple[Baseline, ...] = ()  # what the sites' models are compared with
    # Trials on one machine: how slow each site is made, by its name or "default".
    seconds_per_order: dict[str, Seconds] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fits_together(self) -> "Experiment":
        if repeated := sorted({site for site in self.sites if self.sites.count(site) > 1}):
            raise ValueError(f"sites: expected each name once, got {', '.join(repeated)} again")
        if not self.sites and self.data.file is None:
            raise ValueError("sites: expected at least one")
        if unknown := self.sites and sorted(set(self.seconds_per_order) - {*self.sites, "default"}):
            raise ValueError(
                f"seconds_per_order: {', '.join(unknown)} is not a site; expected one of "
                f"{', '.join((*self.sites, 'default'))}"
            )
        if "pooled" in self.baselines and self.data.is_at_sites:
            raise ValueError(
                "baselines: pooled needs all examples in one place, and each site has its own at home"
            )
        buffer_size, updates = getattr(self.strategy, "buffer_size", 1), self.stop.updates
        if updates is not None and buffer_size > updates:
            raise ValueError(
                f"strategy.buffer_size: {buffer_size} updates never come together when the run stops after "
                f"stop.updates = {updates}"
            )
        target_kind = self.target_kind
        if target_kind not in self.model.targets:
            raise ValueError(
                f"model.kind: {self.model.kind} predicts {' or '.join(self.model.targets)} targets, and "
                f"those of {self.data.origin} are {target_kind}"
            )
        self._check_training()
        asked = [("evaluation.metric", self.evaluation.metric)]
        asked.append(("stop.target.metric", self.stop.target.metric if self.stop.target else None))
        for field, metric in asked:
            if metric and metric not in METRICS[target_kind]:
                raise ValueError(
                    f"{field}: {metric} is not measured on {target_kind} targets; expected one of "
                    f"{', '.join(METRICS[target_kind])}"
                )
        return self

    def _check_training(self) -> None:
        """What of the training is not for every model and every kind of target."""
        weights, target_kind = self.training.class_weights, self.target_kind
        if weights is not None and target_kind not in ("binary", "multiclass"):
            raise ValueError(f"training.class_weights: is for classes, and the targets are {target_kind}")
        if isinstance(weights, tuple) and target_kind == "binary" and len(weights) != 2:
            raise ValueError(f"training.class_weights: expected two numbers, got {len(weights)}")
        if self.training.ties != "efron" and target_kind != "survival":
            raise ValueError(f"training.ties: is for survival, and the targets are {target_kind}")
        tunes = isinstance(self.personal, FineTuning) and self.personal.optimizer is not None
        if tunes and self.training.l1:
            raise ValueError("personal.optimizer: training.l1 is for the training's own optimizer")
        if isinstance(self.model, OwnModel):
            if self.training.l1 or self.training.l2:
                raise ValueError("training: l1 and l2 are for fedelta's own models")
            if self.model.num_outputs is not None:
                raise ValueError("model.num_outputs: is not to be given; the target says it")

    @property
    def target_kind(self) -> TargetKind:
        """What kind of target the data set has."""
        return self.data.target_kind

    @property
    def keeps_own(self) -> bool:
        """Whether a site keeps something of its own from one order to the next."""
        has_feedback = self.compression.up is not None and self.compression.up.needs_feedback
        return isinstance(self.personal, Ditto | LocalLayers) or has_feedback

    @property
    def compared(self) -> tuple[str, ...]:
        """The models that stand beside the global one in the results."""
        return (*(("personal",) if self.personal else ()), *self.baselines)

    @property
    def watched_metric(self) -> MetricName:
        """The metric that `patience` looks at and the live view shows."""
        return self.evaluation.metric or METRICS[self.target_kind][0]

    def delay(self, site: str, seed: int) -> float:
        """Seconds that this order takes at least."""
        seconds = self.seconds_per_order.get(site, self.seconds_per_order.get("default", 0.0))
        return seconds.draw(seed) if isinstance(seconds, Delay) else seconds


@settings
class Spec:
    """What everybody who takes part reads once: the experiment and the schema of its examples."""

    experiment: Experiment
    schema: Schema

    @model_validator(mode="after")
    def _fits_together(self) -> "Spec":
        model, weights, classes = (
            self.experiment.model,
            self.experiment.training.class_weights,
            self.schema.classes,
        )
        if isinstance(model, ConvolutionalNetwork) and self.schema.size is None:
            raise ValueError(f"model.kind: {model.kind} is for images, and the examples are rows of a table")
        if isinstance(weights, tuple) and len(weights) != len(classes):
            raise ValueError(
                f"training.class_weights: expected {len(classes)} numbers, for {', '.join(classes)}; "
                f"got {len(weights)}"
            )
        return self

    @property
    def model(self) -> Model:
        """The experiment's model; a user's own knows how many outputs the target needs."""
        model = self.experiment.model
        if isinstance(model, OwnModel):
            return dataclasses.replace(model, num_outputs=self.schema.num_outputs)
        return model
