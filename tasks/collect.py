"""Evaluation, at the coordinator: when the sites have scored a version, their mean, and whether to stop."""

import logging

from tasks import dispatch, state
from tasks.app import app, connect
from tasks.draining import is_personal
from tasks.ledger import Ledger
from tasks.messages import Event, MetricsRow
from tasks.state import State
from tasks.turn import Turn
from workers import metrics
from workers.errors import Conflict

logger = logging.getLogger(__name__)

ANSWER_SECONDS = 15  # how long a site that is not there is waited for
GIVE_UP_SECONDS = 120  # how long any site is


@app.task(name="collect")
def collect(experiment: str) -> None:
    """Close the evaluation if every site that can answer has, and act on the result."""
    try:
        with Ledger(connect()).turn(experiment) as turn:
            old, new = turn.state, close_evaluation(turn)
    except Conflict:
        dispatch.collect(experiment)  # another coordinator was faster: look again
        return
    dispatch.follow(experiment, old, new)


def close_evaluation(turn: Turn) -> State:
    """One turn: take the mean of the sites' metrics once it is complete, and commit."""
    head, experiment = turn.state.head, turn.spec.experiment
    if head.evaluating is None:
        return turn.state
    rows = turn.evaluations()
    if not is_complete(turn, set(rows)):
        return turn.state
    names = metrics.METRICS[turn.spec.schema.target_kind]
    mean = metrics.weighted_mean(
        (row.num_examples, {name: row.metrics.get(name) for name in names}) for row in rows.values()
    )
    new = state.evaluated(turn.state, experiment, mean, turn.now)
    logger.info("%s: version %d: %s", experiment.name, head.evaluating, mean)
    events = []
    reason = state.reason_to_stop_after(new.head, mean, experiment)
    if reason and new.head.phase == "running":
        new = state.finish(new, "completed", reason, turn.now, is_personal=is_personal(turn, "completed"))
        events.append(Event(time=turn.now, kind="finished", detail=reason))
    row = MetricsRow(
        time=turn.now, version=head.evaluating, applied=head.applied, num_sites=len(rows), metrics=mean
    )
    return turn.commit(new, metrics=row, events=events)


def is_complete(turn: Turn, answered: set[str]) -> bool:
    """Whether every active site has answered that still can."""
    missing = set(turn.state.active) - answered
    waited = abs(turn.now - turn.state.head.evaluating_since)  # the ledger's clock may be set back
    if not missing or waited > GIVE_UP_SECONDS:
        return True
    return waited > ANSWER_SECONDS and not missing & turn.present()
