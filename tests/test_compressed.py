"""Compressed deltas and versions on their way through the ledger: who has exactly which model, and when."""

import dataclasses
import tracemalloc

import msgpack
import numpy as np
import pytest
from pydantic import TypeAdapter

from orchestrator import archive, control, experiment, results
from orchestrator.runs import Run
from tasks import aggregate, codec, collect, keys, messages, preparation, progress, snapshot, values
from tasks.evaluate import evaluate
from tasks.ledger import Ledger
from tasks.messages import Submission
from tasks.participation import participation
from tasks.personalize import measured
from tasks.site_ledger import SiteLedger
from tasks.train import train
from tests.conftest import drain, make_spec, order_of, skip_last_scores
from tests.conftest import submit as submit_packed
from workers import compression, data, description, model_file, personal
from workers import params as trees
from workers.compression import Compression
from workers.errors import ExperimentError, MalformedMessage, NotFound
from workers.spec import Spec

UP = [
    {"kind": "bfloat16"},
    {"kind": "float16"},
    {"kind": "int8"},
    {"kind": "int8", "block": 16, "rotation": True},
    {"kind": "int4"},
    {"kind": "int3"},
    {"kind": "int2"},
    {"kind": "top-k", "fraction": 0.05},
]
DOWN = [kind for kind in UP if kind["kind"] != "top-k"]
STRATEGIES = [
    {"kind": "fedasync", "mixing_rate": 0.5, "staleness": {"kind": "constant"}},
    {
        "kind": "fedbuff",
        "buffer_size": 2,
        "staleness": {"kind": "constant"},
        "server_optimizer": {"name": "adam", "learning_rate": 0.01},
    },
    {"kind": "fedavg", "quorum": 0.1},
]
MIXING = np.float32(0.5)
WIDTH = 300  # features of the model whose deltas are made up: a leaf of 300 values, and one of 1
LONG = 40_000  # features: of these even halves lie apart, and are remembered


def kind_of(written):
    return TypeAdapter(Compression).validate_python(written)


def named(written):
    return "-".join(str(value) for value in written.values() if not isinstance(value, dict))


def spec_of(width=WIDTH, **changes):
    """The experiment of `make_spec` with more features, all of which are as they are."""
    spec = make_spec(**changes)
    found = spec.schema.preprocessing
    wide = dataclasses.replace(
        spec.schema,
        features=tuple(f"x{number}" for number in range(width)),
        preprocessing=dataclasses.replace(
            found, **{field: getattr(found, field) * width for field in ("fill", "shift", "scale")}
        ),
    )
    return dataclasses.replace(spec, schema=wide)


def params_of(seed, scale=1.0, width=WIDTH):
    rng = np.random.default_rng(seed)
    weight = rng.normal(scale=scale, size=(width, 1)).astype(np.float32)
    return {"weight": weight, "bias": rng.normal(scale=scale, size=1).astype(np.float32)}


def begin(client, params=None, up=None, down=None, **changes):
    written = {name: kind for name, kind in (("up", up), ("down", down)) if kind}
    changes = {"strategy": STRATEGIES[0], **changes}
    spec = spec_of(compression=written, **changes)
    assert Ledger(client).create("trial", spec, params_of(0) if params is None else params) is not None
    return spec


def submit(client, spec, order, delta, **facts):
    """Carry out an order as a site does whose training came to this delta."""
    site, _, sequence = order.partition("/")
    coding = messages.coding_of_delta(spec.experiment, site, int(sequence))
    return submit_tree(client, order, codec.pack_tree(delta, coding), **facts)


def submit_tree(client, order, tree, **facts):
    ledger = SiteLedger(client)
    taken = ledger.take("trial", order, holder="worker")
    assert taken is not None, f"{order} is not to be had"
    made = {"order": order, "issued": taken.order.issued, "num_examples": 10, **facts}
    return ledger.submit("trial", taken.lease, Submission(delta=tree, **made))


def exact_of(client):
    """The model that the next version is built on."""
    with Ledger(client).turn("trial") as turn:
        return turn.server().params


def published_of(client, version=None):
    found = progress.read(client, "trial").head.version if version is None else version
    return progress.model(client, "trial", found)


def coded(tree, written, seed):
    """The tree as its receiver has it, by `workers.compression` alone."""
    kind = kind_of(written)
    return {
        path: compression.decode(
            kind, compression.encode(kind, leaf, seed + number), leaf.shape, seed + number
        )
        for number, (path, leaf) in enumerate(tree.items())
    }


def bring_to_rest(client):
    """Stop it by hand, and let its one site score what is asked for."""
    assert control.stop(client, "trial")
    while (asked := progress.read(client, "trial").head.evaluating) is not None:
        SiteLedger(client).put_evaluation("trial", "a", asked, 10, {"mse": 1.0, "r2": 0.5})
        with Ledger(client).turn("trial") as turn:
            collect.close_evaluation(turn)
    assert progress.read(client, "trial").head.phase == "finished"


def assert_same_bits(found, expected):
    assert list(found) == list(expected)
    for path, leaf in expected.items():
        assert found[path].tobytes() == np.asarray(leaf).tobytes(), path


def distance(one, other):
    return trees.norm({path: one[path] - other[path] for path in other})


def refusals(client):
    return [event for event in progress.events(client, "trial") if event.kind == "refused"]


# Deltas


@pytest.fixture
def hospitals(client, tmp_path, monkeypatch):
    """Begins an experiment on a real data set, with a layer of 160 weights; returns its spec."""
    monkeypatch.setenv("FEDELTA_PERSONAL_DIR", str(tmp_path / "personal"))

    def begin_experiment(up=None, down=None, **changes):
        participation.cache_clear()
        client.flushall()
        changes = {"strategy": STRATEGIES[0], **changes}
        written = make_spec(
            data={"dataset": "diabetes"},
            model={"kind": "mlp", "hidden": [16]},
            training={"steps": 3, "optimizer": {"name": "sgd", "learning_rate": 1e-4}},
            compression={name: kind for name, kind in (("up", up), ("down", down)) if kind},
            **changes,
        ).experiment
        spec = Spec(experiment=written, schema=data.describe(written))
        params = spec.model.init(np.random.default_rng(0), spec.schema.input_shape, 1)
        assert Ledger(client).create("trial", spec, params) is not None
        return spec

    return begin_experiment


@pytest.mark.parametrize("up", UP, ids=named)
def test_the_coordinator_folds_in_what_decoding_gives_of_a_sites_delta(client, hospitals, up):
    spec = hospitals(up=up)
    first, order = published_of(client, 0), order_of(client, "a")
    examples = participation("trial", "a").data.train
    delta = personal.carry_out(spec, first, {}, examples, order.seed).delta
    train("trial", "a/1")
    stored = client.get(keys.delta("trial", "a"))
    drain(client)
    sent = coded({path: np.asarray(leaf) for path, leaf in delta.items()}, up, order.seed)
    expected = {path: (1 - MIXING) * x + MIXING * (x + sent[path]) for path, x in first.items()}
    for path, leaf in published_of(client, 1).items():
        np.testing.assert_allclose(leaf, expected[path], rtol=1e-6, atol=1e-8)  # sums' last bits may differ
    assert distance(sent, delta) > 0

    (row,) = progress.history(client, "trial")
    num_bytes = sum(compression.num_bytes(kind_of(up), leaf.shape) for leaf in first.values())
    tree = messages.decode(Submission, stored, first).delta
    assert sum(len(leaf["data"]) for _, leaf in tree) == num_bytes < 0.63 * trees.num_bytes(first)
    assert row.bytes_up == len(stored) == progress.read(client, "trial").head.bytes_up
    hospitals()
    train("trial", "a/1")
    raw = len(client.get(keys.delta("trial", "a")))
    assert raw - row.bytes_up == pytest.approx(
        trees.num_bytes(first) - num_bytes, abs=40
    )  # names and lengths


@pytest.mark.parametrize("up", UP, ids=named)
def test_an_order_that_is_carried_out_again_gives_the_same_bytes(client, hospitals, up):
    hospitals(up=up)
    done = []
    for _ in range(2):
        train("trial", "ab/1")
        done.append(client.get(keys.delta("trial", "ab")).partition(b"num_examples")[0])
        client.delete(keys.delta("trial", "ab"))
    assert done[0] == done[1]


def test_two_sites_and_two_orders_are_rounded_apart(client):
    spec, delta = begin(client, up={"kind": "int8"}), params_of(1)
    codings = {
        messages.coding_of_delta(spec.experiment, site, number).seed
        for site in ("a", "ab", "c")
        for number in range(1, 4)
    }
    versions = {messages.coding_of_model(spec.experiment, number).seed for number in range(3)}
    assert len(codings | versions) == 12
    for site in ("a", "c"):
        submit(client, spec, f"{site}/1", delta)
    one, other = (client.get(keys.delta("trial", site)) for site in ("a", "c"))
    assert one != other and len(one) == len(other)


@pytest.mark.parametrize("up", UP, ids=named)
def test_every_order_of_every_site_is_decoded_with_its_own_seed(client, up):
    spec = begin(client, up=up)
    for order in ("a/1", "a/2", "c/1", "c/2"):
        before, (site, number) = exact_of(client), order.split("/")
        submit(client, spec, order, params_of(1))
        drain(client)
        sent = coded(params_of(1), up, messages.seed_of(spec.experiment, site, int(number)))
        moved = {path: leaf - before[path] for path, leaf in exact_of(client).items()}
        if order != "c/1":  # whose base is an older version
            for path, leaf in sent.items():
                np.testing.assert_allclose(moved[path], MIXING * leaf, rtol=0, atol=2e-6)


def test_deltas_rounded_at_random_are_right_on_average(client):
    spec = begin(client, strategy={"kind": "fedbuff", "buffer_size": 40}, up={"kind": "int4"})
    first, delta = exact_of(client), params_of(1)
    for number in range(1, 41):
        submit(client, spec, f"a/{number}", delta)
        drain(client)
    mean = {path: leaf - first[path] for path, leaf in exact_of(client).items()}
    assert progress.read(client, "trial").head.version == 1
    # A rounding's deviation is at most half a step, of max / 7, and that of 40 roundings' mean a sixth of it.
    step = np.abs(delta["weight"]).max() / 7
    assert np.abs(mean["weight"] - delta["weight"]).max() < 0.5 * step
    assert np.sqrt(np.mean(np.square(mean["weight"] - delta["weight"]))) < 0.5 * step / np.sqrt(40) * 1.1


@pytest.mark.parametrize("strategy", STRATEGIES, ids=named)
def test_max_norm_is_of_what_was_decoded(client, strategy):
    spec = begin(client, strategy={**strategy, "max_norm": 5.0}, up={"kind": "int8"})
    unit = trees.norm(params_of(1))
    submit(client, spec, "a/1", {path: leaf * np.float32(6.5 / unit) for path, leaf in params_of(1).items()})
    submit(client, spec, "c/1", {path: leaf * np.float32(4 / unit) for path, leaf in params_of(1).items()})
    drain(client)
    assert [row.site for row in progress.history(client, "trial")] == ["c"]
    (event,) = refusals(client)
    assert event.detail.startswith("norm 6.") and event.detail.endswith("is past the maximum of 5")


@pytest.mark.parametrize("up", UP, ids=named)
def test_a_compressed_delta_is_never_unpacked_as_a_whole(client, monkeypatch, up):
    spec = begin(client, up=up, strategy={**STRATEGIES[0], "max_norm": 1e3})
    submit(client, spec, "a/1", params_of(1))
    expected = coded(params_of(1), up, messages.seed_of(spec.experiment, "a", 1))
    before = exact_of(client)
    monkeypatch.setattr(compression.Compressed, "decoded", None)
    assert drain(client).head.applied == 1
    moved = {path: leaf - before[path] for path, leaf in exact_of(client).items()}
    for path, leaf in expected.items():
        np.testing.assert_allclose(moved[path], MIXING * leaf, rtol=0, atol=2e-6)


# Deltas that a hostile site has made


def leaf_of(up, like=(WIDTH, 1), **changed):
    """A delta with one leaf that is as it should be, and `weight` with these fields changed."""
    coding = codec.Coding(kind_of(up), 0)
    ((_, weight),) = codec.pack_tree({"weight": np.ones(like, np.float32)}, coding)
    bias = codec.pack_tree({"bias": np.ones(1, np.float32)}, coding)[0]
    return [["weight", {**weight, "data": bytes(weight["data"]), **changed}], bias]


def damaged(up, place, new):
    """Its data with these bytes at a place."""
    whole = bytearray(leaf_of(up)[0][1]["data"])
    whole[place : place + len(new)] = new
    return leaf_of(up, data=bytes(whole))


NAN, NAN16 = np.float32(np.nan).tobytes(), np.float16(np.nan).tobytes()
HOSTILE = {
    "too short": lambda up: leaf_of(up, data=leaf_of(up)[0][1]["data"][:-1]),
    "too long": lambda up: leaf_of(up, data=leaf_of(up)[0][1]["data"] + b"\0"),
    "empty": lambda up: leaf_of(up, data=b""),
    "the shape of another leaf": lambda up: leaf_of(up, (1,)),
    "another shape of as many values": lambda up: leaf_of(up, (1, WIDTH)),
    "a huge shape": lambda up: leaf_of(up, shape=[2**20, 2**14]),
    "raw": lambda up: leaf_of(up, encoding="raw", data=bytes(4 * WIDTH)),
    "no encoding": lambda up: leaf_of(up, encoding=None),
    "another encoding": lambda up: leaf_of({"kind": "int4" if up["kind"] == "int8" else "int8"}),
    "float64": lambda up: leaf_of(up, dtype="float64"),
    "raw float64": lambda up: leaf_of(up, dtype="float64", encoding="raw", data=bytes(8 * WIDTH)),
    "a text": lambda up: leaf_of(up, data="x" * 100),
}


@pytest.mark.parametrize("up", UP, ids=named)
@pytest.mark.parametrize("how", HOSTILE)
def test_a_leaf_that_is_not_what_the_experiment_asks_for_is_refused_and_named(client, up, how):
    begin(client, up=up)
    before = exact_of(client)
    submit_tree(client, "a/1", HOSTILE[how](up))
    new = drain(client)
    assert (new.head.applied, new.head.refused, new.sites["a"].refusals) == (0, 1, 1)
    assert_same_bits(exact_of(client), before)
    (event,) = refusals(client)
    assert event.order == "a/1" and "leaf 'weight'" in event.detail
    if how in ("raw", "no encoding", "another encoding"):
        assert f"encoding {up['kind']!r}" in event.detail


@pytest.mark.parametrize(
    ("up", "place", "new", "said"),
    [
        ({"kind": "bfloat16"}, 20, NAN[2:], "value 10 is not finite"),
        ({"kind": "float16"}, 20, NAN16, "value 10 is not finite"),
        ({"kind": "int8"}, 4, NAN, "scale of block 1: expected 0 to 1e+30, got nan"),
        ({"kind": "int4"}, 0, np.float32(-1).tobytes(), "scale of block 0: expected 0 to 1e+30, got -1.0"),
        ({"kind": "int2"}, 4, np.float32(2e30).tobytes(), "scale of block 1: expected 0 to 1e+30, got 2"),
        ({"kind": "int8", "rotation": True}, 0, NAN, "scale of block 0: expected 0 to 1.6e+31, got nan"),
        ({"kind": "top-k", "fraction": 0.05}, 0, b"\xff" * 4, "expected 15 values kept, got 4294967295"),
        ({"kind": "top-k", "fraction": 0.05}, 4, b"\xff\xff", "expected places that increase, got 65535 and"),
        ({"kind": "top-k", "fraction": 0.05}, 4 + 28, b"\xff\xff", "expected places below 300, got 65535"),
        ({"kind": "top-k", "fraction": 0.05}, 4 + 30, NAN[2:], "value 0 is not finite"),
    ],
)
def test_bytes_that_no_site_would_send_are_refused_and_the_leaf_named(client, up, place, new, said):
    begin(client, up=up)
    submit_tree(client, "a/1", damaged(up, place, new))
    assert drain(client).head.applied == 0
    (event,) = refusals(client)
    assert event.detail.startswith(f"the data of leaf 'weight': {said}")


def test_a_scale_that_makes_numbers_beyond_what_is_taken_is_refused(client):
    begin(client, up={"kind": "int8"})
    submit_tree(client, "a/1", damaged({"kind": "int8"}, 0, np.float32(1e29).tobytes()))
    assert drain(client).head.applied == 0
    (event,) = refusals(client)
    assert event.detail == "leaf 'weight' of the delta is not finite, or beyond 1e+18"


def test_without_compression_a_compressed_delta_is_refused(client):
    begin(client)
    submit_tree(client, "a/1", leaf_of({"kind": "int8"}))
    assert drain(client).head.applied == 0
    assert "leaf 'weight': expected dtype, shape, encoding 'raw' and data" in refusals(client)[0].detail


LARGE = 2_000_000  # values, 8 MB; their 1 % as top-k are 80 kB
TOP_K = codec.Coding(kind_of({"kind": "top-k"}), 0)


def allocated_by_refusing(packed, reference):
    """The most bytes that were allocated at once until it was refused, and why it was."""
    packed = msgpack.unpackb(msgpack.packb(packed))
    tracemalloc.start()
    try:
        with pytest.raises(MalformedMessage) as raised:
            codec.unpack_tree(packed, reference, TOP_K)
        return tracemalloc.get_traced_memory()[1], str(raised.value)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("shape", [[LARGE], [2**39], [2**30, 2**30], [0, 2**39]])
def test_top_k_that_claims_a_huge_leaf_makes_the_coordinator_allocate_next_to_nothing(shape):
    packed = codec.pack_tree({"weight": np.ones(LARGE, np.float32)}, TOP_K)
    packed[0][1]["shape"] = shape
    for reference in ({"weight": np.zeros((WIDTH, 1), np.float32)}, {"bias": np.zeros(1, np.float32)}):
        num_bytes, said = allocated_by_refusing(packed, reference)
        assert num_bytes < 200_000
        assert "leaf " in said and ("expected float32 (300, 1)" in said or "is " in said or "shape" in said)


def test_a_leaf_that_comes_many_times_is_unpacked_once():
    large = codec.pack_tree({"large": np.ones(LARGE, np.float32)}, TOP_K)
    reference = {"large": np.broadcast_to(np.float32(0), LARGE)}
    reference |= {f"small{number}": np.zeros(1, np.float32) for number in range(30)}
    num_bytes, said = allocated_by_refusing(large * 31, reference)
    assert said == "expected each leaf once, got 'large' again"
    assert num_bytes < 2 * 4 * LARGE


# Versions


@pytest.mark.parametrize("down", DOWN, ids=named)
def test_sites_and_people_have_the_version_as_it_was_sent_and_the_next_is_built_on_the_exact_one(
    client, down
):
    spec = begin(client, down=down)
    first = params_of(0)
    assert_same_bits(exact_of(client), first)
    for version in range(3):
        exact, sent = exact_of(client), published_of(client, version)
        assert_same_bits(sent, coded(exact, down, messages.seed_of(spec.experiment, "", version)))
        # int2: of the largest of 256, all that are below its half
        most = {"int2": 1.5, "int3": 0.5}.get(down["kind"], 0.2)
        assert 0 < distance(sent, exact) < most * trees.norm(exact)
        fetched, num_bytes = SiteLedger(client).model(spec.experiment, version, first)
        assert_same_bits(fetched, sent)
        payload = sum(compression.num_bytes(kind_of(down), leaf.shape) for leaf in first.values())
        assert payload < num_bytes < payload + 200
        submit(client, spec, f"a/{version + 1}", params_of(version + 1))
        drain(client)
        # x <- (1 - w) x + w (x + delta), with x as it is
        expected = {
            path: (1 - MIXING) * x + MIXING * (x + params_of(version + 1)[path]) for path, x in exact.items()
        }
        assert_same_bits(exact_of(client), expected)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=named)
@pytest.mark.parametrize("down", DOWN, ids=named)
def test_changes_smaller_than_a_versions_rounding_add_up(client, down, strategy):
    """Twenty changes of a thousandth each are 2 hundredths, of which bfloat16 would have none above 1."""
    models = {}
    for written in (None, down):
        client.flushall()
        start = {
            "weight": np.linspace(1, 4, WIDTH, dtype=np.float32)[:, None],
            "bias": np.zeros(1, np.float32),
        }
        spec = begin(client, start, down=written, strategy=strategy, sites=["a"])
        for number in range(1, 21):
            submit(client, spec, f"a/{number}", {path: np.full_like(x, 1e-3) for path, x in start.items()})
            drain(client)
        models[written is None] = exact_of(client)
    moved = models[True]["weight"] - start["weight"]
    assert moved.min() > 0.009
    np.testing.assert_allclose(models[False]["weight"] - start["weight"], moved, rtol=0, atol=4e-6)


def test_of_a_stale_update_no_more_than_the_difference_of_two_roundings_comes_in(client):
    down = {"kind": "bfloat16"}
    models = {}
    for written in (None, down):
        client.flushall()
        spec = begin(client, down=written)
        for number in range(1, 4):
            submit(client, spec, f"a/{number}", params_of(number, scale=0.1))
            drain(client)
        before, sent = exact_of(client), {version: published_of(client, version) for version in (0, 3)}
        submit(client, spec, "c/1", params_of(9, scale=0.1))  # of version 0, three versions later
        drain(client)
        models[written is None] = exact_of(client)
    for path, x in before.items():
        base = sent[0][path] + (x - sent[3][path])
        expected = (1 - MIXING) * x + MIXING * (base + params_of(9, scale=0.1)[path])
        np.testing.assert_array_equal(models[False][path], expected)
        bound = MIXING * 2**-8 * (np.abs(sent[0][path]) + np.abs(sent[3][path])) + 1e-6
        assert (np.abs(models[False][path] - models[True][path]) <= bound).all()


def test_what_several_sites_have_trained_meanwhile_is_folded_in_as_if_it_were_one_by_one(client):
    down = {"kind": "int8"}
    models = []
    for is_at_once in (True, False):
        client.flushall()
        spec = begin(client, down=down)
        for site in ("a", "c"):
            submit(client, spec, f"{site}/1", params_of(len(site) + ord(site[0]), scale=0.1))
            if not is_at_once:
                drain(client)
        drain(client)
        models.append(exact_of(client))
    assert progress.read(client, "trial").head.version == 2
    # Apart by what the version in between lost, which is given back in one and is not known in the other.
    assert distance(*models) < 0.02 * trees.norm(models[0])


@pytest.mark.parametrize("strategy", STRATEGIES, ids=named)
def test_trained_with_compression_both_ways_the_model_is_near_the_one_without(client, hospitals, strategy):
    models = []
    for written in ({}, {"up": {"kind": "int8"}, "down": {"kind": "bfloat16"}}):
        hospitals(**written, strategy=strategy)
        first = exact_of(client)
        for number in range(1, 7):
            for site in ("a", "ab", "c"):
                train("trial", f"{site}/{number}")
            drain(client)
        head = progress.read(client, "trial").head
        assert (head.applied, head.refused) == (18, 0)
        models.append(exact_of(client))
    assert distance(*models) < 0.1 * distance(models[0], first)


def test_the_strategys_memory_is_its_own_beside_the_exact_model(client):
    spec = begin(client, down={"kind": "bfloat16"}, strategy=STRATEGIES[1])
    submit(client, spec, "a/1", params_of(1))
    drain(client)
    stored = codec.decode_tree(client.get(keys.memory("trial")), None)
    with Ledger(client).turn("trial") as turn:
        server = turn.server()
    assert {path for path in stored if not path.startswith("exact model/")} == server.memory.keys()
    assert_same_bits(trees.below("exact model", stored), server.params)
    assert (int(server.memory["count"]), server.version) == (1, 0)
    assert server.memory["sum/weight"].tobytes() == params_of(1)["weight"].tobytes()


@pytest.mark.parametrize("strategy", STRATEGIES, ids=named)
def test_stopped_and_resumed_the_exact_model_and_the_buffer_are_as_they_were(client, strategy):
    models = []
    for is_stopped in (False, True):
        client.flushall()
        spec = begin(client, down={"kind": "int8"}, strategy=strategy, sites=["a"])
        for number in (1, 2, 3):
            submit(client, spec, f"a/{number}", params_of(number))
            drain(client)
        number = 4
        if is_stopped:
            before = client.get(keys.memory("trial"))
            bring_to_rest(client)
            control.resume(client, "trial")
            assert client.get(keys.memory("trial")) == before
            number = 5
        submit(client, spec, f"a/{number}", params_of(4))
        drain(client)
        models.append((exact_of(client), published_of(client)))
    assert_same_bits(models[1][0], models[0][0])
    assert_same_bits(models[1][1], models[0][1])


@pytest.mark.parametrize("strategy", STRATEGIES, ids=named)
def test_exported_and_imported_it_goes_on_as_it_would_have(client, tmp_path, strategy):
    both = {"up": {"kind": "int4"}, "down": {"kind": "float16"}}
    spec = begin(client, **both, strategy=strategy, sites=["a"])
    for number in (1, 2, 3):
        submit(client, spec, f"a/{number}", params_of(number, scale=0.1))
        drain(client)
    bring_to_rest(client)
    taken = snapshot.take(client, "trial")
    archive.write(tmp_path / "trial.zip", taken, experiment.text(spec.experiment))

    def go_on():
        control.resume(client, "trial")
        number = order_of(client, "a").sequence
        submit(client, spec, f"a/{number}", params_of(4, scale=0.1))
        drain(client)
        return exact_of(client), published_of(client)

    expected = go_on()
    client.flushall()
    with archive.opened(tmp_path / "trial.zip") as found:
        assert (found.snapshot.memory, found.snapshot.model) == (taken.memory, taken.model)
        assert snapshot.put(client, found.snapshot)
    found = go_on()
    assert Ledger(client).spec("trial").experiment.compression == spec.experiment.compression
    assert_same_bits(found[0], expected[0])
    assert_same_bits(found[1], expected[1])


@pytest.mark.parametrize(
    ("weight", "said"),
    [
        (None, "memory: leaf 'exact model/weight' is missing"),
        ((2, WIDTH), f"memory: leaf 'exact model/weight': expected float32 ({WIDTH}, 1), got float32 (2, "),
        ((2, 1), "model: expected more than "),  # bytes, for the model that its spec says
    ],
)
def test_a_file_without_the_exact_model_or_with_one_of_another_shape_is_refused(
    client, tmp_path, weight, said
):
    begin(client, down={"kind": "int8"})
    tree = {} if weight is None else {"exact model/weight": np.zeros(weight, np.float32)}
    tree["exact model/bias"] = np.zeros(1 if weight else 1000, np.float32)
    taken = dataclasses.replace(snapshot.take(client, "trial"), memory=codec.encode_tree(tree))
    archive.write(tmp_path / "trial.zip", taken, "")
    with pytest.raises(ExperimentError) as raised, archive.opened(tmp_path / "trial.zip"):
        pytest.fail("it was accepted")
    assert said in str(raised.value)


# The last version


def score(client, version, mse):
    """Let its one site score a version, and the coordinator take it in."""
    SiteLedger(client).put_evaluation("trial", "a", version, 10, {"mse": mse, "r2": 0.5})
    with Ledger(client).turn("trial") as turn:
        return collect.close_evaluation(turn)


def fail_to_train(client):
    """Until its one site is dropped."""
    while progress.read(client, "trial").head.phase == "running":
        assert submit_packed(client, f"a/{order_of(client, 'a').sequence}", None, error="no disk")
        drain(client)


ENDS = {
    "by updates": lambda client: None,
    "by hand": lambda client: control.stop(client, "trial"),
    "by a target": lambda client: score(client, 0, 0.1),
    "without sites": fail_to_train,
}


@pytest.mark.parametrize("strategy", STRATEGIES, ids=named)
@pytest.mark.parametrize("how", ENDS)
def test_the_last_version_is_published_as_it_is_however_it_ends(client, strategy, how):
    stop = {"updates": 3 if how == "by updates" else 1000, "target": {"metric": "mse", "value": 0.2}}
    spec = begin(client, down={"kind": "int4"}, strategy=strategy, sites=["a"], stop=stop)
    for number in (1, 2, 3):
        assert progress.read(client, "trial").head.phase == "running"
        assert distance(published_of(client), exact_of(client)) > 0
        submit(client, spec, f"a/{number}", params_of(number))
        drain(client)
    exact = exact_of(client)
    ENDS[how](client)
    head = progress.read(client, "trial").head
    assert head.phase == ("finished" if how == "without sites" else "finishing")
    assert (head.applied, head.version) == (3, 1 if strategy["kind"] == "fedbuff" else 3)
    for found in (published_of(client), exact_of(client)):
        assert_same_bits(found, exact)
    fetched, num_bytes = SiteLedger(client).model(spec.experiment, head.version, params_of(0))
    assert_same_bits(fetched, exact)
    assert num_bytes > trees.num_bytes(exact)
    with Ledger(client).turn("trial") as turn:  # an unfinished buffer is still there
        assert turn.server().memory.get("count", 0) == (1 if strategy["kind"] == "fedbuff" else 0)
    if head.phase == "finishing":
        assert score(client, head.version, 0.3).head.phase == "finished"
        assert_same_bits(published_of(client), exact)


def test_a_version_that_was_scored_already_is_published_as_it_is_when_its_score_ends_it(client):
    stop = {"updates": 1000, "target": {"metric": "mse", "value": 0.2}}
    begin(client, down={"kind": "int4"}, sites=["a"], stop=stop)
    assert score(client, 0, 0.1).head.phase == "finished"
    assert_same_bits(published_of(client), params_of(0))


@pytest.mark.parametrize("down", [None, {"kind": "bfloat16"}], ids=["raw", "bfloat16"])
def test_at_the_end_a_version_is_written_anew_only_if_it_was_compressed_and_once(client, down):
    wide = params_of(0, width=LONG)
    spec = begin(client, wide, down=down, width=LONG, strategy=STRATEGIES[1], sites=["a"])
    submit(client, spec, "a/1", wide)  # into the buffer, so that it is in the memory
    drain(client)
    model, memory = keys.model("trial", 0), keys.memory("trial")
    before = {key: values.identity(client, key) for key in (model, memory)}
    assert control.stop(client, "trial")
    after = {key: values.identity(client, key) for key in (model, memory)}
    assert all(len(identity) == codec.PREFIX for identity in [*before.values(), *after.values()])
    assert after[memory] == before[memory]
    assert (after[model] == before[model]) == (down is None)
    score(client, 0, 1.0)
    assert progress.read(client, "trial").head.phase == "finished"
    control.resume(client, "trial")
    assert {key: values.identity(client, key) for key in after} == after


def test_who_remembers_the_version_as_it_was_sent_fetches_the_last_one(client):
    wide = params_of(0, width=LONG)
    spec = begin(client, wide, down={"kind": "bfloat16"}, width=LONG, sites=["a"])
    sites = SiteLedger(client)
    sent, _ = sites.model(spec.experiment, 0, wide)
    with Ledger(client).turn("trial") as turn:
        assert_same_bits(turn.model(0), sent)
    assert distance(sent, wide) > 0
    assert sites.model(spec.experiment, 0, wide)[1] == codec.PREFIX
    assert control.stop(client, "trial")
    fetched, num_bytes = sites.model(spec.experiment, 0, wide)
    assert_same_bits(fetched, wide)
    assert num_bytes > trees.num_bytes(wide)
    with Ledger(client).turn("trial") as turn:
        assert_same_bits(turn.model(0), wide)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=named)
def test_resumed_it_goes_on_from_the_exact_version_and_the_next_is_compressed_again(client, strategy):
    down = {"kind": "int4"}
    spec = begin(client, down=down, strategy=strategy, sites=["a"])
    for number in (1, 2, 3):
        submit(client, spec, f"a/{number}", params_of(number))
        drain(client)
    bring_to_rest(client)
    exact, version = exact_of(client), progress.read(client, "trial").head.version
    control.resume(client, "trial")
    assert progress.read(client, "trial").head.phase == "running"
    order = order_of(client, "a")
    assert order.base_version == version
    assert_same_bits(SiteLedger(client).model(spec.experiment, version, params_of(0))[0], exact)
    with Ledger(client).turn("trial") as turn:
        assert_same_bits(turn.base(version), exact)
    submit(client, spec, order.id, params_of(4))
    assert drain(client).head.version == version + 1
    found, sent = exact_of(client), published_of(client)
    assert_same_bits(sent, coded(found, down, messages.seed_of(spec.experiment, "", version + 1)))
    assert distance(sent, found) > 0
    assert distance(found, exact) > 0
    if strategy["kind"] == "fedasync":  # as everywhere: x <- (1 - w) x + w (x + delta)
        assert_same_bits(
            found,
            {path: (1 - MIXING) * x + MIXING * (x + params_of(4)[path]) for path, x in exact.items()},
        )


def test_of_an_update_from_a_resumed_version_the_base_is_the_exact_one(client):
    down = {"kind": "int4"}
    spec = begin(client, down=down, sites=["a", "c"])
    submit(client, spec, "a/1", params_of(1))
    drain(client)
    assert control.stop(client, "trial")
    skip_last_scores(client)
    control.resume(client, "trial")
    resumed, orders = exact_of(client), [order_of(client, site) for site in ("a", "c")]
    assert [order.base_version for order in orders] == [1, 1]
    submit(client, spec, orders[0].id, params_of(2))
    drain(client)
    x, sent = exact_of(client), published_of(client, 2)
    submit(client, spec, orders[1].id, params_of(3))
    drain(client)
    expected = {}
    for path, leaf in resumed.items():
        base = leaf + (x[path] - sent[path])
        expected[path] = (1 - MIXING) * x[path] + MIXING * (base + params_of(3)[path])
    assert_same_bits(exact_of(client), expected)


@pytest.mark.parametrize("is_at_rest", [True, False])
@pytest.mark.parametrize("strategy", STRATEGIES, ids=named)
def test_a_file_of_it_has_the_last_version_as_it_is_or_the_current_one_as_it_was_sent(
    client, tmp_path, is_at_rest, strategy
):
    down = {"kind": "int4"}
    spec = begin(client, down=down, strategy=strategy, sites=["a"])
    for number in (1, 2, 3):
        submit(client, spec, f"a/{number}", params_of(number))
        drain(client)
    if is_at_rest:
        bring_to_rest(client)
    exact, sent = exact_of(client), published_of(client)
    assert (distance(sent, exact) > 0) != is_at_rest
    archive.write(tmp_path / "trial.zip", snapshot.take(client, "trial"), experiment.text(spec.experiment))
    client.flushall()
    with archive.opened(tmp_path / "trial.zip") as found:
        assert snapshot.put(client, found.snapshot)
    assert_same_bits(published_of(client), sent)
    assert_same_bits(exact_of(client), exact)
    control.resume(client, "trial")
    order, version = order_of(client, "a"), progress.read(client, "trial").head.version
    submit(client, spec, order.id, params_of(4))
    assert drain(client).head.version == version + 1
    seed = messages.seed_of(spec.experiment, "", version + 1)
    assert_same_bits(published_of(client), coded(exact_of(client), down, seed))


def version_of(weight, changed=None):
    """A version as a message of the ledger; `weight` is written so, with these fields changed."""
    leaves = [codec.pack_tree({path: leaf}, weight)[0] for path, leaf in params_of(0).items()]
    leaves[0][1].update(changed or {})
    return msgpack.packb({"v": 1, "tree": leaves})


INT4 = codec.Coding(kind_of({"kind": "int4"}), 0)


@pytest.mark.parametrize(
    ("weight", "changed", "said"),
    [
        (codec.Coding(kind_of({"kind": "int8"}), 0), {}, "expected dtype, shape, encoding 'int4' and data"),
        (codec.RAW, {"encoding": "blank", "data": b""}, "expected dtype, shape, encoding 'int4' and data"),
        (codec.RAW, {"encoding": None}, "expected dtype, shape, encoding 'int4' and data"),
        (codec.RAW, {"encoding": "int4"}, "expected 158 bytes of int4 for (300, 1), got 1200"),
        (INT4, {"encoding": "raw"}, "expected 1200 bytes for [300, 1], got 158"),
        (codec.RAW, {"dtype": "float64", "data": bytes(8 * WIDTH)}, "expected float32 (300, 1), got float64"),
        (codec.RAW, {"shape": [1, WIDTH]}, "expected float32 (300, 1), got float32 (1, 300)"),
    ],
)
def test_a_site_takes_a_version_compressed_or_as_it_is_and_nothing_else(client, weight, changed, said):
    spec = begin(client, down={"kind": "int4"})
    sites = SiteLedger(client)

    def fetched(written):
        client.set(keys.model("trial", 0), written)
        return sites.model(spec.experiment, 0, params_of(0))[0]

    assert_same_bits(fetched(version_of(codec.RAW)), params_of(0))
    coding = messages.coding_of_model(spec.experiment, 0)
    sent = fetched(codec.encode_tree(params_of(0), coding))
    assert_same_bits(sent, coded(params_of(0), {"kind": "int4"}, coding.seed))
    with pytest.raises(MalformedMessage) as raised:
        fetched(version_of(weight, changed))
    assert "leaf 'weight'" in str(raised.value) and said in str(raised.value)


# Before and after training


def test_sites_that_describe_first_train_from_the_version_as_it_was_sent(client):
    layout = {
        "features": [f"x{number}" for number in range(WIDTH)],
        "target": {"kind": "regression", "column": "y"},
    }
    changes = {"data": {"dataset": "ours", "layout": layout}, "strategy": STRATEGIES[1], "sites": ["a", "c"]}
    spec = spec_of(compression={"up": {"kind": "int8"}, "down": {"kind": "bfloat16"}}, **changes)
    spec = dataclasses.replace(spec, schema=dataclasses.replace(spec.schema, preprocessing=None))
    Ledger(client).create("trial", spec, params_of(0))
    rng = np.random.default_rng(0)
    for site in ("a", "c"):
        assert_same_bits(exact_of(client), params_of(0))
        told = description.describe(spec.schema, rng.normal(size=(20, WIDTH)))
        assert submit_packed(client, f"{site}/1", told.params)  # as it is, whatever the compression
        with Ledger(client).turn("trial") as turn:
            new = preparation.drain(turn)
    assert (new.head.phase, new.head.refused) == ("running", 0)
    assert_same_bits(exact_of(client), params_of(0))
    sent, _ = SiteLedger(client).model(spec.experiment, 0, params_of(0))
    expected = coded(params_of(0), {"kind": "bfloat16"}, messages.seed_of(spec.experiment, "", 0))
    assert_same_bits(sent, expected)
    for site in ("a", "c"):
        submit(client, spec, f"{site}/2", params_of(1))
    assert drain(client).head.version == 1
    assert 0 < distance(exact_of(client), params_of(0)) < 0.011 * np.sqrt(WIDTH + 1)  # Adam's first step


def test_the_model_in_the_results_is_the_one_that_the_sites_have_scored(client, hospitals, tmp_path):
    spec = hospitals(down={"kind": "bfloat16"}, stop={"updates": 2})
    for order in ("a/1", "c/1"):
        train("trial", order)
    assert drain(client).head.phase == "finishing"
    (tmp_path / "trial").mkdir()
    results.write(client, Run(folder=tmp_path / "trial"))
    _, saved = model_file.load(tmp_path / "trial" / "model.safetensors")
    fetched, _ = SiteLedger(client).model(spec.experiment, 2, participation("trial", "a").reference)
    assert_same_bits(dict(sorted(saved.items())), dict(sorted(fetched.items())))
    assert_same_bits(dict(sorted(saved.items())), dict(sorted(exact_of(client).items())))
    evaluate("trial", "a", 2)
    (row,) = progress.evaluations(client, "trial", "a")
    assert row.metrics == measured(participation("trial", "a"), saved)


# Versions that cannot be sent


def test_an_experiment_whose_first_model_cannot_be_sent_is_not_begun(client):
    with pytest.raises(ExperimentError) as raised:
        begin(client, {path: leaf * np.float32(1e6) for path, leaf in params_of(0).items()}, down=DOWN[1])
    start = "compression.down: version 0 of the model cannot be sent so: leaf 'weight': value 0: expected"
    assert str(raised.value).startswith(start)
    assert not client.exists(keys.spec("trial")) and not client.exists(keys.model("trial", 0))
    with pytest.raises(NotFound):
        Ledger(client).spec("trial")


def test_a_version_that_cannot_be_sent_ends_the_experiment_with_the_one_before(client, caplog):
    spec = begin(client, down={"kind": "float16"})
    submit(client, spec, "a/1", params_of(1))
    drain(client)
    before = exact_of(client)
    submit(client, spec, "c/1", {path: np.full_like(leaf, 1e6) for path, leaf in params_of(1).items()})
    aggregate.aggregate("trial")
    found = progress.read(client, "trial")
    assert (found.head.phase, found.head.outcome) == ("finishing", "failed")
    assert (found.head.version, found.head.applied, found.head.evaluating) == (1, 1, 1)
    start = "compression.down: version 2 of the model cannot be sent so: leaf 'weight': value 0: expected a "
    assert found.head.reason.startswith(f"{start}finite number up to 65504, got ")
    assert_same_bits(exact_of(client), before)
    assert_same_bits(published_of(client), before)
    assert client.llen(keys.inbox("trial")) == 0 and not client.keys("fedelta:{trial}:delta:*")
    skip_last_scores(client)
    control.resume(client, "trial")
    number = order_of(client, "a").sequence
    submit(client, spec, f"a/{number}", params_of(1))
    assert (drain(client).head.version, progress.read(client, "trial").head.applied) == (2, 2)
    assert distance(published_of(client, 2), exact_of(client)) > 0


@pytest.mark.parametrize("width", [WIDTH, LONG], ids=["small", "large"])
@pytest.mark.parametrize("strategy", STRATEGIES, ids=named)
def test_of_updates_that_make_a_version_that_cannot_be_sent_nothing_is_in_the_last_one(
    client, strategy, width
):
    """They are folded in, into arrays that are used again, before anybody sees that it cannot be sent."""
    plain = {"server_optimizer": {"name": "sgd", "learning_rate": 1.0}}
    strategy = strategy if strategy["kind"] == "fedasync" else {**strategy, **plain}
    first, delta = (params_of(seed, width=width) for seed in (0, 1))
    spec = begin(client, first, down={"kind": "float16"}, strategy=strategy, sites=["a", "c"], width=width)
    submit(client, spec, "a/1", delta)
    drain(client)
    exact = first
    if strategy["kind"] == "fedasync":
        exact = {path: (1 - MIXING) * x + MIXING * (x + delta[path]) for path, x in first.items()}
    for order in ("c/1",) if strategy["kind"] == "fedavg" else ("a/2", "c/1"):
        submit(client, spec, order, {path: np.full_like(leaf, 1e6) for path, leaf in delta.items()})
    assert drain(client).head.outcome == "failed"
    head = progress.read(client, "trial").head
    assert (head.version, head.applied, head.phase) == (int(exact is not first), 1, "finishing")
    assert_same_bits(published_of(client), exact)
    assert_same_bits(exact_of(client), exact)
