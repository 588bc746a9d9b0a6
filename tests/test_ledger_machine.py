"""The ledger under random interleavings: whatever happens in whatever order, every order has one fate.

The clock is faked; Redis, the transactions and the aggregation are real. Coordinators are driven one half
turn at a time (read and decide; commit), sites by what may happen to them.
"""

import hashlib
from contextlib import ExitStack

import numpy as np
import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from tasks import aggregate, codec, collect, dispatch, keys, ledger, messages, progress, supervise
from tasks.ledger import Ledger, Turn
from tasks.messages import Submission
from tasks.site_ledger import LEASE, SiteLedger
from tests.conftest import make_spec, zeros
from workers.errors import Conflict
from workers.params import Params
from workers.strategies import Server, Update

SITES = ("a", "ab", "c")
UPDATES = 12


def delta_of(order_id: str) -> Params:
    """The delta of an order: the same whenever it is done."""
    seed = int.from_bytes(hashlib.sha256(order_id.encode()).digest()[:8], "big")
    rng = np.random.default_rng(seed)
    return {path: rng.normal(size=leaf.shape).astype(np.float32) for path, leaf in zeros().items()}


class Ledgers(RuleBasedStateMachine):
    client: redis.Redis
    strategy: dict[str, object]

    def __init__(self) -> None:
        super().__init__()
        self.client.flushall()
        self.now = 1000.0
        self.spec = make_spec(strategy=self.strategy, stop={"updates": UPDATES}, evaluation={"every": 2})
        Ledger(self.client).create("trial", self.spec, zeros())
        self.site_ledger = SiteLedger(self.client)
        self.held: list[tuple[str, object]] = []  # leases that some worker believes it has, and its order
        self.told: list[str] = []  # every order that a message was ever sent for
        self.turns: dict[str, tuple[ExitStack, Turn, dict[str, object]]] = {}
        self.listen()

    def teardown(self) -> None:
        for stack, *_ in self.turns.values():
            stack.close()
        self.turns.clear()
        self.ends_by_itself()

    def listen(self) -> None:
        """Note the orders that stand, as messages for them would be sent."""
        for site in SITES:
            if stored := self.client.get(keys.order("trial", site)):
                order = messages.decode(messages.Order, stored).id
                if order not in self.told:
                    self.told.append(order)

    # What sites may do

    @rule(data=st.data())
    def a_message_is_delivered_perhaps_again_perhaps_late(self, data):
        order = data.draw(st.sampled_from(self.told))
        taken = self.site_ledger.take("trial", order, holder=f"worker{len(self.held)}")
        if taken is not None:
            assert taken.order.id == order
            self.held.append((order, taken.lease))

    @rule(data=st.data())
    def a_worker_submits_perhaps_after_its_lease_ran_out_perhaps_again(self, data):
        if self.held:
            order, lease = data.draw(st.sampled_from(self.held))
            self.submit(order, lease, delta_of(order))

    @rule(data=st.data(), leaf=st.sampled_from(["nan", "shape", "missing"]))
    def a_worker_submits_what_must_be_refused(self, data, leaf):
        if self.held:
            order, lease = data.draw(st.sampled_from(self.held))
            bad = delta_of(order)
            if leaf == "nan":
                bad["bias"][0] = np.nan
            elif leaf == "shape":
                bad["bias"] = np.zeros(2, np.float32)
            else:
                del bad["bias"]
            self.submit(order, lease, bad)

    @rule(site=st.sampled_from(SITES), garbage=st.binary(max_size=40))
    def garbage_lies_where_a_submission_should(self, site, garbage):
        self.client.set(keys.delta("trial", site), garbage)
        self.client.rpush(keys.inbox("trial"), site)

    @rule(data=st.data())
    def an_old_submission_is_put_back(self, data):
        order = data.draw(st.sampled_from(self.told))
        site = order.rpartition("/")[0]
        old = Submission(order=order, delta=codec.pack_tree(delta_of(order)), num_examples=1 + len(order))
        self.client.set(keys.delta("trial", site), messages.encode(old))
        self.client.rpush(keys.inbox("trial"), site)

    @rule(entry=st.sampled_from(["nobody", "a/1", "", "ab"]))
    def the_inbox_names_somebody_for_no_reason(self, entry):
        self.client.rpush(keys.inbox("trial"), entry)

    @rule(site=st.sampled_from(SITES))
    def a_lease_runs_out(self, site):
        self.client.delete(keys.lease("trial", site))

    def submit(self, order, lease, delta):
        submission = Submission(order=order, delta=codec.pack_tree(delta), num_examples=1 + len(order))
        self.site_ledger.submit("trial", lease, submission)

    # What coordinators may do; there are two by mistake

    @rule(
        who=st.sampled_from(["first", "second"]),
        decide=st.sampled_from([aggregate.drain, lambda turn: supervise.repair(turn, {})]),
    )
    def a_coordinator_reads_and_decides(self, who, decide):
        if who not in self.turns:
            self.read_and_decide(who, decide)

    @rule(who=st.sampled_from(["first", "second"]))
    def a_coordinator_commits_or_finds_that_the_other_was_faster(self, who):
        if who in self.turns:
            stack, turn, arguments = self.turns.pop(who)
            with stack:
                try:
                    Turn.commit(turn, **arguments)
                except Conflict:
                    pass
            self.listen()

    @rule(who=st.sampled_from(["first", "second"]))
    def a_coordinator_dies(self, who):
        if who in self.turns:
            self.turns.pop(who)[0].close()

    @rule()
    def time_passes_and_supervision_looks(self):
        self.now += LEASE + 1
        for decide in (lambda turn: supervise.repair(turn, {}), aggregate.drain):
            self.read_and_decide("clock", decide)
            self.a_coordinator_commits_or_finds_that_the_other_was_faster("clock")

    @rule()
    def sites_score_the_version_that_is_asked_for(self):
        asked = progress.read(self.client, "trial").head.evaluating
        if asked is not None:
            for site in SITES:
                self.site_ledger.put_evaluation("trial", site, asked, 10, {"mse": 1.0, "r2": 0.5})
            self.read_and_decide("scores", collect.close_evaluation)
            self.a_coordinator_commits_or_finds_that_the_other_was_faster("scores")

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
        found = progress.read(self.client, "trial")
        rows = list(progress.history(self.client, "trial"))
        refused = [e.order for e in progress.events(self.client, "trial") if e.kind == "refused"]
        check_versions_and_counts(found, rows)
        check_every_order_has_one_fate(found, rows, refused)
        check_nobody_is_left_without_an_order(found, self.spec.experiment.strategy)
        params = self.replay(found, rows)
        stored = progress.model(self.client, "trial", found.head.version)
        assert codec.encode_tree(stored) == codec.encode_tree(params)
        kept = {int(key.rpartition(b":")[2]) for key in self.client.keys("fedelta:{trial}:model:*")}
        bases = {site.record.base_version for site in found.sites}
        assert kept == {found.head.version, found.head.evaluating, *bases} - {None}

    def replay(self, found, rows):
        """The model that the history says: every update folded in as its row tells."""
        strategy = self.spec.experiment.strategy
        server = Server(params=zeros(), version=0, memory=strategy.init(zeros()))
        models = {0: server.params}
        for place, row in enumerate(rows):
            update = Update(
                delta=delta_of(f"{row.site}/{row.order}"),
                base=models[row.base_version],
                num_examples=row.num_examples,
                staleness=row.staleness,
            )
            assert row.weight == strategy.weight(update)
            server = strategy.fold(server, update)
            # A round is over when its last row is there and the ledger has gone on.
            is_last = place + 1 == len(rows) or rows[place + 1].version != row.version
            server = strategy.close(server, 0 if is_last and server.version < found.head.version else 1)
            models[server.version] = server.params
        assert server.version == found.head.version
        return server.params

    def ends_by_itself(self):
        """From wherever it is, with every site alive again, the experiment comes to its end."""
        for _ in range(10 * UPDATES):
            found = progress.read(self.client, "trial")
            if found.head.phase == "finished":
                break
            for site in SITES:
                self.a_lease_runs_out(site)  # Redis's own clock is not the faked one
            self.time_passes_and_supervision_looks()
            for order in list(self.told):
                taken = self.site_ledger.take("trial", order, holder="last")
                if taken is not None:
                    self.submit(order, taken.lease, delta_of(order))
            self.sites_score_the_version_that_is_asked_for()
        assert found.head.phase == "finished"
        if found.head.outcome == "completed":
            assert found.head.applied == UPDATES
        self.the_ledger_is_sound()


def check_versions_and_counts(found, rows):
    versions = [row.version for row in rows]
    assert sorted(set(versions)) == list(range(1, max(versions, default=0) + 1))
    assert versions == sorted(versions)
    assert found.head.applied == len(rows) <= UPDATES
    assert all(row.staleness == row.version - 1 - row.base_version >= 0 for row in rows)


def check_every_order_has_one_fate(found, rows, refused):
    """Each that was ever given is in the history once, or refused once, or open, or taken back at the end."""
    applied = [f"{row.site}/{row.order}" for row in rows]
    assert len(refused) == found.head.refused
    standing = [
        f"{site.name}/{site.record.sequence}"
        for site in found.sites
        if site.record.base_version is not None or site.record.is_interrupted
    ]
    issued = [f"{s.name}/{number}" for s in found.sites for number in range(1, s.record.sequence + 1)]
    assert sorted(applied + refused + standing) == sorted(issued)


def check_nobody_is_left_without_an_order(found, strategy):
    if found.head.phase == "running":
        active = [site for site in found.sites if not site.record.is_dropped]
        idle = [site for site in active if site.record.base_version is None]
        assert len(idle) < len(active) if strategy.is_synchronous else not idle


@pytest.mark.parametrize(
    "strategy",
    [
        {"kind": "fedasync", "mixing_rate": 0.5, "max_staleness": 3},
        {"kind": "fedbuff", "buffer_size": 3, "server_optimizer": {"name": "sgd", "learning_rate": 0.7}},
        {"kind": "fedavg"},
    ],
    ids=lambda strategy: strategy["kind"],
)
def test_every_order_has_one_fate_whatever_happens_in_whatever_order(client, monkeypatch, strategy):
    class Machine(Ledgers):
        def __init__(self) -> None:
            self.client, self.strategy = client, strategy
            monkeypatch.setattr(ledger, "_now", lambda _pipe: self.now if hasattr(self, "now") else 1000.0)
            super().__init__()

    # How many messages wait in a queue is the broker's to say; here there is none.
    monkeypatch.setattr(dispatch, "num_waiting", lambda queue: 0)
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=40,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
