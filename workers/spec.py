"""What an experiment fixes, as its author writes it (`Experiment`) and as it travels (`Spec`).

Everything here is checked when it is made: from a file, from a message, or in code.
"""

from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias

import numpy as np
from pydantic import Discriminator, Field, Strict, Tag, model_validator

from workers.metrics import METRICS, MetricName
from workers.models import Model, TargetKind
from workers.optimizers import Optimizer, Sgd
from workers.settings import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, settings
from workers.strategies import Strategy

Name: TypeAlias = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", max_length=63)]
DatasetName: TypeAlias = Literal["breast-cancer", "diabetes", "digits", "iris", "two-hospitals", "wine"]

# Known without loading a data set, so that a wrong experiment file is answered at once.
TARGET_KINDS: Mapping[DatasetName, TargetKind] = {
    "breast-cancer": "binary",
    "diabetes": "regression",
    "digits": "multiclass",
    "iris": "multiclass",
    "two-hospitals": "regression",
    "wine": "multiclass",
}


@settings
class Iid:
    """Every site draws from the whole: equal sizes, the same mix."""

    kind: Literal["iid"] = "iid"


@settings
class Dirichlet:
    """Each class is spread over the sites by one draw of Dir(alpha): unequal sizes and label mixes.

    The smaller alpha, the more unequal (Yurochkin et al. 2019, arXiv 1905.12022, section 4).
    """

    kind: Literal["dirichlet"] = "dirichlet"
    alpha: PositiveFloat = 0.5
    min_examples: PositiveInt = 10  # per site; drawn again until every site has them


@settings
class Natural:
    """As the data set says: its first group of examples is the first site's, and so on."""

    kind: Literal["natural"] = "natural"


Partition: TypeAlias = Annotated[Iid | Dirichlet | Natural, Field(discriminator="kind")]


@settings
class Data:
    """Which examples, who has which, how many are held out, how features are scaled."""

    dataset: DatasetName
    partition: Partition = Iid()
    holdout: Annotated[float, Strict(), Field(gt=0, lt=1)] = (
        0.25  # share of each site's examples, for evaluation
    )
    standardize: Literal["pooled", "none"] = "pooled"


@settings
class LocalTraining:
    """What a site does with one order."""

    optimizer: Optimizer = Sgd(learning_rate=0.1)
    batch_size: PositiveInt = 16
    epochs: PositiveInt | None = None  # passes over the site's examples ...
    steps: PositiveInt | None = None  # ... or optimizer steps, whatever the number of examples
    proximal: NonNegativeFloat = 0.0  # μ of FedProx (Li et al. 2020, arXiv 1812.06127)
    clip_norm: PositiveFloat | None = None  # largest global norm of a step's gradient

    @model_validator(mode="after")
    def _one_length(self) -> "LocalTraining":
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("expected either epochs or steps, and not both")
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
    sites: Annotated[tuple[Name, ...], Field(min_length=1, max_length=10_000)]
    data: Data
    model: Model
    training: LocalTraining
    strategy: Strategy
    evaluation: Evaluation = Evaluation()
    stop: Stop
    # Trials on one machine: how slow each site is made, by its name or "default".
    seconds_per_order: dict[str, Seconds] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fits_together(self) -> "Experiment":
        if repeated := sorted({site for site in self.sites if self.sites.count(site) > 1}):
            raise ValueError(f"sites: expected each name once, got {', '.join(repeated)} again")
        if unknown := sorted(set(self.seconds_per_order) - {*self.sites, "default"}):
            raise ValueError(
                f"seconds_per_order: {', '.join(unknown)} is not a site; expected one of "
                f"{', '.join((*self.sites, 'default'))}"
            )
        buffer_size, updates = getattr(self.strategy, "buffer_size", 1), self.stop.updates
        if updates is not None and buffer_size > updates:
            raise ValueError(
                f"strategy.buffer_size: {buffer_size} updates never come together when the run stops after "
                f"stop.updates = {updates}"
            )
        target_kind = TARGET_KINDS[self.data.dataset]
        if target_kind not in self.model.targets:
            raise ValueError(
                f"model.kind: {self.model.kind} predicts {' or '.join(self.model.targets)} targets, and "
                f"those of data.dataset = {self.data.dataset} are {target_kind}"
            )
        asked = [("evaluation.metric", self.evaluation.metric)]
        asked.append(("stop.target.metric", self.stop.target.metric if self.stop.target else None))
        for field, metric in asked:
            if metric and metric not in METRICS[target_kind]:
                raise ValueError(
                    f"{field}: {metric} is not measured on {target_kind} targets; expected one of "
                    f"{', '.join(METRICS[target_kind])}"
                )
        return self

    @property
    def target_kind(self) -> TargetKind:
        """What kind of target the data set has."""
        return TARGET_KINDS[self.data.dataset]

    @property
    def watched_metric(self) -> MetricName:
        """The metric that `patience` looks at and the live view shows."""
        return self.evaluation.metric or METRICS[self.target_kind][0]

    def delay(self, site: str, seed: int) -> float:
        """Seconds that this order takes at least."""
        seconds = self.seconds_per_order.get(site, self.seconds_per_order.get("default", 0.0))
        return seconds.draw(seed) if isinstance(seconds, Delay) else seconds


@settings
class Schema:
    """What the examples look like, everywhere: it travels with the model."""

    features: tuple[str, ...]
    target: str
    target_kind: TargetKind
    classes: tuple[str, ...] = ()  # names of classes 0, 1, ...; empty for regression
    mean: tuple[float, ...]  # features are standardized as (value - mean) / scale
    scale: tuple[float, ...]

    @property
    def num_outputs(self) -> int:
        """Columns of the model's output."""
        return len(self.classes) if self.target_kind == "multiclass" else 1

    def standardized(self, features: np.ndarray) -> np.ndarray:
        """Raw features, `(examples, num_features)`, as the model wants them: float32."""
        scaled: np.ndarray = (features - np.asarray(self.mean)) / np.asarray(self.scale)
        return scaled.astype(np.float32)


@settings
class Spec:
    """What everybody who takes part reads once: the experiment and the schema of its examples."""

    experiment: Experiment
    schema: Schema
