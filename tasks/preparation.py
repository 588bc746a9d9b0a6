"""Preparation, at the coordinator: what sites tell of their examples becomes one preprocessing for all.

It comes before training where each site has its examples at home. Training begins when every site that is
there has described its examples, and the share of all sites has that the experiment asks for.
"""

import dataclasses
import logging

from tasks import codec, state
from tasks.draining import Drain, finish, refuse
from tasks.messages import Event
from tasks.state import State
from tasks.turn import Turn
from workers import description
from workers import params as trees
from workers.description import Description
from workers.errors import DataError, MalformedMessage
from workers.spec import Spec
from workers.strategies import Server

logger = logging.getLogger(__name__)


def drain(turn: Turn) -> State:
    """One turn: take in the descriptions that wait, and let training begin once they suffice."""
    so_far = Drain(state=turn.state, server=turn.server())
    for site in turn.waiting:
        take_in(turn, so_far, site)
    prepared = go_on(turn, so_far)
    if so_far.state == turn.state and not turn.has_mail:
        return turn.state
    return turn.commit(
        so_far.state, server=so_far.server, events=so_far.events, is_mail_handled=True, spec=prepared
    )


def take_in(turn: Turn, so_far: Drain, site: str) -> None:
    """Keep what one site tells of its examples, or refuse it."""
    expected = description.reference(turn.spec.schema)
    try:
        found = turn.submission(site, expected)
        if found is None:
            return
        told = found[0].delta
        if told is None:
            raise MalformedMessage(f"the site could not describe its examples: {found[0].error}")
        leaves = codec.unpack_tree(told, expected)
        description.from_params(turn.spec.schema, leaves)
    except (MalformedMessage, DataError) as error:
        refuse(turn, so_far, site, str(error), is_fault=True)
        return
    memory = {**so_far.server.memory, **trees.under(site, leaves)}
    so_far.server = dataclasses.replace(so_far.server, memory=memory)
    so_far.state = state.told(so_far.state, site)


def go_on(turn: Turn, so_far: Drain) -> Spec | None:
    """Begin to train if enough is known, with the spec completed; else ask again who was refused."""
    told = descriptions(turn.spec, so_far)
    experiment, sites = turn.spec.experiment, so_far.state.sites
    needed = experiment.data.needed(len(sites))
    if len(so_far.state.active) < needed:
        reason = f"{len(so_far.state.active)} sites are left, and {needed} must describe their examples"
        finish(turn, so_far, "failed", f"{reason}; the events say why the others were dropped")
        return None
    if len(told) < needed or any(site not in told for site in so_far.state.at_hand):
        so_far.state = state.order(so_far.state, so_far.refused, turn.now)
        return None
    try:
        schema = description.combine(turn.spec.schema, experiment.data, list(told.values()))
    except DataError as error:
        finish(turn, so_far, "failed", str(error))
        return None
    begin(turn, so_far, told)
    return dataclasses.replace(turn.spec, schema=schema)


def begin(turn: Turn, so_far: Drain, told: dict[str, Description]) -> None:
    """Every site has an order to train."""
    strategy = turn.spec.experiment.strategy
    before = so_far.state.head.paused
    so_far.state = state.begin_training(so_far.state, is_synchronous=strategy.is_synchronous, now=turn.now)
    so_far.server = Server(
        params=so_far.server.params, version=so_far.server.version, memory=strategy.init(so_far.server.params)
    )
    num_examples = sum(known.num_examples for known in told.values())
    detail = f"{len(told)} sites have {num_examples} examples to train on"
    pause = so_far.state.head.paused - before
    so_far.events.append(Event(time=turn.now, kind="described", detail=detail, pause=pause))
    logger.info("%s: training begins: %s", turn.spec.experiment.name, detail)


def descriptions(spec: Spec, so_far: Drain) -> dict[str, Description]:
    """By site that has done what it was asked for, what it has told."""
    memory = so_far.server.memory
    return {
        site: description.from_params(spec.schema, trees.below(site, memory))
        for site, record in so_far.state.sites.items()
        if record.is_done and site not in so_far.refused
    }
