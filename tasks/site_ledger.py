"""The ledger as one site uses it: all that a hospital's credentials need to be able to do.

It reads the spec, models and its own order; it writes its own lease, submission and evaluations, announces
itself, pushes its name to the inbox, and rings its bell. `orchestrator.access` allows just that.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import redis

from tasks import bell, cache, codec, differences, keys, messages, values
from tasks.bell import Call
from tasks.messages import Announcement, EvaluationRow, Offer, Order, Submission
from workers.errors import NotFound
from workers.metrics import Metrics
from workers.params import Array, Params
from workers.spec import Differences, Experiment, Spec

LEASE = 10  # seconds that a lease lasts if its holder does not renew it
REMEMBERED = 30 * 24 * 3600  # seconds that a site's last announcement is kept
MAX_EVALUATIONS = 10_000  # kept per site, about
# Sites of one worker that want the same version fetch it once, and one that scores what it trains from, too.
remembered = cache.Cache(max_bytes=64 * 2**20, keeps_last=True)


@dataclass(frozen=True, kw_only=True)
class Lease:
    """The right to work on an order, while it is renewed."""

    key: str
    order: str  # its id
    order_key: str
    value: str  # the order's claim, and the holder
    started: float  # by the ledger's clock


@dataclass(frozen=True, kw_only=True)
class Taken:
    """An order, and the lease on it."""

    order: Order
    lease: Lease


class SiteLedger:
    """What a site's worker reads and writes."""

    def __init__(self, client: redis.Redis) -> None:
        """Use this Redis; `app.connect` says which."""
        self._redis = client

    def announce(
        self, sites: Iterable[str], software: str, call: Call, datasets: Sequence[Offer] = ()
    ) -> None:
        """Say that these sites' worker lives, now, and has these data sets of its own; and ring."""
        said = Announcement(seen=self._now(), software=software, datasets=list(datasets))
        announcement = messages.encode(said)
        with self._redis.pipeline(transaction=False) as pipe:
            for site in sites:
                pipe.set(keys.site(site), announcement, ex=REMEMBERED)
                bell.ring(pipe, site, call)
            pipe.execute()

    def leave(self, sites: Iterable[str]) -> None:
        """Ring that these sites' worker ends."""
        with self._redis.pipeline(transaction=False) as pipe:
            for site in sites:
                bell.ring(pipe, site, Call(kind="gone"))
            pipe.execute()

    def spec(self, experiment: str) -> Spec:
        """The experiment as it was submitted.

        Raises:
            NotFound: there is none of that name.
        """
        stored = self._redis.get(keys.spec(experiment))
        if stored is None:
            raise NotFound(f"no experiment {experiment!r} in the ledger")
        return messages.decode(Spec, stored)

    def take(self, experiment: str, order_id: str, holder: str) -> Taken | None:
        """The order, and a lease on it; None if it is finished, submitted, or somebody is at work on it."""
        site = order_id.rpartition("/")[0]
        lease_key = keys.lease(experiment, site)
        with self._redis.pipeline() as pipe:
            pipe.watch(keys.order(experiment, site), lease_key)
            stored, held = pipe.mget(keys.order(experiment, site), lease_key)
            order = messages.decode(Order, stored) if stored else None
            if order is None or order.id != order_id:
                return None
            is_held = held is not None and held.startswith(f"{order.claim} ".encode())
            if is_held or pipe.exists(keys.delta(experiment, site)):
                return None
            value = f"{order.claim} {holder}"
            pipe.multi()
            pipe.set(lease_key, value, ex=LEASE)
            pipe.time()
            bell.ring(pipe, site, Call(kind="taken", experiment=experiment, number=order.sequence))
            try:
                _, (seconds, microseconds), _ = pipe.execute()
            except redis.WatchError:
                return None  # the order is gone, or somebody else has the lease now
        return Taken(
            order=order,
            lease=Lease(
                key=lease_key,
                order=order.id,
                order_key=keys.order(experiment, site),
                value=value,
                started=seconds + microseconds / 1e6,
            ),
        )

    def renew(self, lease: Lease) -> bool:
        """Keep the lease for `LEASE` seconds more; False if it is somebody else's by now.

        One that has run out is taken again, if nobody has it and the order still stands.
        """
        with self._redis.pipeline() as pipe:
            pipe.watch(lease.key, lease.order_key)
            held, stored = pipe.mget(lease.key, lease.order_key)
            if held != lease.value.encode() and (held is not None or not _is_on(lease, stored)):
                return False
            pipe.multi()
            pipe.set(lease.key, lease.value, ex=LEASE)
            try:
                pipe.execute()
            except redis.WatchError:
                return False
        return True

    def hand_back(self, lease: Lease) -> None:
        """Work on the order no more: whoever asks for it next has it at once."""
        with self._redis.pipeline() as pipe:
            pipe.watch(lease.key)
            if pipe.get(lease.key) == lease.value.encode():
                pipe.multi()
                pipe.delete(lease.key)
                try:
                    pipe.execute()
                except redis.WatchError:
                    pass  # it is somebody else's by now

    def model(self, experiment: Experiment, version: int, reference: dict[str, Array]) -> tuple[Params, int]:
        """The parameters of a version, and the bytes that were fetched for them.

        Raises:
            NotFound: nobody needs that version any more, so it is deleted.
            MalformedMessage: it is not like the reference: this site has another model of that name.
        """
        tree, num_bytes = None, 0
        if isinstance(experiment.compression.down, Differences):
            tree, num_bytes = differences.follow(self._redis, remembered, experiment, version)
        if tree is not None:
            return tree, num_bytes
        coding = messages.coding_of_model(experiment, version)
        key = keys.model(experiment.name, version)
        found = remembered.tree(self._redis, key, lambda stored: codec.decode_tree(stored, reference, coding))
        if found is None:
            raise NotFound(f"experiment {experiment.name}: version {version} is deleted")
        tree, in_full = found
        return tree, num_bytes + in_full

    def submit(self, experiment: str, lease: Lease, submission: Submission) -> bool:
        """Store the submission, tell the inbox, and ring; False if the order was finished meanwhile."""
        site, _, sequence = submission.order.rpartition("/")
        call = Call(
            kind="submitted",
            experiment=experiment,
            number=int(sequence),
            seconds=submission.seconds,
            has_failed=submission.delta is None,
        )
        order_key = keys.order(experiment, site)
        written = {keys.delta(experiment, site): messages.in_parts(submission)}
        with values.uploaded(self._redis, written) as upload:
            while True:
                with self._redis.pipeline() as pipe:
                    pipe.watch(order_key)
                    stored = pipe.get(order_key)
                    if stored is None or not _asks_for(messages.decode(Order, stored), submission):
                        return False
                    upload.watch(pipe)
                    pipe.multi()
                    upload.put(pipe)
                    pipe.rpush(keys.inbox(experiment), site)
                    pipe.delete(lease.key)
                    bell.ring(pipe, site, call)
                    try:
                        pipe.execute()
                    except redis.WatchError:
                        continue  # the order was sent again meanwhile: look whether it is still the same
                    return True

    def put_evaluation(
        self,
        experiment: str,
        site: str,
        version: int,
        num_examples: int,
        metrics: Metrics,
        seconds: float = 0.0,
    ) -> None:
        """Report the site's score of a version, which took so many seconds, and ring."""
        row = EvaluationRow(time=self._now(), version=version, num_examples=num_examples, metrics=metrics)
        call = Call(kind="scored", experiment=experiment, number=version, seconds=seconds)
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.xadd(
                keys.evaluations(experiment, site), {"row": messages.encode(row)}, maxlen=MAX_EVALUATIONS
            )
            bell.ring(pipe, site, call)
            pipe.execute()

    def _now(self) -> float:
        seconds, microseconds = self._redis.time()
        return float(seconds + microseconds / 1e6)


def _is_on(lease: Lease, stored: bytes | None) -> bool:
    """Whether the lease is one on the order that is stored."""
    return stored is not None and lease.value.startswith(f"{messages.decode(Order, stored).claim} ")


def _asks_for(order: Order, submission: Submission) -> bool:
    return order.id == submission.order and order.issued == submission.issued
