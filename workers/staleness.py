"""Staleness weights: how much an update counts that was trained from an old version.

Staleness is the number of versions committed since the order's base version: 0 when fresh.
"""

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from workers.settings import NonNegativeFloat, NonNegativeInt, PositiveFloat, settings


@settings
class Constant:
    """s = 1: a late update counts in full (Xie et al. 2019, arXiv 1903.03934, section 5.2)."""

    kind: Literal["constant"] = "constant"

    def weight(self, staleness: int) -> float:
        """1, however stale."""
        return 1.0


@settings
class Polynomial:
    """s = (1 + staleness)^-a (Xie et al. 2019, section 5.2)."""

    kind: Literal["polynomial"] = "polynomial"
    a: NonNegativeFloat = 0.5

    def weight(self, staleness: int) -> float:
        """1 when fresh, then falling as a power of the staleness."""
        return float((1 + staleness) ** -self.a)


@settings
class Hinge:
    """s = 1 if staleness <= b, else 1 / (a (staleness - b) + 1) (Xie et al. 2019, section 5.2)."""

    kind: Literal["hinge"] = "hinge"
    a: PositiveFloat = 10.0
    b: NonNegativeInt = 4

    def weight(self, staleness: int) -> float:
        """1 up to a staleness of b, then falling as its inverse."""
        return 1.0 if staleness <= self.b else 1.0 / (self.a * (staleness - self.b) + 1.0)


Staleness: TypeAlias = Annotated[Constant | Polynomial | Hinge, Field(discriminator="kind")]
