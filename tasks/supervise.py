"""Supervision, at the coordinator: every few seconds, repair what a lost message or a dead process left."""

import logging
from collections.abc import Mapping

from tasks import dispatch, health, state, work
from tasks.aggregate import aggregate
from tasks.app import SUPERVISE_EVERY, app, connect, site_queue
from tasks.collect import collect
from tasks.ledger import Ledger, Turn
from tasks.messages import Event
from tasks.site_ledger import LEASE
from tasks.state import State
from workers.errors import Conflict, FedeltaError

logger = logging.getLogger(__name__)


@app.task(name="supervise")
def supervise() -> None:
    """Look after every experiment that runs."""
    ledger = Ledger(connect())
    ledger.announce_coordinator(work.NAME)
    health.say_so()
    for experiment in ledger.running():
        try:
            look_after(ledger, experiment)
        except FedeltaError as error:  # one that cannot be read must not hold up the others
            logger.error("%s: cannot be looked after: %s", experiment, error)


@app.task(name="welcome")
def welcome(site: str, holder: str) -> None:
    """A site's worker has started: what another of its workers held is sent again at once."""
    ledger = Ledger(connect())
    for experiment in ledger.running():
        if site in ledger.spec(experiment).experiment.sites:
            look_after(ledger, experiment, alive={site: holder})


def look_after(ledger: Ledger, experiment: str, alive: Mapping[str, str] | None = None) -> None:
    """Repair one experiment; `alive` says of some sites which worker alone can still hold a lease."""
    try:
        with ledger.turn(experiment) as turn:
            old, new = turn.state, repair(turn, alive or {})
            mail, asked = turn.has_mail, missing_scores(turn)
    except Conflict:
        logger.debug("%s: another coordinator is at work; the next round looks again", experiment)
        return
    dispatch.follow(experiment, old, new)
    if mail:
        aggregate(experiment)
    if new.head.evaluating is not None:
        for site in asked:
            dispatch.evaluate(experiment, site, new.head.evaluating)
        collect(experiment)


def repair(turn: Turn, alive: Mapping[str, str]) -> State:
    """One turn: stop when the time is over; send again what nobody is at work on."""
    experiment, new = turn.spec.experiment, turn.state
    if new.head.phase != "running":
        return new
    events = []
    if reason := state.reason_to_stop(new.head, experiment, turn.now):
        new = state.finish(new, "completed", reason, turn.now)
        events.append(Event(time=turn.now, kind="finished", detail=reason))
        return turn.commit(new, events=events)
    submitted = turn.submitted()
    for site, reason in lost_orders(turn, alive).items():
        if site in submitted:
            continue
        order = f"{site}/{new.sites[site].sequence}"
        new = state.resend(new, site, turn.now)
        events.append(Event(time=turn.now, kind="resent", site=site, order=order, detail=reason))
        logger.warning("%s %s: sent again: %s", experiment.name, order, reason)
    unheard = [site for site in submitted if site not in turn.waiting]
    return turn.commit(new, events=events, ask_again=unheard) if events or unheard else new


def lost_orders(turn: Turn, alive: Mapping[str, str]) -> dict[str, str]:
    """By site, why its unfinished order is to be sent again."""
    leases, lost = turn.leases(), {}
    for site in turn.state.outstanding:
        holder, waited = leases.get(site), turn.now - turn.state.sites[site].sent_at
        if holder is not None and alive.get(site, holder) != holder:
            lost[site] = "the worker that was at work on it is gone, and another has started"
        elif holder is None and waited > LEASE and not dispatch.num_waiting(site_queue(site)):
            lost[site] = f"nobody is at work on it {waited:.0f} s after it was sent"
    return lost


def missing_scores(turn: Turn) -> list[str]:
    """Sites to be asked again to score the version: every `LEASE` seconds those whose queue is empty."""
    head = turn.state.head
    if head.evaluating is None:
        return []
    waited = turn.now - head.evaluating_since
    if int(waited / LEASE) == int((waited - SUPERVISE_EVERY) / LEASE):
        return []
    answered = turn.evaluations()
    silent = [site for site in turn.state.active if site not in answered]
    return [site for site in silent if not dispatch.num_waiting(site_queue(site))]
