"""The kinds of compression by name, with the options that each one has."""

from typing import Annotated, TypeAlias

from pydantic import Field

from workers.compression.floats import BFloat16, Float16
from workers.compression.integers import Int2, Int3, Int4, Int8
from workers.compression.top_k import TopK

Compression: TypeAlias = Annotated[
    BFloat16 | Float16 | Int8 | Int4 | Int3 | Int2 | TopK, Field(discriminator="kind")
]
