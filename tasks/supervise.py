"""Supervision, at the coordinator: every few seconds, repair what a lost message or a dead process left."""

import logging
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import redis

from tasks import attendance, dispatch, health, messages, state, work
from tasks.aggregate import aggregate, is_round_open
from tasks.app import SUPERVISE_EVERY, app, connect, site_queue
from tasks.collect import collect
from tasks.draining import is_personal
from tasks.ledger import Ledger
from tasks.messages import Announcement, Event, EventKind
from tasks.site_ledger import LEASE
from tasks.state import State
from tasks.turn import Turn
from workers.errors import Conflict, FedeltaError, MalformedMessage

logger = logging.getLogger(__name__)

# A coordinator that starts may be the successor of one that died before it sent what it had committed, so it
# is less patient with what is older than itself.
_BEGUN = time.monotonic()
JUST_SENT = 1.0  # seconds, in which a worker that has just started may be about to take an order


@app.task(name="supervise")
def supervise() -> None:
    """Look after every experiment that runs."""
    client = connect()
    ledger = Ledger(client)
    lapse = attendance.announce_coordinator(client, work.NAME)
    health.say_so()
    patience = min(LEASE, time.monotonic() - _BEGUN + JUST_SENT)
    care = Care(lapse=lapse, patience=patience, is_outage_over=_outage.is_over(lapse))
    for experiment in ledger.running():
        look_after_in_any_case(ledger, experiment, care)


@app.task(name="welcome")
def welcome(site: str, holder: str) -> None:
    """A site's worker has started: what another of its workers held, or never took, is sent again at once."""
    ledger = Ledger(connect())
    for experiment in ledger.running():
        look_after_in_any_case(ledger, experiment, Care(started={site: holder}))


@dataclass(frozen=True, kw_only=True)
class Care:
    """What is known to whoever looks after an experiment, beside the ledger."""

    started: Mapping[str, str] = field(default_factory=dict)  # site -> which worker alone can hold its lease
    patience: float = LEASE  # seconds after which an order that nobody took is sent again
    lapse: float | None = None  # seconds that no coordinator looked
    is_outage_over: bool = True  # the sites, too, have had the time to say that they are there


class Outage:
    """Whether it is the sites' fault that nothing is heard of them: Redis may have been away for all."""

    def __init__(self) -> None:
        """None yet."""
        self._seen = float(-LEASE)

    def is_over(self, lapse: float | None) -> bool:
        """Whether the last lapse without a look at the ledger is a lease ago; `lapse` is the newest."""
        if lapse is not None and lapse > LEASE:
            self._seen = time.monotonic()
        return time.monotonic() - self._seen >= LEASE


_outage = Outage()


def look_after_in_any_case(ledger: Ledger, experiment: str, care: Care) -> None:
    """Repair one experiment; one that cannot be read must not hold up the others."""
    try:
        look_after(ledger, experiment, care)
    except (FedeltaError, redis.ResponseError) as error:
        # One whose submission was cut off has a name, and nothing else.
        level = logging.ERROR if ledger.has(experiment) else logging.DEBUG
        logger.log(level, "%s: cannot be looked after: %s", experiment, error)


def look_after(ledger: Ledger, experiment: str, care: Care) -> None:
    """Repair one experiment, and see to what its sites have sent."""
    try:
        with ledger.turn(experiment) as turn:
            old, new = turn.state, repair(turn, care)
            is_due = turn.has_mail or new.head.phase == "describing" or is_round_open(turn)
            asked = missing_scores(turn)
    except Conflict:
        logger.debug("%s: another coordinator is at work; the next round looks again", experiment)
        return
    dispatch.follow(experiment, old, new)
    if is_due:
        aggregate(experiment)
    if new.head.evaluating is not None:
        for site in asked:
            dispatch.evaluate(experiment, site, new.head.evaluating)
        collect(experiment)


@dataclass
class Repair:
    """What one repair has changed and noted so far."""

    experiment: str
    now: float
    state: State
    events: list[Event] = field(default_factory=list)

    def note(self, kind: EventKind, detail: str, site: str = "", order: str = "") -> None:
        """Let people know, in the events and in the log."""
        detail = messages.one_line(detail)
        self.events.append(Event(time=self.now, kind=kind, site=site, order=order, detail=detail))
        logger.warning("%s %s: %s: %s", self.experiment, order or site, kind, detail)


def repair(turn: Turn, care: Care) -> State:
    """One turn: stop when the time is over, note who is gone or back, send again what is lost."""
    experiment, head = turn.spec.experiment, turn.state.head
    if head.phase == "finished" or (head.phase == "finishing" and not turn.state.outstanding):
        return turn.state
    if head.phase == "running" and (reason := state.reason_to_stop(head, experiment, turn.now)):
        new = state.finish(
            turn.state, "completed", reason, turn.now, is_personal=is_personal(turn, "completed")
        )
        return turn.commit(new, events=[Event(time=turn.now, kind="finished", detail=reason)])
    so_far = Repair(experiment=experiment.name, now=turn.now, state=turn.state)
    if (
        care.lapse is not None
        and (lapse := min(care.lapse, waited(turn, max(head.started, head.resumed)))) > LEASE
    ):
        so_far.note("unattended", f"no coordinator looked after it for {lapse:.0f} s")
    leases, submitted = turn.leases(), turn.submitted()
    if care.is_outage_over:
        call_the_roll(turn, so_far, leases, submitted)
    for site, reason in lost_orders(turn, leases, care).items():
        if site not in submitted and so_far.state.sites[site].base_version is not None:
            so_far.state = state.resend(so_far.state, site, turn.now)
            so_far.note("resent", reason, site, f"{site}/{turn.state.sites[site].sequence}")
    unheard = [site for site in submitted if site not in turn.waiting]
    so_far.state = state.close(so_far.state, turn.now)
    if so_far.state == turn.state and not so_far.events and not unheard:
        return turn.state
    return turn.commit(so_far.state, events=so_far.events, ask_again=unheard)


def call_the_roll(turn: Turn, so_far: Repair, leases: Mapping[str, str], submitted: Collection[str]) -> None:
    """Note which sites have gone, which are back, and with what software.

    A site is away when nobody holds its lease and its worker has not announced itself for as long as a lease
    lasts. One whose submission waits has done all that is asked of it.
    """
    announced = turn.announced()
    seen = {site: said.seen for site, said in announced.items() if isinstance(said, Announcement)}
    recent = attendance.recent(seen, turn.now)
    # Before and after training, too, nobody is waited for who is away.
    is_training = turn.state.head.phase == "running"
    takes_back = turn.spec.experiment.strategy.is_synchronous or not is_training
    for site in turn.state.active:
        record, said = turn.state.sites[site], announced.get(site)
        is_here = site in recent or site in leases
        if is_here and record.is_away:
            so_far.state = state.come_back(so_far.state, site, turn.now)
            so_far.note("back", f"with {said.software}" if isinstance(said, Announcement) else "", site)
        elif is_missing(turn, site, is_here=is_here or site in submitted):
            so_far.state = state.go_away(so_far.state, site, takes_back=takes_back)
            so_far.note("gone", why_away(said, turn.now), site)
        if isinstance(said, Announcement) and said.software != record.software:
            so_far.state = state.identify(so_far.state, site, said.software)
            if record.software:
                so_far.note("software", f"{said.software} now, {record.software} before", site)


def is_missing(turn: Turn, site: str, *, is_here: bool) -> bool:
    """Whether a site is to be noted as away that is not yet; when the experiment begins, it may be starting.

    How old its order is does not matter: a site that has just died may be given one.
    """
    head = turn.state.head
    is_settled = waited(turn, max(head.started, head.resumed)) > LEASE
    return is_settled and not is_here and not turn.state.sites[site].is_away


def why_away(said: Announcement | MalformedMessage | None, now: float) -> str:
    """What is known of a site that is away."""
    if said is None:
        return "never seen"
    if isinstance(said, MalformedMessage):
        return f"what it announces cannot be read here: {said}"
    return f"last seen {max(0.0, now - said.seen):.0f} s ago"


def lost_orders(turn: Turn, leases: Mapping[str, str], care: Care) -> dict[str, str]:
    """By site, why its unfinished order is to be sent again."""
    lost, overdue = {}, []
    for site in turn.state.outstanding:
        holder, seconds = leases.get(site), waited(turn, turn.state.sites[site].sent_at)
        if holder is not None and care.started.get(site, holder) != holder:
            lost[site] = "the worker that was at work on it is gone, and another has started"
        elif holder is None and seconds > (JUST_SENT if site in care.started else care.patience):
            overdue.append((site, seconds))
    waiting = dispatch.num_waiting([site_queue(site) for site, _ in overdue])
    for site, seconds in overdue:
        if not waiting[site_queue(site)]:
            lost[site] = f"nobody is at work on it {seconds:.0f} s after it was sent"
    return lost


def waited(turn: Turn, since: float) -> float:
    """Seconds since then; if the ledger's clock was set back, at least so many that nothing waits for it."""
    return abs(turn.now - since)


def missing_scores(turn: Turn) -> list[str]:
    """Sites to be asked again to score the version: every `LEASE` seconds those whose queue is empty."""
    head = turn.state.head
    if head.evaluating is None:
        return []
    seconds = turn.now - head.evaluating_since
    if int(seconds / LEASE) == int((seconds - SUPERVISE_EVERY) / LEASE):
        return []
    answered = turn.evaluations()
    silent = [site for site in turn.state.active if site not in answered]
    waiting = dispatch.num_waiting([site_queue(site) for site in silent])
    return [site for site in silent if not waiting[site_queue(site)]]
