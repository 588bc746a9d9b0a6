"""What one turn of the coordinator gathers while it takes in submissions, before it commits all of it."""

import logging
from dataclasses import dataclass, field

from tasks import messages, state
from tasks.messages import Event, HistoryRow
from tasks.state import Outcome, State
from tasks.turn import Turn
from workers.strategies import Server

logger = logging.getLogger(__name__)


@dataclass
class Drain:
    """What one drain has folded, refused and noted so far."""

    state: State
    server: Server
    history: list[HistoryRow] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


def refuse(turn: Turn, so_far: Drain, site: str, reason: str, *, is_fault: bool) -> None:
    """Leave the site's submission out, and say so."""
    name, order = turn.spec.experiment.name, f"{site}/{turn.state.sites[site].sequence}"
    reason = messages.one_line(reason)
    so_far.state = state.refuse(so_far.state, site, is_fault=is_fault)
    so_far.events.append(Event(time=turn.now, kind="refused", site=site, order=order, detail=reason))
    logger.warning("%s %s: refused: %s", name, order, reason)
    if so_far.state.sites[site].is_dropped:
        detail = f"{state.MAX_REFUSALS} refusals in a row"
        so_far.events.append(Event(time=turn.now, kind="dropped", site=site, order=order, detail=detail))
        logger.error("%s %s: dropped after %s", name, site, detail)
    else:
        so_far.refused.append(site)


def finish(turn: Turn, so_far: Drain, outcome: Outcome, reason: str) -> None:
    """Give no more orders, and say why."""
    owing = state.owe(so_far.state, so_far.refused)  # whoever resumes it orders them anew
    so_far.state = state.finish(owing, outcome, reason, turn.now, is_personal=is_personal(turn, outcome))
    so_far.events.append(Event(time=turn.now, kind="finished", detail=reason))
    logger.info("%s: no more orders: %s", turn.spec.experiment.name, reason)


def is_personal(turn: Turn, outcome: Outcome) -> bool:
    """Whether every site is to make its own model now: not of an experiment that was cut short."""
    experiment = turn.spec.experiment
    return outcome == "completed" and (experiment.personal is not None or "alone" in experiment.baselines)
