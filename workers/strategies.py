"""Strategies: how the server turns sites' updates into versions of the global model.

A strategy is its settings and three pure functions of them: `init` (what it remembers between updates),
`fold` (take in one update) and `close` (the server step, when it is due). Paper's symbols: x the global
model, delta a site's change to the model it received, s its staleness weight, α the mixing rate.
To add a strategy: write its class, add it to `Strategy`.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Protocol, TypeAlias

import numpy as np
from pydantic import Field, Strict

from workers import server_optimizer
from workers.compression import Compressed
from workers.optimizers import Optimizer, Sgd
from workers.params import Array, Params, below, blank, blockwise, under
from workers.settings import NonNegativeInt, PositiveFloat, PositiveInt, settings
from workers.staleness import Polynomial, Staleness


@dataclass(frozen=True, kw_only=True)
class Server:
    """The server between two updates: the global model, its version, and what the strategy remembers."""

    params: Params
    version: int
    memory: Params


@dataclass(frozen=True, kw_only=True)
class Update:
    """One site's update: what it changed, the model that it changed, and from how long ago."""

    delta: Params
    base: Params
    num_examples: int
    staleness: int


# What a site's update counts in a mean of several.
Weighting: TypeAlias = Literal["examples", "equal"]


class Rules(Protocol):
    """What every strategy answers."""

    is_synchronous: ClassVar[bool]  # a site gets its next order when the version advances, not at once
    uses_base: ClassVar[bool]  # `fold` reads `Update.base`
    max_staleness: int | None  # an update staler than this is refused
    max_norm: float | None  # and one whose delta's L2 norm, over all leaves, is past this

    def init(self, params: Params) -> Params:
        """What the strategy remembers before the first update, as a flat tree."""
        ...

    def weight(self, update: Update) -> float:
        """How much the update counts, as written into the history."""
        ...

    def fold(self, server: Server, update: Update, *, reuse: bool = False) -> Server:
        """The server after it took in one update.

        `reuse`: nobody needs the server as it was any more, so its arrays become those of the new one, unless
        they cannot be written to, because somebody else does.
        """
        ...

    def needed(self, num_sites: int) -> int:
        """Of how many of the experiment's sites an update is needed for a version."""
        ...

    def close(self, server: Server, num_outstanding: int, num_sites: int, *, reuse: bool = False) -> Server:
        """The server after its step, or as it was if that is not due.

        `num_outstanding` of the experiment's `num_sites` still have an unfinished order. `reuse`: see `fold`.
        """
        ...


@settings
class FedAsync:
    """x <- (1 - α s) x + α s x_new, where x_new = x_base + delta (Xie et al. 2019, arXiv 1903.03934, alg. 1).

    One version per update.
    """

    kind: Literal["fedasync"] = "fedasync"
    mixing_rate: Annotated[float, Strict(), Field(gt=0, le=1)] = 0.6  # α
    staleness: Staleness = Polynomial()
    max_staleness: NonNegativeInt | None = None
    max_norm: PositiveFloat | None = None
    is_synchronous: ClassVar[bool] = False
    uses_base: ClassVar[bool] = True

    def init(self, params: Params) -> Params:
        """Nothing to remember."""
        return {}

    def weight(self, update: Update) -> float:
        """The mixing rate times the staleness weight, α s."""
        return self.mixing_rate * self.staleness.weight(update.staleness)

    def fold(self, server: Server, update: Update, *, reuse: bool = False) -> Server:
        """Mix the site's whole model into the global one."""
        w = np.float32(self.weight(update))

        def mixed(x: np.ndarray, base: np.ndarray, delta: np.ndarray) -> Array:
            return (1 - w) * x + w * (base + delta)

        def drawn(x: np.ndarray, base: np.ndarray) -> Array:
            return (1 - w) * x + w * base

        params = {}
        for path, x in server.params.items():
            base, delta, out = update.base[path], update.delta[path], x if reuse else None
            if isinstance(delta, Compressed):
                params[path] = blockwise(drawn, x, base, out=out)
                delta.add_to(params[path], self.weight(update))
            else:
                params[path] = blockwise(mixed, x, base, delta, out=out)
        return dataclasses.replace(server, params=params, version=server.version + 1)

    def needed(self, num_sites: int) -> int:
        """Any site alone."""
        return 1

    def close(self, server: Server, num_outstanding: int, num_sites: int, *, reuse: bool = False) -> Server:
        """Nothing is left to do: `fold` made the version."""
        return server


@settings
class FedBuff:
    """Buffer K updates, then x <- server_optimizer(x, mean of s_i delta_i).

    Nguyen et al. 2022, arXiv 2106.06639, algorithm 1. s = (1 + staleness)^-1/2. One version per K updates.
    The mean is plain as in the paper, or weighted by the sites' numbers of examples as in FedAvg.
    """

    kind: Literal["fedbuff"] = "fedbuff"
    buffer_size: PositiveInt = 10  # K
    weighting: Weighting = "equal"
    staleness: Staleness = Polynomial(a=0.5)
    server_optimizer: Optimizer = Sgd(learning_rate=1.0)
    max_staleness: NonNegativeInt | None = None
    max_norm: PositiveFloat | None = None
    is_synchronous: ClassVar[bool] = False
    uses_base: ClassVar[bool] = False

    def init(self, params: Params) -> Params:
        """An empty buffer and the server optimizer's first state."""
        return _empty_sum(params) | under("optimizer", server_optimizer.init(self.server_optimizer, params))

    def weight(self, update: Update) -> float:
        """The staleness weight s, times the site's number of examples if that is the weighting."""
        return self.staleness.weight(update.staleness) * _share(self.weighting, update)

    def fold(self, server: Server, update: Update, *, reuse: bool = False) -> Server:
        """Add s_i delta_i to the buffer; its share of the mean has no s_i in it, so that stale means less."""
        return _add(
            server, update, weight=self.weight(update), share=_share(self.weighting, update), reuse=reuse
        )

    def needed(self, num_sites: int) -> int:
        """Any site alone can fill the buffer."""
        return 1

    def close(self, server: Server, num_outstanding: int, num_sites: int, *, reuse: bool = False) -> Server:
        """The server step, once K updates are in the buffer."""
        is_due = server.memory["count"] >= self.buffer_size
        return _step(server, self.server_optimizer, reuse=reuse) if is_due else server


@settings
class FedAvg:
    """Wait for all ordered sites, then x <- server_optimizer(x, weighted mean of delta_i).

    McMahan et al. 2017, arXiv 1602.05629, algorithm 1: the synchronous baseline. One version per round. Sites
    that are away are not waited for, if a quorum of the others has answered.
    """

    kind: Literal["fedavg"] = "fedavg"
    weighting: Weighting = "examples"
    quorum: Annotated[float, Strict(), Field(gt=0, le=1)] = 0.5  # share of the sites that a round needs
    server_optimizer: Optimizer = Sgd(learning_rate=1.0)
    max_norm: PositiveFloat | None = None
    max_staleness: ClassVar[int | None] = None  # nobody is ever late: the round waits
    is_synchronous: ClassVar[bool] = True
    uses_base: ClassVar[bool] = False

    def init(self, params: Params) -> Params:
        """An empty sum and the server optimizer's first state."""
        return _empty_sum(params) | under("optimizer", server_optimizer.init(self.server_optimizer, params))

    def weight(self, update: Update) -> float:
        """The site's number of examples, or 1 for each."""
        return _share(self.weighting, update)

    def fold(self, server: Server, update: Update, *, reuse: bool = False) -> Server:
        """Add the weighted delta to the round's sum."""
        weight = self.weight(update)
        return _add(server, update, weight=weight, share=weight, reuse=reuse)

    def needed(self, num_sites: int) -> int:
        """The quorum."""
        return math.ceil(self.quorum * num_sites - 1e-9)  # 0.28 of 25 are 7, whatever a float says

    def close(self, server: Server, num_outstanding: int, num_sites: int, *, reuse: bool = False) -> Server:
        """The server step, once no site is outstanding any more and a quorum has answered."""
        is_due = num_outstanding == 0 and server.memory["count"] >= self.needed(num_sites)
        return _step(server, self.server_optimizer, reuse=reuse) if is_due else server


Strategy: TypeAlias = Annotated[FedAsync | FedBuff | FedAvg, Field(discriminator="kind")]


def _share(weighting: Weighting, update: Update) -> float:
    return float(update.num_examples) if weighting == "examples" else 1.0


def _empty_sum(params: Params) -> Params:
    """Nothing yet: the sum of w_i delta_i, the divisor that makes it a mean, the number of updates in it."""
    zeros = {path: blank(leaf.shape, leaf.dtype) for path, leaf in params.items()}
    return under("sum", zeros) | {"divisor": np.zeros((), np.float64), "count": np.zeros((), np.int64)}


def _add(server: Server, update: Update, *, weight: float, share: float, reuse: bool) -> Server:
    w = np.float32(weight)

    def added(total: np.ndarray, delta: np.ndarray) -> Array:
        return total + w * delta

    memory = dict(server.memory)
    for path, delta in update.delta.items():
        total = memory[f"sum/{path}"]
        if isinstance(delta, Compressed):
            total = total if reuse and total.flags.writeable else np.array(total, order="C")
            delta.add_to(total, weight)
            memory[f"sum/{path}"] = total
        else:
            memory[f"sum/{path}"] = blockwise(added, total, delta, out=total if reuse else None)
    memory["divisor"] = np.asarray(memory["divisor"] + share)
    memory["count"] = np.asarray(memory["count"] + 1)
    return dataclasses.replace(server, memory=memory)


def _step(server: Server, optimizer: Optimizer, *, reuse: bool) -> Server:
    divisor = np.float32(server.memory["divisor"])

    def divided(total: np.ndarray) -> Array:
        can_hold_it = reuse and total.flags.writeable and total.dtype.kind == "f"
        return np.divide(total, divisor, out=total if can_hold_it else None)

    mean = {path: divided(total) for path, total in below("sum", server.memory).items()}
    params, state = server_optimizer.step(
        optimizer, server.params, below("optimizer", server.memory), mean, reuse=reuse
    )
    memory = _empty_sum(params) | under("optimizer", state)
    return Server(params=params, version=server.version + 1, memory=memory)
