"""Compressed updates: a leaf of a delta in fewer bytes than its float32 values, and back.

Which kind is a setting of the experiment, and the bytes that a leaf takes follow from its shape alone: a
receiver knows them before it reads anything. Encoding and decoding need NumPy only. A leaf is taken as its
values one after another (C order), in pieces that stay in the processor's cache. Where there is randomness it
comes from a seed, which both sides know; give each leaf its own, so that their errors are independent.

    leaves.py      encode and decode a leaf, check it, measure it, add it to a sum
    kinds.py       which kinds there are
    pieces.py      what a kind answers
    floats.py      bfloat16 and float16; float32, for small leaves
    integers.py    int8, int4, int3 and int2, a scale for each block, rounded at random or to the nearest
    rotation.py    a random rotation, which spreads what is large over its neighbours
    top_k.py       the largest values and where they are
"""

from workers.compression.floats import BFloat16, Float16
from workers.compression.integers import Int2, Int3, Int4, Int8
from workers.compression.kinds import Compression
from workers.compression.leaves import (
    Compressed,
    decode,
    encode,
    num_bytes,
)
from workers.compression.top_k import TopK

__all__ = [
    "BFloat16",
    "Compressed",
    "Compression",
    "Float16",
    "Int2",
    "Int3",
    "Int4",
    "Int8",
    "TopK",
    "decode",
    "encode",
    "num_bytes",
]
