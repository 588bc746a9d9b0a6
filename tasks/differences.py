"""Versions as differences, each to the one published before: W_v = W_u + C(x_v - W_u).

x is the exact model, W what all sites have of it, and C the coding. What C loses of one difference is part
of the next, so it does not add up: EF21-P (Gruntkowska et al. 2022, arXiv 2209.15218, algorithm 1), here with
the same W for all sites. It asks that C loses no more than there is, so integers are rounded to the nearest,
not at random.

Who has any version of the chain fetches the differences after it, the others W_v in full. A difference has
the id of the W_v that it makes, and the chain says which ids follow one another; so nobody comes to another
W_v, even if a Redis has forgotten a version, and another was made in its place.
"""

import secrets
from itertools import pairwise

import numpy as np
import redis

from tasks import codec, keys, messages, values
from tasks.cache import Cache
from tasks.codec import Parts
from tasks.messages import Chain
from workers import params as trees
from workers.compression import Compressed
from workers.params import Params
from workers.spec import Differences, Experiment
from workers.strategies import Server

MAX_LINKS = 16  # differences at once: each is a round trip


def identity(experiment: Experiment) -> bytes | None:
    """An id for a version in full, if differences are to follow; else only large ones have one."""
    is_followed = isinstance(experiment.compression.down, Differences)
    return secrets.token_bytes(codec.ID_BYTES) if is_followed else None


def publish(
    client: redis.Redis, experiment: Experiment, server: Server, before: int, sent: Params
) -> tuple[dict[str, Parts], list[str]]:
    """What is written for the server's version, by key, and keys of differences that nobody needs any more.

    `sent` is W of the version `before`; its arrays become those of the new one if they can be written to.

    Raises:
        ValueError: the difference cannot be written so; names the leaf.
    """
    name, version, id_ = experiment.name, server.version, identity(experiment)
    difference, made = between(server.params, sent, messages.coding_of_difference(experiment))
    whole, coded = codec.tree_in_parts(made, identity=id_), codec.packed_in_parts(difference, id_)
    old, _ = chain(client, name)
    id_before = codec.id_of(values.identity(client, keys.model(name, before)))
    is_joined = bool(old.versions) and (old.versions[-1], old.ids[-1]) == (before, id_before)
    start = old if is_joined else Chain(versions=[before], ids=[id_before])
    length = num_links(len(whole), len(coded))
    new = Chain(
        versions=[*start.versions, version][-length - 1 :],
        ids=[*start.ids, codec.id_of(whole.begin)][-length - 1 :],
    )
    written = {keys.difference(name, version, before): coded} if length else {}
    written[keys.chain(name)] = Parts(messages.encode(new))
    written[keys.model(name, version)] = whole  # last, as of what is written the newest is remembered
    kept = _links(name, new)
    return written, [key for key in _links(name, old) if key not in kept]


def num_links(whole: int, difference: int) -> int:
    """How many differences of so many bytes are kept: together they are shorter than the whole."""
    return min((whole - 1) // difference, MAX_LINKS)


def between(x: Params, sent: Params, coding: codec.Coding) -> tuple[codec.PackedTree, Params]:
    """C(x - W), packed, and W + C(x - W); of the difference itself there is a leaf at a time."""
    packed: codec.PackedTree = []
    made: Params = {}
    for path, leaf in x.items():
        entry = codec.pack_tree({path: trees.blockwise(np.subtract, leaf, sent[path])}, coding)
        made |= _added({path: sent[path]}, codec.unpack_tree(entry, {path: leaf}, coding, unpacked=False))
        packed += entry
    return packed, made


def chain(client: redis.Redis, name: str) -> tuple[Chain, int]:
    """The experiment's newest versions, which differences join, and the bytes that say so."""
    stored = values.read(client, keys.chain(name)) or b""
    return messages.decode(Chain, stored) if stored else Chain(), len(stored)


def all_keys(client: redis.Redis, name: str) -> list[str]:
    """Keys of the chain and of its differences."""
    found, _ = chain(client, name)
    return [keys.chain(name), *_links(name, found)]


def follow(
    client: redis.Redis, remembered: Cache, experiment: Experiment, version: int
) -> tuple[Params | None, int]:
    """The version, made of one that is remembered, or None if that cannot be; and the bytes fetched for it.

    Raises:
        MalformedMessage: a difference is none of this model.
    """
    name, coding = experiment.name, messages.coding_of_difference(experiment)
    found, num_bytes = chain(client, name)
    if version not in found.versions:
        return None, num_bytes
    number = found.versions.index(version) + 1
    versions, ids = found.versions[:number], found.ids[:number]

    def step(tree: Params, number: int) -> Params | None:
        nonlocal num_bytes
        difference = values.read(client, keys.difference(name, versions[number], versions[number - 1])) or b""
        num_bytes += len(difference)
        if codec.id_of(difference) != ids[number]:
            return None  # it is gone, or makes another
        return _added(tree, codec.decode_tree(difference, tree, coding, unpacked=False))

    path = [(keys.model(name, number), id_) for number, id_ in zip(versions, ids, strict=True)]
    return remembered.made(path, step), num_bytes


def _added(tree: Params, difference: Params) -> Params:
    """Their sum, in the tree's own arrays where they can be written to."""
    made = {}
    for path, leaf in tree.items():
        made[path] = leaf if leaf.flags.writeable else leaf.copy()
        if isinstance(difference[path], Compressed):
            difference[path].add_to(made[path], 1.0)
        else:
            made[path] += difference[path]
    return made


def _links(name: str, found: Chain) -> list[str]:
    return [keys.difference(name, version, before) for before, version in pairwise(found.versions)]
