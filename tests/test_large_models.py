"""Messages too large for a string of Redis, in small: written, read, lost, and made up by a hospital."""

import dataclasses

import numpy as np
import pytest
import redis

from orchestrator import archive, control, experiment
from tasks import aggregate, codec, keys, messages, progress, snapshot, turn, values
from tasks.cache import Cache
from tasks.ledger import Ledger
from tasks.messages import Submission
from tasks.site_ledger import SiteLedger
from tasks.values import Upload
from tests.conftest import constant, drain, make_spec, order_of, submit
from tests.test_strategies import assert_same_bits
from workers import params as trees
from workers.errors import Conflict, ExperimentError, MalformedMessage

PIECE, LARGE = 10_000, 100_000
KEY, DELTA = keys.model("trial", 3), keys.delta("trial", "a")
STRATEGIES = (
    {"kind": "fedasync", "mixing_rate": 0.5},
    {"kind": "fedbuff", "buffer_size": 2},
    {"kind": "fedavg"},
)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(values, "PIECE", PIECE)
    monkeypatch.setattr(values, "LARGE", LARGE)
    monkeypatch.setattr(turn, "remembered", Cache(max_bytes=LARGE))


def params_of(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    shapes = {"weight": (300, 100), "bias": (5_000,), "scale": ()}
    return {path: (scale * rng.normal(size=shape)).astype(np.float32) for path, shape in shapes.items()}


def begin(client, **changes):
    spec = make_spec(**changes)
    assert Ledger(client).create("trial", spec, params_of(0)) is not None
    return spec


def put(client, key, message):
    """Write it as everybody does."""
    with values.uploaded(client, {key: message}) as upload, client.pipeline() as pipe:
        upload.watch(pipe)
        pipe.multi()
        upload.put(pipe)
        pipe.execute()


def message_of(tree):
    return codec.tree_in_parts(tree)


def unfinished(client):
    return client.keys("fedelta:{trial}:new:*")


def model_of(client):
    return progress.model(client, "trial", progress.read(client, "trial").head.version)


# Writing and reading


@pytest.mark.parametrize("before", [None, "string", "hash"])
def test_a_large_message_is_a_hash_of_pieces_whatever_was_there_before(client, before):
    if before == "string":
        client.set(KEY, "x", ex=100)
    elif before == "hash":
        put(client, KEY, message_of({**params_of(2), "more": np.ones(50_000, np.float32)}))
    message = message_of(params_of(1))
    put(client, KEY, message)
    assert client.type(KEY) == b"hash" and client.ttl(KEY) == -1
    num_pieces = -(-len(message) // PIECE)
    lengths = [client.hstrlen(KEY, number) for number in range(1, num_pieces + 1)]
    assert client.hlen(KEY) == 1 + num_pieces
    assert lengths[:-1] == [PIECE] * (num_pieces - 1) and sum(lengths) == len(message)
    assert values.read(client, KEY) == values.read(client, KEY, len(message)) == message.whole
    assert not unfinished(client)


@pytest.mark.parametrize("num_bytes", [LARGE - 1, LARGE, LARGE + 1])
def test_a_message_up_to_a_size_is_a_string(client, num_bytes):
    put(client, KEY, codec.Parts(bytes(num_bytes)))
    assert client.type(KEY) == (b"hash" if num_bytes > LARGE else b"string")
    assert values.read(client, KEY) == bytes(num_bytes)


class Seen:
    """A Redis with which something happens before a piece is read."""

    def __init__(self, client, before):
        self.client, self.before, self.num_pieces = client, before, 0

    def hget(self, key, number):
        self.before(self.num_pieces)
        self.num_pieces += 1
        return self.client.hget(key, number)

    def __getattr__(self, name):
        return getattr(self.client, name)


@pytest.mark.parametrize("limit", [None, 10**6])
@pytest.mark.parametrize("number", [0, 1, 5, 14, 15])
def test_a_message_that_is_another_while_it_is_read_is_read_again(client, limit, number):
    new = message_of(params_of(2))
    put(client, KEY, message_of(params_of(1)))
    seen = Seen(client, lambda count: count == number and put(client, KEY, new))
    assert values.read(seen, KEY, limit) == new.whole
    client.delete(KEY)
    put(client, KEY, message_of(params_of(1)))
    seen = Seen(client, lambda count: count == number and client.set(KEY, b"short"))
    assert values.read(seen, KEY, limit) == b"short"


@pytest.mark.parametrize("limit", [None, 10**6])
@pytest.mark.parametrize("number", [0, 1, 14, 15])
def test_a_message_that_is_deleted_while_it_is_read_is_none(client, limit, number):
    put(client, KEY, message_of(params_of(1)))
    seen = Seen(client, lambda count: count == number and client.delete(KEY))
    assert values.read(seen, KEY, limit) is None


def test_what_is_another_each_time_is_refused_in_the_end(client, monkeypatch):
    monkeypatch.setattr(values, "ATTEMPTS", 3)
    put(client, KEY, message_of(params_of(1)))
    seen = Seen(client, lambda count: count % 5 == 4 and put(client, KEY, message_of(params_of(1))))
    with pytest.raises(MalformedMessage, match="expected a message, got something else each of 3 times"):
        values.read(seen, KEY, 10**6)


def test_a_large_message_has_the_identity_that_it_begins_with(client):
    message = message_of(params_of(1))
    put(client, KEY, message)
    assert values.identity(client, KEY) == message.begin == message.whole[: codec.PREFIX]
    assert values.identity(client, "elsewhere") == b""


# From an order to the next version


class Shared(Cache):
    """Trees that nobody changes."""

    def take(self, client, key, decode):
        found = self.tree(client, key, decode)
        return found and found[0]


@pytest.mark.parametrize("down", [{}, {"down": {"kind": "float16"}}], ids=["as it is", "compressed"])
@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: strategy["kind"])
def test_an_experiment_comes_to_the_same_in_pieces_as_in_strings_that_nobody_changes(
    client, monkeypatch, strategy, down
):
    found = []
    for large, kind in ((LARGE // 2, Cache), (10**9, Shared)):
        monkeypatch.setattr(values, "LARGE", large)
        monkeypatch.setattr(turn, "remembered", kind(max_bytes=large))
        client.flushall()
        spec = begin(client, strategy=strategy, compression=down)
        for number in range(1, 4):
            fetched, num_bytes = SiteLedger(client).model(
                spec.experiment, order_of(client, "a").base_version, params_of(0)
            )
            assert_same_bits(fetched, model_of(client))
            assert num_bytes > LARGE // 2
            for site in ("a", "ab", "c"):
                assert submit(client, f"{site}/{number}", params_of(10 * number + len(site), 0.1))
            kinds = {client.type(keys.delta("trial", site)) for site in ("a", "ab", "c")}
            new = drain(client)
            kinds.add(client.type(keys.model("trial", new.head.version)))
            assert kinds == {b"string" if large == 10**9 else b"hash"}
            assert new.head.refused == 0 and not client.keys("*:delta:*") and not unfinished(client)
        head = progress.read(client, "trial").head
        found.append((head.version, head.bytes_up, model_of(client)))
    assert found[0][:2] == found[1][:2]
    assert_same_bits(found[0][2], found[1][2])


def test_what_a_turn_has_read_of_a_large_model_is_what_it_changes_and_nothing_of_it_is_kept(client):
    begin(client)
    for site, seed in (("a", 1), ("c", 2)):
        submit(client, f"{site}/1", params_of(seed))
    with Ledger(client).turn("trial") as first:
        server = first.server()
        weight = server.params["weight"]
        first.server = lambda: server
        aggregate.drain(first)
    assert_same_bits({"weight": weight}, {"weight": model_of(client)["weight"]})
    assert not np.array_equal(weight, params_of(0)["weight"])
    assert not turn.remembered._kept and not first._models


def test_of_large_models_a_turn_has_one_at_a_time(client):
    begin(client)
    submit(client, "a/1", params_of(1))
    drain(client)
    with Ledger(client).turn("trial") as found:
        for version in (0, 1, 1):
            found.model(version)
            assert list(found._models) == [version]


def test_what_was_promised_to_stay_as_it_is_stays(client):
    begin(client)
    submit(client, "a/1", params_of(1))
    with Ledger(client).turn("trial") as found:
        base = found.base(0)
        server = found.server()
        assert not np.shares_memory(base["weight"], server.params["weight"])
        aggregate.drain(found)
    assert_same_bits(base, params_of(0))


# Races, and writers that die


def test_of_two_coordinators_the_one_that_loses_leaves_nothing(client):
    begin(client)
    submit(client, "a/1", params_of(1))
    with Ledger(client).turn("trial") as slow:
        drain(client)
        before = {key: client.dump(key) for key in client.keys("fedelta:*")}
        with pytest.raises(Conflict):
            aggregate.drain(slow)
    assert {key: client.dump(key) for key in client.keys("fedelta:*")} == before


def test_a_submission_that_comes_too_late_leaves_nothing(client):
    begin(client)
    taken = SiteLedger(client).take("trial", "a/1", "worker")
    client.delete(keys.order("trial", "a"))
    late = Submission(order="a/1", issued=taken.order.issued, delta=codec.pack_tree(params_of(1)))
    assert not SiteLedger(client).submit("trial", taken.lease, late)
    assert not unfinished(client) and not client.exists(DELTA)


def test_an_order_that_is_sent_again_meanwhile_is_answered_with_what_was_written_once(client, monkeypatch):
    begin(client)
    begun, watch = [], Upload.watch
    monkeypatch.setattr(Upload, "begin", lambda upload, write=Upload.begin: (begun.append(1), write(upload)))

    def sent_again(upload, pipe):
        watch(upload, pipe)
        if len(begun) == 1:
            begun.append(2)
            order = dataclasses.replace(order_of(client, "a"), attempt=2)
            client.set(keys.order("trial", "a"), messages.encode(order))

    monkeypatch.setattr(Upload, "watch", sent_again)
    assert submit(client, "a/1", params_of(1))
    assert begun == [1, 2] and client.type(DELTA) == b"hash" and not unfinished(client)


def test_what_a_killed_writer_leaves_goes_away_and_is_in_nobodys_way(client):
    begin(client)
    killed = Upload(client, {DELTA: message_of(params_of(1))})
    killed.begin()
    (left,) = unfinished(client)
    assert 0 < client.ttl(left) <= values.UNFINISHED_SECONDS
    assert not client.exists(DELTA) and model_of(client)["bias"].size == 5_000
    assert submit(client, "a/1", params_of(1))
    assert drain(client).head.applied == 1
    assert unfinished(client) == [left]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_what_is_gone_before_it_is_put_in_its_place_is_not_put_there(client, monkeypatch, moment):
    begin(client)
    watch = Upload.watch

    def watch_what_goes(upload, pipe):
        if moment == "before":
            client.delete(*unfinished(client))
        watch(upload, pipe)
        client.delete(*unfinished(client))

    submit(client, "a/1", params_of(1))
    before = {key: client.dump(key) for key in client.keys("fedelta:*")}
    with monkeypatch.context() as patch:
        patch.setattr(Upload, "watch", watch_what_goes)
        with pytest.raises(redis.RedisError if moment == "before" else Conflict, match="trial"):
            drain(client)
    assert {key: client.dump(key) for key in client.keys("fedelta:*")} == before
    assert drain(client).head.applied == 1


# What a hospital may write in place of its delta


def answer(client):
    """A submission of `a`'s that would count, in its pieces."""
    order = order_of(client, "a")
    delta = codec.pack_tree(params_of(1))
    return messages.in_parts(Submission(order=order.id, issued=order.issued, delta=delta, num_examples=1))


HOSTILE = {
    "a piece is missing": lambda client: client.hdel(DELTA, 7),
    "a piece is too short": lambda client: client.hset(DELTA, 7, bytes(PIECE - 1)),
    "a piece is too long": lambda client: client.hset(DELTA, 7, bytes(PIECE + 1)),
    "the last is too long": lambda client: client.hset(DELTA, 15, bytes(PIECE)),
    "a piece is another's": lambda client: client.hset(DELTA, 1, bytes(PIECE)),
    "there is no beginning": lambda client: client.hdel(DELTA, 0),
    "the beginning is too long": lambda client: client.hset(DELTA, 0, bytes(PIECE)),
    "the beginning is too short": lambda client: client.hset(DELTA, 0, b"x"),
    "it says that it is nothing": lambda client: client.hset(DELTA, 0, bytes(values.START)),
    "it says that it is short": lambda client: client.hset(DELTA, 0, bytes(15) + (5).to_bytes(8, "big")),
    "it says that it is longer": lambda client: client.hset(
        DELTA, 0, bytes(15) + (150_000).to_bytes(8, "big")
    ),
    "it says that it is huge": lambda client: client.hset(DELTA, 0, b"\xff" * values.START),
    "a hash of something": lambda client: client.delete(DELTA) and client.hset(DELTA, "row", b"x"),
    "a list": lambda client: client.delete(DELTA) and client.rpush(DELTA, b"x"),
}


@pytest.mark.parametrize("done", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("model", [params_of(0), constant(0.0)], ids=["large", "small"])
def test_pieces_that_make_no_message_are_refused_and_the_turn_goes_on(client, done, model):
    Ledger(client).create("trial", make_spec(), model)
    put(client, DELTA, answer(client))
    done(client)
    client.rpush(keys.inbox("trial"), "a")
    submit(client, "c/1", model)
    new = drain(client)
    assert (new.head.applied, new.head.refused) == (1, 1)
    (event,) = [event for event in progress.events(client, "trial") if event.kind == "refused"]
    assert event.site == "a" and event.detail
    assert not client.exists(DELTA) and order_of(client, "a").sequence == 2


def test_of_pieces_that_are_too_many_none_is_read(client):
    begin(client)
    put(client, DELTA, codec.Parts(bytes(200_000)))
    seen = Seen(client, lambda _: None)
    with pytest.raises(MalformedMessage, match="expected at most 150000 bytes, got 200000"):
        values.read(seen, DELTA, 150_000)
    client.hset(DELTA, 3, bytes(10**6))
    with pytest.raises(MalformedMessage, match="expected 10000 bytes of piece 3, got 1000000"):
        values.read(seen, DELTA, 200_000)
    assert seen.num_pieces == 3  # the beginning alone, and whether it is still that
    client.hset(DELTA, 0, bytes(10**6))
    with pytest.raises(MalformedMessage, match="expected 23 bytes of piece 0, got 1000000"):
        values.read(seen, DELTA, 200_000)
    assert seen.num_pieces == 3


def test_a_message_in_pieces_counts_though_there_is_more_in_the_hash(client):
    begin(client)
    put(client, DELTA, answer(client))
    client.hset(DELTA, "more", "x")
    client.rpush(keys.inbox("trial"), "a")
    assert drain(client).head.applied == 1


# A buffer that is empty


def test_an_empty_buffer_takes_no_room_and_one_that_was_stored_as_zeros_is_still_read(client):
    models = []
    for are_stored in (False, True):
        client.flushall()
        begin(client, strategy=STRATEGIES[1])
        if are_stored:
            tree = codec.decode_tree(client.get(keys.memory("trial")), None)
            put(
                client,
                keys.memory("trial"),
                message_of({path: np.array(leaf) for path, leaf in tree.items()}),
            )
            assert client.type(keys.memory("trial")) == b"hash"
        else:
            assert client.strlen(keys.memory("trial")) < 1000
        submit(client, "a/1", params_of(1))
        assert drain(client).head.version == 0
        assert client.type(keys.memory("trial")) == b"hash"
        submit(client, "c/1", params_of(2))
        assert drain(client).head.version == 1
        assert client.strlen(keys.memory("trial")) < 1000
        models.append(model_of(client))
    assert_same_bits(*models)


def test_what_is_blank_is_written_as_nothing_in_our_own_trees_and_as_it_is_in_a_hospitals():
    tree = {"weight": trees.blank((300, 100), np.dtype(np.float32)), "bias": np.ones(2, np.float32)}
    written = codec.encode_tree(tree)
    assert len(written) < 500
    for reference in (None, tree):
        found = codec.decode_tree(written, reference)
        assert_same_bits(found, tree)
        assert trees.is_blank(found["weight"]) and not trees.is_blank(found["bias"])
    (_, leaf), _ = codec.pack_tree(tree)
    assert (leaf["encoding"], len(leaf["data"])) == ("raw", 120_000)
    as_nothing = [["weight", {**leaf, "encoding": "blank", "data": b""}]]
    with pytest.raises(MalformedMessage, match="the array of leaf 'weight': expected dtype, shape, encoding"):
        codec.unpack_tree(as_nothing, {"weight": tree["weight"]})


# Moving


def test_a_file_that_unpacks_to_far_more_than_it_has_is_refused_before_it_is_unpacked(
    client, tmp_path, monkeypatch
):
    monkeypatch.setattr(archive, "MAX_TREES", 100_000)
    spec = make_spec()
    zeros = {path: np.zeros_like(leaf) for path, leaf in params_of(0).items()}
    Ledger(client).create("trial", spec, zeros)
    archive.write(tmp_path / "trial.zip", snapshot.take(client, "trial"), experiment.text(spec.experiment))
    with pytest.raises(ExperimentError, match="model, memory: expected at most 100000 bytes, got 140"):
        with archive.opened(tmp_path / "trial.zip"):
            pytest.fail("it was accepted")


def test_a_large_experiment_is_exported_and_imported_and_goes_on(client, tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "PACKED", LARGE)
    monkeypatch.setattr(archive, "MAX_TREES", 0)
    spec = begin(client, strategy=STRATEGIES[1])
    for site, seed in (("a", 1), ("c", 2), ("ab", 3)):
        submit(client, f"{site}/1", params_of(seed))
        drain(client)
    control.stop(client, "trial")
    taken = snapshot.take(client, "trial")
    expected = model_of(client)
    assert_same_bits(codec.decode_tree(taken.model, None), expected)
    reference = spec.experiment.strategy.init(params_of(0))
    memory = codec.decode_tree(taken.memory, reference)
    assert int(memory["count"]) == 1 and memory["sum/weight"].any()
    archive.write(tmp_path / "trial.zip", taken, experiment.text(spec.experiment))
    monkeypatch.setattr(archive.inspection, "model_like", lambda *_: params_of(0))  # the spec's is another
    with archive.opened(tmp_path / "trial.zip") as found:
        client.flushall()
        assert snapshot.put(client, found.snapshot)
    assert_same_bits(model_of(client), expected)
    assert client.type(keys.memory("trial")) == b"hash" and not unfinished(client)
    assert len(list(progress.history(client, "trial"))) == 3
    found = archive.Members(tmp_path / "trial.zip")
    assert found.read("model", 10**6) == taken.model and found.read("memory", 10**6) == taken.memory
    assert (tmp_path / "trial.zip").stat().st_size > len(taken.model) + len(taken.memory)
    found.bound(["model", "memory"], least=0, ratio=1)
    found.close()


@pytest.mark.parametrize("num_updates", [1, 2])
def test_a_snapshot_of_one_that_runs_is_of_one_moment(client, monkeypatch, num_updates):
    begin(client, strategy=STRATEGIES[1])
    for number, site in enumerate(("a", "c")[:num_updates], 1):
        submit(client, f"{site}/1", params_of(number))
    read, drained = values.read, []

    def read_slowly(found, key, limit=None):
        value = read(found, key, limit)
        if key == keys.memory("trial") and not drained:
            drained.append(True)
            drain(client)
        return value

    monkeypatch.setattr(snapshot.values, "read", read_slowly)
    taken = snapshot.take(client, "trial")
    assert (taken.state.head.version, taken.state.head.applied) == (num_updates // 2, num_updates)
    memory = codec.decode_tree(taken.memory, None)
    assert int(memory["count"]) == num_updates % 2
    assert trees.below("sum", memory)["weight"].any() == (num_updates == 1)
    assert_same_bits(codec.decode_tree(taken.model, None), model_of(client))
