"""Stopping and resuming an experiment: the same transitions as the coordinator's, by a person's hand."""

from collections.abc import Callable

import redis

from tasks import dispatch, state
from tasks.ledger import Ledger
from tasks.messages import Event, one_line
from tasks.state import State
from workers.errors import Conflict, ExperimentError
from workers.spec import Experiment


def stop(client: redis.Redis, name: str, reason: str = "stopped by hand") -> bool:
    """Give no more orders; the sites score the last version, then the experiment is finished.

    One that has come to its end waits for no more of the sites' own models.
    False, and nothing is changed, if it gives none any more.
    """

    def transition(old: State, _: Experiment, now: float) -> tuple[State, Event] | None:
        if old.head.phase == "finishing" and old.outstanding:
            detail = f"{reason}; without a model of its own: {', '.join(old.outstanding)}"
            return state.give_up(old, now), Event(time=now, kind="finished", detail=one_line(detail))
        if old.head.phase not in ("describing", "running"):
            return None
        new = state.finish(old, "stopped", reason, now)
        return new, Event(time=now, kind="finished", detail=reason)

    return _commit(client, name, transition)


def resume(client: redis.Redis, name: str) -> None:
    """Go on with an experiment that was stopped or has failed; one that runs is left as it is.

    Raises:
        ExperimentError: it has reached what its file says is its end.
    """

    def transition(old: State, experiment: Experiment, now: float) -> tuple[State, Event] | None:
        if old.head.phase != "finished":
            return None
        if old.head.outcome == "completed":
            raise ExperimentError(f"{name} is complete: {old.head.reason}; run its file again for a new one")
        new = state.resume(old, is_synchronous=experiment.strategy.is_synchronous, now=now)
        pause = new.head.paused - old.head.paused
        return new, Event(time=now, kind="resumed", detail=f"after {pause:.1f} s", pause=pause)

    _commit(client, name, transition)


def _commit(
    client: redis.Redis,
    name: str,
    transition: Callable[[State, Experiment, float], tuple[State, Event] | None],
) -> bool:
    ledger = Ledger(client)
    while True:
        try:
            with ledger.turn(name) as turn:
                old = turn.state
                changed = transition(old, turn.spec.experiment, turn.now)
                if changed is None:
                    return False
                new = turn.commit(changed[0], events=[changed[1]])
        except Conflict:
            continue  # the coordinator was faster: look again
        dispatch.follow(name, old, new)
        return True
