"""`[personal]` of the experiment file: how each site comes to a model of its own."""

from collections.abc import Iterable
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from workers.errors import ExperimentError
from workers.optimizers import Optimizer
from workers.settings import PositiveFloat, PositiveInt, settings


@settings
class FineTuning:
    """The last global model, trained on for some epochs on the site's own examples."""

    kind: Literal["fine-tuning"] = "fine-tuning"
    epochs: PositiveInt = 5
    optimizer: Optimizer | None = None  # by default that of the training


@settings
class Ditto:
    """A model trained along with the global one, and drawn to it by λ/2 ||v - x||².

    Li et al. 2021, arXiv 2012.04221, algorithm 1: after each order one more run of the same length trains v,
    with the order's base model as x.
    """

    kind: Literal["ditto"] = "ditto"
    penalty: PositiveFloat = 0.1  # λ


@settings
class LocalLayers:
    """Layers that never travel: the site trains them along with the others, which are global.

    FedPer: Arivazhagan et al. 2019, arXiv 1912.00818.
    """

    kind: Literal["local-layers"] = "local-layers"
    layers: Annotated[tuple[str, ...], Field(min_length=1)]  # what their leaves' paths begin with: "layer2"

    def keeps(self, path: str) -> bool:
        """Whether the leaf is of such a layer."""
        return any(_is_of(path, layer) for layer in self.layers)

    def check(self, paths: Iterable[str]) -> None:
        """See that a model with these leaves has the layers, and others.

        Raises:
            ExperimentError: it has not.
        """
        found = list(paths)
        known = ", ".join(dict.fromkeys(path.partition("/")[0] for path in found))
        for layer in self.layers:
            if not any(_is_of(path, layer) for path in found):
                raise ExperimentError(
                    f"personal.layers: the model has no layer {layer!r}; expected some of {known}"
                )
        if all(self.keeps(path) for path in found):
            raise ExperimentError(
                f"personal.layers: expected some of {known}, and not all, or nothing is trained together"
            )


def _is_of(path: str, layer: str) -> bool:
    return path == layer or path.startswith(f"{layer}/")


Personal: TypeAlias = Annotated[FineTuning | Ditto | LocalLayers, Field(discriminator="kind")]

# What personal models are compared with: each site's training alone, and one training on all sites' examples.
Baseline: TypeAlias = Literal["alone", "pooled"]
