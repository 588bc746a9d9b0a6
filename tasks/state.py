"""The state of an experiment and its transitions: pure functions from state to state, no Redis, no clock.

A site has at most one unfinished order:

    open ── lease set ──> leased ── delta stored ──> submitted ── accepted ──> (gone: a history row)
      ^                     │ lease ran out            │ refused (bad shape, not finite, too stale, ...)
      └──── resend ─────────┘                          └──> gone; the site is ordered anew, or dropped

What is here is what the coordinator knows and alone writes: which order is unfinished. Lease and delta are
the site's own keys.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from pydantic import NonNegativeInt

from workers.metrics import Metrics, is_better
from workers.settings import settings
from workers.spec import Experiment

MAX_REFUSALS = 5  # in a row, before a site is dropped: a deterministic mistake would come back for ever

# `describing`: the sites say what their examples are like, before the first of them trains.
Phase: TypeAlias = Literal["describing", "running", "finishing", "finished"]
Outcome: TypeAlias = Literal["", "completed", "stopped", "failed"]


@settings
class SiteRecord:
    """What the coordinator knows of one site."""

    sequence: NonNegativeInt = 0  # of its last order
    base_version: NonNegativeInt | None = None  # of its unfinished order; None: it has none
    issued: float = 0.0  # when that order was given
    attempt: NonNegativeInt = 0  # how often it was sent
    sent_at: float = 0.0
    updates: NonNegativeInt = 0
    staleness: NonNegativeInt = 0  # of its last update
    refusals: NonNegativeInt = 0  # in a row
    is_owed: bool = False  # it is to have an order as soon as it can: its last was taken back, or it was away
    is_away: bool = False  # nothing was heard of it, and nobody holds its lease
    is_dropped: bool = False
    software: str = ""  # that it last announced
    absences: NonNegativeInt = 0  # how often it went away
    resent: NonNegativeInt = 0  # orders sent again
    refused: NonNegativeInt = 0  # submissions, in all

    @property
    def is_done(self) -> bool:
        """Whether it takes part, and nothing more is asked of it."""
        return not (self.is_dropped or self.is_owed or self.base_version is not None)


@settings
class Head:
    """The experiment in a line."""

    phase: Phase = "running"
    is_described: bool = True  # the preprocessing of inputs is known
    outcome: Outcome = ""
    reason: str = ""
    version: NonNegativeInt = 0
    applied: NonNegativeInt = 0
    refused: NonNegativeInt = 0
    resent: NonNegativeInt = 0
    absences: NonNegativeInt = 0  # of sites
    bytes_up: NonNegativeInt = 0
    bytes_down: NonNegativeInt = 0
    started: float
    paused: float = 0.0  # seconds between stops and resumptions
    resumed: float = 0.0  # the last time
    first_update: float | None = None
    finished: float | None = None
    evaluating: NonNegativeInt | None = None  # the version that the sites are asked to score
    evaluating_since: float = 0.0
    evaluated: NonNegativeInt | None = None  # the version last scored
    best: float | None = None  # of the watched metric
    evaluations_since_best: NonNegativeInt = 0
    commits: NonNegativeInt = 0  # every transition counts one; readers that remember it see any change


@dataclass(frozen=True, kw_only=True)
class State:
    """All that the coordinator decides from."""

    head: Head
    sites: Mapping[str, SiteRecord]

    @property
    def active(self) -> tuple[str, ...]:
        """Sites that take part."""
        return tuple(site for site, record in self.sites.items() if not record.is_dropped)

    @property
    def at_hand(self) -> tuple[str, ...]:
        """Sites that take part and are not away."""
        return tuple(site for site in self.active if not self.sites[site].is_away)

    @property
    def outstanding(self) -> tuple[str, ...]:
        """Sites with an unfinished order."""
        return tuple(site for site, record in self.sites.items() if record.base_version is not None)

    @property
    def idle(self) -> tuple[str, ...]:
        """Sites that take part and have no order."""
        return tuple(site for site in self.active if self.sites[site].base_version is None)

    @property
    def needed_versions(self) -> frozenset[int]:
        """Versions whose model somebody may still ask for."""
        asked = [self.head.version, self.head.evaluating]
        asked += [record.base_version for record in self.sites.values()]
        return frozenset(version for version in asked if version is not None)


def begin(sites: Iterable[str], now: float, *, is_described: bool = True) -> State:
    """A new experiment: every site has its first order, and scores the model as it is before training.

    One that is not described yet has orders to describe.
    """
    head = Head(started=now, evaluating=0, evaluating_since=now)
    if not is_described:
        head = Head(started=now, phase="describing", is_described=False)
    state = State(head=head, sites={site: SiteRecord() for site in sites})
    return order(state, state.active, now)


def told(state: State, site: str) -> State:
    """The site has described its examples, and its order is gone."""
    record = dataclasses.replace(state.sites[site], base_version=None, refusals=0)
    return _with_records(state, {site: record})


def begin_training(state: State, *, is_synchronous: bool, now: float) -> State:
    """Enough sites have described their examples: every site has an order to train.

    The time until now does not count. In a synchronous experiment a site that is away has its order when it
    is back.
    """
    state = _with_head(
        _take_back(state),
        phase="running",
        is_described=True,
        paused=max(state.head.paused, now - state.head.started),
        evaluating=0,
        evaluating_since=now,
    )
    if not is_synchronous:
        return order(state, state.active, now)
    return order(owe(state, state.active), state.at_hand, now)


def order(state: State, sites: Iterable[str], now: float) -> State:
    """Each of these sites has a new order from the current version."""
    base = state.head.version
    return _with_records(
        state,
        {
            site: dataclasses.replace(
                state.sites[site],
                sequence=state.sites[site].sequence + 1,
                base_version=base,
                issued=now,
                attempt=1,
                sent_at=now,
                is_owed=False,
            )
            for site in sites
        },
    )


def resend(state: State, site: str, now: float) -> State:
    """The site's unfinished order is sent again: its message or its worker was lost."""
    record = state.sites[site]
    record = dataclasses.replace(record, attempt=record.attempt + 1, sent_at=now, resent=record.resent + 1)
    return _with_head(_with_records(state, {site: record}), resent=state.head.resent + 1)


def accept(state: State, site: str, *, staleness: int, bytes_up: int, bytes_down: int, now: float) -> State:
    """The site's update was folded in, and its order is gone."""
    record = state.sites[site]
    record = dataclasses.replace(
        record, base_version=None, updates=record.updates + 1, staleness=staleness, refusals=0
    )
    head = state.head
    return _with_head(
        _with_records(state, {site: record}),
        applied=head.applied + 1,
        bytes_up=head.bytes_up + bytes_up,
        bytes_down=head.bytes_down + bytes_down,
        first_update=head.first_update or now,
    )


def advance(state: State, version: int) -> State:
    """The model is at this version."""
    return _with_head(state, version=version)


def refuse(state: State, site: str, *, is_fault: bool) -> State:
    """The site's update was not folded in, and its order is gone.

    After too many faults in a row so is the site; an update that only came too late is no fault.
    """
    record = state.sites[site]
    refusals = record.refusals + 1 if is_fault else record.refusals
    record = dataclasses.replace(
        record,
        base_version=None,
        refusals=refusals,
        refused=record.refused + 1,
        is_dropped=refusals >= MAX_REFUSALS,
    )
    return _with_head(_with_records(state, {site: record}), refused=state.head.refused + 1)


def go_away(state: State, site: str, *, takes_back: bool) -> State:
    """Nothing is heard of the site; where others would wait for it, its order is taken back."""
    record = state.sites[site]
    record = dataclasses.replace(record, is_away=True, absences=record.absences + 1)
    if takes_back and record.base_version is not None:
        record = dataclasses.replace(record, base_version=None, is_owed=True)
    return _with_head(_with_records(state, {site: record}), absences=state.head.absences + 1)


def come_back(state: State, site: str, now: float) -> State:
    """The site is there again, and has the order that it is owed."""
    state = _with_records(state, {site: dataclasses.replace(state.sites[site], is_away=False)})
    return order(state, [site], now) if state.sites[site].is_owed else state


def owe(state: State, sites: Iterable[str]) -> State:
    """These sites are to have an order as soon as they can."""
    return _with_records(
        state, {site: dataclasses.replace(state.sites[site], is_owed=True) for site in sites}
    )


def identify(state: State, site: str, software: str) -> State:
    """The site has announced this software."""
    return _with_records(state, {site: dataclasses.replace(state.sites[site], software=software)})


def evaluate(state: State, now: float) -> State:
    """The sites are asked to score the current version."""
    return _with_head(state, evaluating=state.head.version, evaluating_since=now)


def evaluated(state: State, experiment: Experiment, metrics: Metrics, now: float) -> State:
    """The sites have scored the version that they were asked for; a finishing experiment is finished."""
    head = state.head
    value = metrics.get(experiment.watched_metric)
    is_best = value is not None and (
        head.best is None or is_better(experiment.watched_metric, value, than=head.best)
    )
    state = _with_head(
        state,
        evaluating=None,
        evaluated=head.evaluating,
        best=value if is_best else head.best,
        evaluations_since_best=0 if is_best else head.evaluations_since_best + 1,
    )
    return close(state, now)


def finish(state: State, outcome: Outcome, reason: str, now: float, *, is_personal: bool = False) -> State:
    """No more orders to train; when the last version is scored, the experiment is finished.

    Where models are personal, every site that is there has a last order: to make its own.
    """
    state = _with_head(_take_back(state), outcome=outcome, reason=reason, phase="finishing")
    if is_personal and state.head.is_described:
        state = owe(state, state.active)  # one that is away has its order if it comes back in time
        state = order(state, state.at_hand, now)
    is_scored = state.head.evaluated == state.head.version or not state.head.is_described
    if is_scored or not state.active:
        return close(_with_head(state, evaluating=None), now)
    return state if state.head.evaluating == state.head.version else evaluate(state, now)


def personalized(state: State, site: str, now: float, *, has_failed: bool) -> State:
    """The site has its own model, or cannot make one; its last order is gone."""
    failures, record = int(has_failed), state.sites[site]
    record = dataclasses.replace(record, base_version=None, is_owed=False, refused=record.refused + failures)
    state = _with_head(_with_records(state, {site: record}), refused=state.head.refused + failures)
    return close(state, now)


def give_up(state: State, now: float) -> State:
    """A finishing experiment waits for no more of the sites' own models."""
    return close(_take_back(state), now)


def close(state: State, now: float) -> State:
    """Finished, if the experiment is finishing and nothing is asked of anybody any more."""
    if state.head.phase != "finishing" or state.head.evaluating is not None or state.outstanding:
        return state
    return _with_head(state, phase="finished", finished=now)


def at_rest(state: State, reason: str, now: float) -> State:
    """The same, stopped at once: no order is open, nobody is asked to score; `resume` goes on from there."""
    if state.head.phase == "finished":
        return state
    outcome = state.head.outcome or "stopped"  # one that is finishing has come to its own end
    return _with_head(
        _take_back(state),
        phase="finished",
        outcome=outcome,
        reason=state.head.reason or reason,
        finished=now,
        evaluating=None,
    )


def resume(state: State, *, is_synchronous: bool, now: float) -> State:
    """A finished experiment goes on from where it is; sites that were dropped have another chance.

    In a synchronous one, a site whose update is already in the round waits for the others, and one that is
    away has its order when it comes back. Before training, all sites describe their examples anew.
    """
    again = {
        site: dataclasses.replace(
            record, refusals=0, is_dropped=False, is_owed=record.is_owed or record.is_dropped
        )
        for site, record in state.sites.items()
    }
    state = _with_head(
        _with_records(state, again),
        phase="running" if state.head.is_described else "describing",
        outcome="",
        reason="",
        finished=None,
        paused=state.head.paused + max(0.0, now - (state.head.finished or now)),
        resumed=now,
        evaluations_since_best=0,
    )
    if not state.head.is_described:
        return order(owe(state, state.active), state.at_hand, now)
    if not is_synchronous:
        return order(state, state.active, now)
    owed = [site for site in state.active if state.sites[site].is_owed]
    return order(state, [site for site in owed or state.active if not state.sites[site].is_away], now)


def counted(state: State) -> State:
    """The same, one commit later."""
    return _with_head(state, commits=state.head.commits + 1)


def reason_to_stop(head: Head, experiment: Experiment, now: float) -> str | None:
    """Which stop condition on updates, versions or time holds, in words."""
    stop = experiment.stop
    if stop.updates and head.applied >= stop.updates:
        return f"{stop.updates} updates are applied"
    if stop.versions and head.version >= stop.versions:
        return f"version {stop.versions} is reached"
    if stop.seconds and now - head.started - head.paused >= stop.seconds:
        return f"{stop.seconds:g} seconds have passed"
    return None


def reason_to_stop_after(head: Head, metrics: Metrics, experiment: Experiment) -> str | None:
    """Which stop condition on metrics holds, after an evaluation, in words."""
    target, patience = experiment.stop.target, experiment.stop.patience
    if target:
        value = metrics.get(target.metric)
        if value is not None and not is_better(target.metric, target.value, than=value):
            return f"{target.metric} has reached {target.value:g}"
    if patience and head.evaluations_since_best >= patience:
        return f"{experiment.watched_metric} is no better since {patience} evaluations"
    return None


def _take_back(state: State) -> State:
    """No order is open."""
    return _with_records(
        state,
        {
            site: dataclasses.replace(state.sites[site], base_version=None, is_owed=True)
            for site in state.outstanding
        },
    )


def _with_records(state: State, changed: Mapping[str, SiteRecord]) -> State:
    return dataclasses.replace(state, sites={**state.sites, **changed})


def _with_head(state: State, **changed: object) -> State:
    return dataclasses.replace(state, head=dataclasses.replace(state.head, **changed))  # type: ignore[arg-type]  # fields of Head by name
