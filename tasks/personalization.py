"""Personalization, at the coordinator: when every site that is there has its own model, or has failed."""

from tasks import messages, state
from tasks.messages import Event
from tasks.state import State
from tasks.turn import Turn
from workers.errors import MalformedMessage


def drain(turn: Turn) -> State:
    """One turn: see which sites are done; the experiment may be finished by that."""
    new, events = turn.state, []
    for site in turn.waiting:
        try:
            found = turn.submission(site, {})
            if found is None:
                continue
            failure = found[0].error if found[0].delta is None else ""
        except MalformedMessage as error:
            failure = str(error)
        if failure:
            order = f"{site}/{turn.state.sites[site].sequence}"
            detail = messages.one_line(f"the site has no model of its own: {failure}")
            events.append(Event(time=turn.now, kind="refused", site=site, order=order, detail=detail))
        new = state.personalized(new, site, turn.now, has_failed=bool(failure))
    if new == turn.state and not turn.has_mail:
        return turn.state
    return turn.commit(new, events=events, is_mail_handled=True)
