"""The ledger under random interleavings: whatever happens in whatever order, every order has one fate.

The clock is faked; Redis, the transactions and the aggregation are real. Coordinators are driven one half
turn at a time (read and decide; commit), sites by what may happen to them, and Redis forgets what it was
told last.
"""

import hashlib
from contextlib import ExitStack
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tasks import (
    aggregate,
    codec,
    collect,
    dispatch,
    keys,
    messages,
    progress,
    state,
    supervise,
    turn,
)
from tasks.ledger import Ledger
from tasks.messages import Event, Order, Submission
from tasks.site_ledger import LEASE, Lease, SiteLedger
from tasks.supervise import Care
from tasks.turn import Turn
from tests import soundness
from tests.conftest import announce, make_spec, zeros
from workers import description
from workers.description import Description
from workers.errors import Conflict
from workers.params import Params
from workers.schema import Schema

SITES = ("a", "ab", "c")
UPDATES = 12
LAYOUT = {"features": ["x"], "target": {"kind": "regression", "column": "y"}}
AT_HOME = {"dataset": "ours", "layout": LAYOUT, "quorum": 0.6}  # two of three sites


def delta_of(claim: str) -> Params:
    """The delta of an order: the same whenever it is done, another for another order of the same number."""
    seed = int.from_bytes(hashlib.sha256(claim.encode()).digest()[:8], "big")
    rng = np.random.default_rng(seed)
    return {path: rng.normal(size=leaf.shape).astype(np.float32) for path, leaf in zeros().items()}


def description_of(schema: Schema, site: str) -> Description:
    """What a site tells of its examples, whenever it is asked."""
    return description.describe(schema, np.arange(10.0 * (1 + SITES.index(site)))[:, None])


def wide_zeros() -> Params:
    """An initial model that is large enough to be compressed."""
    return {"weight": np.zeros((400, 1), np.float32), "bias": np.zeros(1, np.float32)}


def drain(turn: Turn) -> state.State:
    """As `aggregate` does."""
    return aggregate.DRAINS.get(turn.state.head.phase, aggregate.drain)(turn)


def repair(turn: Turn) -> state.State:
    """As `supervise` does."""
    return supervise.repair(turn, Care())


def repair_as_a_successor(turn: Turn) -> state.State:
    """As a coordinator does that has just started, and finds that nobody was there."""
    return supervise.repair(turn, Care(patience=2.0, lapse=2.0 * LEASE))


def stopped(old: state.State, reason: str, now: float) -> state.State:
    """As a person stops it, who lets the sites score the last version."""
    return state.finish(old, "stopped", reason, now) if old.head.phase in ("describing", "running") else old


class Ledgers(RuleBasedStateMachine):
    client: redis.Redis
    strategy: dict[str, object]
    is_described: bool
    is_personal: bool
    compression: dict[str, object]
    num_updates: int
    now: float

    def __init__(self) -> None:
        super().__init__()
        self.client.flushall()
        changes = {} if self.is_described else {"data": AT_HOME}
        changes |= {"personal": {"kind": "fine-tuning"}} if self.is_personal else {}
        self.spec = make_spec(
            strategy=self.strategy,
            stop={"updates": self.num_updates},
            evaluation={"every": 2},
            compression=self.compression,
            **changes,
        )
        if not self.is_described:
            self.spec = replace(self.spec, schema=replace(self.spec.schema, preprocessing=None))
        Ledger(self.client).create("trial", self.spec, zeros())
        self.site_ledger = SiteLedger(self.client)
        self.held: list[tuple[str, object]] = []  # claim and lease of every worker that believes it has one
        self.told: dict[str, str] = {}  # every claim that a message was ever sent for, to its order's id
        self.to_describe: set[str] = set()  # claims of orders that ask for a description
        self.to_personalize: set[str] = set()  # and of those that ask for a model of the site's own
        self.claims: dict[str, str] = {}  # of the orders that this ledger has given, by id: the newest
        self.taken_back: list[str] = []  # orders that ended without a row or an event of their own
        self.here = set(SITES)  # whose worker lives and is heard
        self.gone_for_good: set[str] = set()
        self.num_workers = 0
        self.turns: dict[str, tuple[ExitStack, Turn, dict[str, object]]] = {}
        self.copies: list[tuple[dict[bytes, tuple[int, bytes]], dict[str, str], list[str]]] = []
        self.listen()
        self.redis_writes_to_its_disk()

    @initialize(site=st.sampled_from([None, *SITES]))
    def a_site_is_gone_for_good_at_last(self, site):
        self.gone_for_good = {site} - {None}

    def teardown(self) -> None:
        for stack, *_ in self.turns.values():
            stack.close()
        self.turns.clear()
        self.ends_by_itself()

    def listen(self) -> None:
        """Note the orders that stand, as messages for them would be sent."""
        for site in SITES:
            if stored := self.client.get(keys.order("trial", site)):
                order = messages.decode(Order, stored)
                self.told[order.claim] = order.id
                self.claims[order.id] = order.claim
                if order.asks == "describe":
                    self.to_describe.add(order.claim)
                elif order.asks == "personalize":
                    self.to_personalize.add(order.claim)

    def answer_of(self, claim: str) -> Params:
        """What the order of this claim asks for."""
        if claim in self.to_personalize:
            return {}
        if claim not in self.to_describe:
            return delta_of(claim)
        return description_of(self.spec.schema, claim.partition("/")[0]).params

    def answer(self, claim: str, delta: Params) -> Submission:
        """What a site submits for the order of this claim; what cannot be compressed it sends as it is."""
        order, issued = claim.split(" ")
        is_finite = all(np.isfinite(leaf).all() for leaf in delta.values())
        tree = codec.pack_tree(delta, self.coding_of(order) if is_finite else codec.RAW)
        return Submission(order=order, issued=float(issued), delta=tree, num_examples=1 + len(order))

    def coding_of(self, order: str) -> codec.Coding:
        site, _, number = order.partition("/")
        return messages.coding_of_delta(self.spec.experiment, site, int(number))

    def delta_that_counts(self, order: str) -> Params:
        """What the coordinator takes of an order's delta."""
        coding = self.coding_of(order)
        return codec.unpack_tree(
            codec.pack_tree(delta_of(self.claims[order]), coding), None, coding, unpacked=False
        )

    # What sites may do

    @rule(data=st.data())
    def a_message_is_delivered_perhaps_again_perhaps_late(self, data):
        order = data.draw(st.sampled_from(list(dict.fromkeys(self.told.values()))))
        self.num_workers += 1
        taken = self.site_ledger.take("trial", order, holder=f"worker{self.num_workers}")
        if taken is not None:
            assert taken.order.id == order
            assert taken.order.claim == self.claims[order]
            self.held.append((taken.order.claim, taken.lease))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def a_worker_submits_perhaps_after_its_lease_ran_out_perhaps_again(self, data):
        claim, lease = data.draw(st.sampled_from(self.held))
        standing = self.client.get(keys.order("trial", claim.partition("/")[0]))
        is_asked = standing is not None and messages.decode(Order, standing).claim == claim
        assert self.site_ledger.submit("trial", lease, self.answer(claim, self.answer_of(claim))) == is_asked

    @precondition(lambda self: self.held)
    @rule(data=st.data(), leaf=st.sampled_from(["nan", "shape", "missing"]))
    def a_worker_submits_what_must_be_refused(self, data, leaf):
        claim, lease = data.draw(st.sampled_from(self.held))
        bad = self.answer_of(claim) or delta_of(claim)  # which is larger than what is asked for
        path = min(bad)
        if leaf == "nan":
            bad[path][0] = np.nan
        elif leaf == "shape":
            bad[path] = np.zeros(2, bad[path].dtype)
        else:
            del bad[path]
        self.site_ledger.submit("trial", lease, self.answer(claim, bad))

    @precondition(lambda self: self.held)
    @rule(data=st.data(), is_renewed=st.booleans())
    def a_worker_renews_its_lease_or_hands_it_back_perhaps_when_it_is_anothers(self, data, is_renewed):
        claim, lease = data.draw(st.sampled_from(self.held))
        before, own = self.client.get(lease.key), lease.value.encode()
        if is_renewed:
            stored = self.client.get(lease.order_key)
            stands = stored is not None and messages.decode(messages.Order, stored).claim == claim
            assert self.site_ledger.renew(lease) == (before == own or (before is None and stands))
            assert self.client.get(lease.key) in (before, own)
        else:
            self.site_ledger.hand_back(lease)
            assert self.client.get(lease.key) == (None if before == own else before)
            self.held.remove((claim, lease))

    @rule(site=st.sampled_from(SITES))
    def a_site_carries_out_what_it_is_asked_for_and_has_its_next_order(self, site):
        self.carry_out(site, "quick")
        self.in_one_go(drain)

    @precondition(lambda self: self.forgotten)
    @rule(data=st.data())
    def a_worker_submits_what_it_trained_in_a_future_that_is_forgotten(self, data):
        claim = data.draw(st.sampled_from(self.forgotten))
        site = claim.partition("/")[0]
        lease = Lease(
            key=keys.lease("trial", site),
            order="",
            order_key=keys.order("trial", site),
            value="",
            started=0.0,
        )
        assert not self.site_ledger.submit("trial", lease, self.answer(claim, self.answer_of(claim)))

    @rule(data=st.data())
    def an_old_submission_is_put_back(self, data):
        claim = data.draw(st.sampled_from(self.forgotten or list(self.told)))
        site = claim.partition("/")[0]
        self.client.set(keys.delta("trial", site), messages.encode(self.answer(claim, self.answer_of(claim))))
        self.client.rpush(keys.inbox("trial"), site)

    @rule(site=st.sampled_from(SITES), garbage=st.none() | st.binary(max_size=40))
    def garbage_lies_where_a_submission_should_or_a_name_in_the_inbox_for_no_reason(self, site, garbage):
        if garbage is not None:
            self.client.set(keys.delta("trial", site), garbage)
        self.client.rpush(keys.inbox("trial"), site, "nobody", f"{site}/1", "")

    @rule(site=st.sampled_from(SITES))
    def a_lease_runs_out(self, site):
        self.client.delete(keys.lease("trial", site))

    @rule(site=st.sampled_from(SITES), is_missed=st.booleans())
    def a_site_falls_silent_and_is_perhaps_missed(self, site, is_missed):
        self.here.discard(site)
        self.a_lease_runs_out(site)
        if is_missed:
            self.time_passes_and_supervision_looks()

    @rule(site=st.sampled_from(SITES))
    def a_site_is_heard_again(self, site):
        self.here.add(site)
        announce(self.client, site, seen=self.now)

    @property
    def forgotten(self) -> list[str]:
        """Claims of orders that this ledger has never given, while one of the same number stands."""
        found = progress.read(self.client, "trial").sites
        standing = [f"{s.name}/{s.record.sequence}" for s in found if s.record.base_version is not None]
        return [
            claim for claim, order in self.told.items() if order in standing and self.claims[order] != claim
        ]

    def carry_out(self, site, holder):
        """Take the site's order and submit, if it has one that is to be had."""
        stored = self.client.get(keys.order("trial", site))
        order = messages.decode(Order, stored) if stored else None
        taken = self.site_ledger.take("trial", order.id, holder) if order else None
        if taken is not None:
            submission = self.answer(order.claim, self.answer_of(order.claim))
            assert self.site_ledger.submit("trial", taken.lease, submission)

    # What coordinators may do; there are two by mistake

    @rule(
        who=st.sampled_from(["first", "second"]),
        decide=st.sampled_from([drain, repair, repair_as_a_successor]),
    )
    def a_coordinator_reads_and_decides(self, who, decide):
        if who not in self.turns:
            self.read_and_decide(who, decide)

    @rule(who=st.sampled_from(["first", "second"]), dies=st.sampled_from([False, False, False, True]))
    def a_coordinator_commits_or_finds_that_the_other_was_faster_or_dies(self, who, dies=False):
        if dies and who in self.turns:
            self.turns.pop(who)[0].close()
        if who in self.turns:
            stack, turn, arguments = self.turns.pop(who)
            with stack:
                try:
                    new = Turn.commit(turn, **arguments)
                except Conflict:
                    return
            self.taken_back += self.ended_without_a_row(turn.state, new, arguments)
            self.listen()

    def ended_without_a_row(self, old, new, arguments):
        """Orders taken back; before and after training those that told something else than an update."""
        told = {row.site for row in arguments.get("history", ())}
        told |= {event.site for event in arguments.get("events", ()) if event.kind == "refused"}
        may_end = old.head.phase != "running" or (self.is_personal and new.head.phase == "finishing")
        ended = [
            site
            for site in old.outstanding
            if new.sites[site].base_version is None or new.sites[site].sequence > old.sites[site].sequence
        ]
        return [
            f"{site}/{old.sites[site].sequence}"
            for site in ended
            if site not in told and (may_end or new.sites[site].is_owed)
        ]

    @rule(site=st.sampled_from(SITES))
    def a_worker_has_started(self, site):
        self.a_site_is_heard_again(site)
        care = Care(started={site: "0123456789abcdef"})
        self.in_one_go(lambda turn: supervise.repair(turn, care))

    @rule()
    def time_passes_and_supervision_looks(self):
        self.now += LEASE + 1
        for site in self.here:
            announce(self.client, site, seen=self.now)
        self.in_one_go(repair)
        self.in_one_go(drain)

    @rule()
    def sites_score_the_version_that_is_asked_for(self):
        asked = progress.read(self.client, "trial").head.evaluating
        if asked is not None:
            for site in self.here:
                self.site_ledger.put_evaluation("trial", site, asked, 10, {"mse": 1.0, "r2": 0.5})
            self.in_one_go(collect.close_evaluation)

    # What people may do

    @rule(data=st.data(), leave=st.sampled_from([state.at_rest, stopped]))
    def somebody_stops_it_and_resumes_it(self, data, leave):
        self.in_one_go(lambda turn: turn.commit(leave(turn.state, "by hand", turn.now)))
        if self.held:
            self.a_worker_submits_perhaps_after_its_lease_ran_out_perhaps_again(data)
        self.in_one_go(drain)
        self.the_ledger_is_sound()
        self.sites_score_the_version_that_is_asked_for()
        self.in_one_go(self.resume)

    def resume(self, turn):
        """As a person does, unless it runs or has come to its end."""
        head, is_synchronous = turn.state.head, self.spec.experiment.strategy.is_synchronous
        if head.phase == "finished" and head.outcome != "completed":
            new = state.resume(turn.state, is_synchronous=is_synchronous, now=turn.now)
            turn.commit(new, events=[Event(time=turn.now, kind="resumed")])

    # What Redis may do

    @rule()
    def redis_writes_to_its_disk(self):
        with self.client.pipeline() as pipe:
            names = self.client.keys()
            for name in names:
                pipe.pttl(name).dump(name)
            found = pipe.execute()
        stored = {name: (found[2 * at], found[2 * at + 1]) for at, name in enumerate(names)}
        self.copies.append((stored, dict(self.claims), list(self.taken_back)))

    @rule(data=st.data())
    def redis_has_forgotten_what_it_was_told_last(self, data):
        at = data.draw(st.integers(0, len(self.copies) - 1))
        del self.copies[at + 1 :]  # of a future that has never been
        stored, claims, taken_back = self.copies[at]
        with self.client.pipeline() as pipe:
            pipe.flushall()
            for name, (milliseconds, value) in stored.items():
                pipe.restore(name, max(milliseconds, 0), value)
            pipe.execute()
        self.claims, self.taken_back = dict(claims), list(taken_back)

    def in_one_go(self, decide):
        self.read_and_decide("at once", decide)
        self.a_coordinator_commits_or_finds_that_the_other_was_faster_or_dies("at once")

    def read_and_decide(self, who, decide):
        stack = ExitStack()
        turn = stack.enter_context(Ledger(self.client).turn("trial"))
        written: dict[str, object] = {}
        turn.commit = lambda new, **arguments: written.update(new=new, **arguments) or new
        decide(turn)
        if written:
            self.turns[who] = (stack, turn, written)
        else:
            stack.close()

    # What must hold at any moment

    @invariant()
    def the_ledger_is_sound(self):
        soundness.check(self.client, self.spec.experiment, self.delta_that_counts, self.taken_back)

    @invariant()
    def there_is_a_preprocessing_once_enough_sites_have_told(self):
        if self.is_described:
            return
        schema, head = Ledger(self.client).spec("trial").schema, progress.read(self.client, "trial").head
        assert (schema.preprocessing is not None) == head.is_described
        told = [description_of(schema, site) for site in SITES]
        enough = [known for count in (2, 3) for known in combinations(told, count)]
        data = self.spec.experiment.data
        possible = [description.combine(self.spec.schema, data, known).preprocessing for known in enough]
        assert schema.preprocessing in [None, *possible]

    def ends_by_itself(self):
        """From wherever it is, it comes to its end, though a site may be gone for good."""
        self.in_one_go(self.resume)
        self.here = set(SITES) - self.gone_for_good
        for _ in range(10 * self.num_updates):
            found = progress.read(self.client, "trial")
            if found.head.phase == "finished":
                break
            alive = {s.name for s in found.sites if not s.record.is_dropped and s.name in self.here}
            experiment = self.spec.experiment
            needed = [experiment.strategy.needed(len(SITES)), experiment.data.needed(len(SITES))]
            if len(alive) < max(needed):
                self.here = set(SITES)  # it waits for who is gone
            for site in SITES:
                self.a_lease_runs_out(site)  # Redis's own clock is not the faked one
            self.time_passes_and_supervision_looks()
            for site in self.here:
                self.carry_out(site, "last")
            self.sites_score_the_version_that_is_asked_for()
        assert found.head.phase == "finished"
        assert found.head.outcome in ("completed", "stopped", "failed")
        if found.head.outcome == "completed":
            assert found.head.applied == self.num_updates
        self.the_ledger_is_sound()


def run_machine(
    client, monkeypatch, strategy, *, max_examples, is_described=True, is_personal=False, compression=None
):
    class Machine(Ledgers):
        def __init__(self) -> None:
            self.client, self.strategy, self.now = client, strategy, 1000.0
            self.is_described, self.is_personal = is_described, is_personal
            self.compression = compression or {}
            self.num_updates = 3 if is_personal else UPDATES  # so that there are random steps after the last
            monkeypatch.setattr(turn, "now", lambda _pipe: self.time())
            super().__init__()

        def time(self) -> float:
            """No two turns are at the same moment."""
            self.now += 1e-3
            return self.now

    # How many messages wait in a queue is the broker's to say; here there is none.
    monkeypatch.setattr(dispatch, "num_waiting", lambda queues: dict.fromkeys(queues, 0))
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=max_examples,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize(
    "strategy",
    [
        {"kind": "fedasync", "mixing_rate": 0.5, "max_staleness": 3},
        {"kind": "fedbuff", "buffer_size": 3, "server_optimizer": {"name": "sgd", "learning_rate": 0.7}},
        {"kind": "fedavg"},
        {"kind": "fedavg", "quorum": 1.0},
    ],
    ids=lambda strategy: "-".join(
        str(value) for value in (strategy["kind"], strategy.get("quorum", "")) if value
    ),
)
def test_every_order_has_one_fate_whatever_happens_in_whatever_order(client, monkeypatch, strategy):
    run_machine(client, monkeypatch, strategy, max_examples=16)


@pytest.mark.parametrize("kind", ["fedbuff", "fedavg"])
def test_an_experiment_that_is_to_be_described_first_is_as_sound(client, monkeypatch, kind):
    strategy = {"kind": kind, **({"buffer_size": 3} if kind == "fedbuff" else {})}
    run_machine(client, monkeypatch, strategy, is_described=False, max_examples=8)


@pytest.mark.parametrize("kind", ["fedasync", "fedavg"])
def test_an_experiment_with_personal_models_is_as_sound(client, monkeypatch, kind):
    run_machine(client, monkeypatch, {"kind": kind}, is_personal=True, max_examples=8)


@pytest.mark.parametrize(
    "down",
    [{"kind": "bfloat16"}, {"kind": "differences", "coding": {"kind": "int8"}}],
    ids=lambda down: down["kind"],
)
def test_an_experiment_whose_messages_are_compressed_is_as_sound(client, monkeypatch, down):
    """Of differences, one site has seen all that there ever was, also what Redis has forgotten."""
    for module in ("tests.test_ledger_machine", "tests.soundness"):
        monkeypatch.setattr(f"{module}.zeros", wide_zeros)
    compression = {"up": {"kind": "int8"}, "down": down}
    strategy = {"kind": "fedbuff", "buffer_size": 3}
    run_machine(client, monkeypatch, strategy, compression=compression, max_examples=8)
