"""Aggregation, at the coordinator: every submission that waits is folded in, and committed once."""

import logging
from collections.abc import Sequence

from tasks import codec, dispatch, exposition, hooks, messages, personalization, preparation, state
from tasks.app import app, connect
from tasks.draining import Drain, finish, refuse
from tasks.ledger import Ledger
from tasks.messages import HistoryRow, Submission
from tasks.state import State
from tasks.turn import Turn
from workers import params as trees
from workers.errors import Conflict, ExperimentError, MalformedMessage
from workers.params import Params
from workers.strategies import Server, Update

logger = logging.getLogger(__name__)


# Before and after training, sites are asked for something else.
DRAINS = {"describing": preparation.drain, "finishing": personalization.drain}


@app.task(name="aggregate")
def aggregate(experiment: str) -> None:
    """Drain the inbox, fold what waits into the model, commit model, history and next orders, send them."""
    try:
        with Ledger(connect()).turn(experiment) as turn:
            old, new = turn.state, DRAINS.get(turn.state.head.phase, drain)(turn)
    except Conflict:
        dispatch.aggregate(experiment)  # another coordinator was faster: look again at what is left
        return
    dispatch.follow(experiment, old, new)


def drain(turn: Turn) -> State:
    """One turn: fold in what waits, one update after another, and commit.

    Nobody could have fetched the versions in between, so it is the same as committing each.
    """
    experiment = turn.spec.experiment
    if turn.state.head.phase != "running" or not (turn.has_mail or is_round_open(turn)):
        return turn.state
    so_far = Drain(state=turn.state, server=turn.server())
    settle(turn, so_far)  # a round whose last sites went away
    for site in turn.waiting:
        if so_far.state.head.phase != "running":
            break
        take_in(turn, so_far, site)
        hooks.reached("aggregate.draining")
    order_next(turn, so_far)
    if so_far.state == turn.state and not turn.has_mail:
        return turn.state
    try:
        committed = turn.commit(
            so_far.state,
            server=so_far.server,
            history=so_far.history,
            events=so_far.events,
            is_mail_handled=True,
        )
    except ExperimentError as error:
        return give_up(turn, str(error))
    exposition.observe(experiment.name, so_far.history)
    return committed


def give_up(turn: Turn, reason: str) -> State:
    """End with the version before the one that cannot be sent: to try again would come to the same."""
    so_far = Drain(state=turn.state, server=turn.server())
    finish(turn, so_far, "failed", reason)
    return turn.commit(so_far.state, events=so_far.events, is_mail_handled=True)


def is_round_open(turn: Turn) -> bool:
    """Whether a round has all the updates that it will get: it is to be closed, or waits for its quorum."""
    return turn.spec.experiment.strategy.is_synchronous and not turn.state.outstanding


def take_in(turn: Turn, so_far: Drain, site: str) -> None:
    """Fold in what one site submitted, or refuse it."""
    strategy = turn.spec.experiment.strategy
    try:
        found = turn.submission(site, so_far.server.params)
        if found is None:
            return
        submission, num_bytes = found
        update = checked_update(turn, so_far.server, site, submission)
    except MalformedMessage as error:
        refuse(turn, so_far, site, str(error), is_fault=True)
    else:
        if strategy.max_staleness is not None and update.staleness > strategy.max_staleness:
            reason = f"staleness {update.staleness} is past the maximum of {strategy.max_staleness}"
            refuse(turn, so_far, site, reason, is_fault=False)
        else:
            accept(turn, so_far, site, submission, num_bytes, update)
    settle(turn, so_far)


def settle(turn: Turn, so_far: Drain) -> None:
    """Let the server take its step if that is due, and stop if this was the last."""
    experiment, num_sites = turn.spec.experiment, len(so_far.state.sites)
    num_outstanding = len(so_far.state.outstanding) + len(so_far.refused)
    so_far.server = experiment.strategy.close(so_far.server, num_outstanding, num_sites, reuse=True)
    so_far.state = state.advance(so_far.state, so_far.server.version)
    if reason := state.reason_to_stop(so_far.state.head, experiment, turn.now):
        finish(turn, so_far, "completed", reason)


def checked_update(turn: Turn, server: Server, site: str, submission: Submission) -> Update:
    """The submission as an update of the current model.

    Raises:
        MalformedMessage: it has no delta, or one that does not fit the model, is not finite or too large.
    """
    if submission.delta is None:
        raise MalformedMessage(f"the site could not train: {submission.error}")
    record, experiment = turn.state.sites[site], turn.spec.experiment
    coding = messages.coding_of_delta(experiment, site, record.sequence)
    delta = codec.unpack_tree(submission.delta, server.params, coding, unpacked=False)
    if path := trees.out_of_bounds(delta):
        raise MalformedMessage(f"leaf {path!r} of the delta is not finite, or beyond {trees.MAX_ABSOLUTE:g}")
    max_norm = experiment.strategy.max_norm
    if max_norm is not None and (norm := trees.norm(delta)) > max_norm:
        raise MalformedMessage(f"norm {norm:g} is past the maximum of {max_norm:g}")
    if submission.num_examples < 1:
        raise MalformedMessage("expected a number of examples of at least 1")
    base_version = record.base_version
    assert base_version is not None  # the site is outstanding
    staleness = server.version - base_version
    base: Params = {}
    if experiment.strategy.uses_base:
        base = turn.base(base_version) if staleness else server.params
    return Update(delta=delta, base=base, num_examples=submission.num_examples, staleness=staleness)


def accept(
    turn: Turn, so_far: Drain, site: str, submission: Submission, num_bytes: int, update: Update
) -> None:
    """Fold the update in and write its row; `version` is the first that holds it."""
    strategy, record = turn.spec.experiment.strategy, turn.state.sites[site]
    before = so_far.server.version
    so_far.server = strategy.fold(so_far.server, update, reuse=True)
    so_far.state = state.accept(
        so_far.state,
        site,
        staleness=update.staleness,
        bytes_up=num_bytes,
        bytes_down=submission.bytes_down,
        now=turn.now,
    )
    so_far.history.append(
        HistoryRow(
            time=turn.now,
            site=site,
            order=record.sequence,
            base_version=before - update.staleness,
            version=before + 1,
            staleness=update.staleness,
            weight=strategy.weight(update),
            num_examples=update.num_examples,
            loss=submission.loss,
            bytes_up=num_bytes,
            bytes_down=submission.bytes_down,
            started=submission.started,
            seconds=submission.seconds,
        )
    )


def order_next(turn: Turn, so_far: Drain) -> None:
    """Add the orders and the evaluation that follow from what was folded in."""
    new, experiment = so_far.state, turn.spec.experiment
    if new.head.phase != "running":
        return
    if len(new.active) < (needed := experiment.strategy.needed(len(new.sites))):
        finish(turn, so_far, "failed", too_few(len(new.active), needed))
        return
    has_advanced = so_far.server.version > turn.state.head.version
    idle: Sequence[str] = new.idle
    if experiment.strategy.is_synchronous:
        idle = idle if has_advanced else so_far.refused
        at_hand = frozenset(new.at_hand)
        new = state.owe(new, [site for site in idle if site not in at_hand])
        idle = [site for site in idle if site in at_hand]
    new = state.order(new, idle, turn.now)
    since = new.head.version - (new.head.evaluated or 0)
    if new.head.evaluating is None and since >= experiment.evaluation.every:
        new = state.evaluate(new, turn.now)
    so_far.state = new


def too_few(num_left: int, needed: int) -> str:
    """Why an experiment has failed."""
    if num_left == 0:
        return "every site was dropped; the events say why"
    return (
        f"{num_left} sites are left, and a round needs {needed}; the events say why the others were dropped"
    )
