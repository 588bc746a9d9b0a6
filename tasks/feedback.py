"""Deltas as a site sends them, and what their compression left out, which the site keeps for the next one."""

from typing import NamedTuple

import numpy as np

from tasks import codec, messages
from tasks.messages import Order
from workers import params as trees
from workers.errors import FedeltaError
from workers.params import Params
from workers.spec import Experiment

LEFT_OUT = "left out"  # begins the paths of what is kept with a site's own layers, and is none


class Kept(NamedTuple):
    """What a site keeps from one order to the next."""

    own: Params  # parameters of its own
    left_out: Params  # of its deltas so far, by leaf


def split(kept: Params) -> Kept:
    """The two, of what the site's disk has."""
    own = {path: leaf for path, leaf in kept.items() if not path.startswith(f"{LEFT_OUT}/")}
    return Kept(own=own, left_out=trees.below(LEFT_OUT, kept))


def joined(kept: Kept) -> Params:
    """The inverse."""
    return {**kept.own, **trees.under(LEFT_OUT, kept.left_out)}


def packed(
    experiment: Experiment, order: Order, delta: Params, left_out: Params
) -> tuple[codec.PackedTree, Params]:
    """The delta as it travels, and what it leaves out now: e <- (x + e) - C(x + e) (error feedback).

    Karimireddy et al. 2019, arXiv 1901.09847, algorithm 2. Kinds that are right on average leave nothing out.

    Raises:
        FedeltaError: a value cannot be compressed so.
    """
    coding = messages.coding_of_delta(experiment, order.site, order.sequence)
    compression = coding.compression
    try:
        if compression is None or not compression.needs_feedback:
            return codec.pack_tree(delta, coding), {}
        whole = {path: leaf + left_out.get(path, np.float32(0)) for path, leaf in delta.items()}
        tree = codec.pack_tree(whole, coding)
    except ValueError as error:
        raise FedeltaError(f"the change cannot be sent compressed as the study asks: {error}") from error
    sent = codec.unpack_tree(tree, whole, coding)
    return tree, {path: leaf - sent[path] for path, leaf in whole.items()}
