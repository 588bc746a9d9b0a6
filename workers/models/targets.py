"""Kinds of target, and the shape of an example."""

from typing import Literal, TypeAlias

Shape: TypeAlias = tuple[int, ...]
TargetKind: TypeAlias = Literal["regression", "binary", "multiclass", "survival"]

EVERY_KIND: tuple[TargetKind, ...] = ("regression", "binary", "multiclass", "survival")
