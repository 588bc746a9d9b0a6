import copy

import numpy as np
import optax
import pytest
from pydantic import ValidationError

from tasks import codec
from workers import compression
from workers import params as trees
from workers.compression import BFloat16, Compressed, Float16, Int2, Int3, Int4, Int8, TopK
from workers.optimizers import Adam, Sgd, Yogi
from workers.staleness import Constant, Hinge, Polynomial
from workers.strategies import FedAsync, FedAvg, FedBuff, Server, Update

TOLERANCE = 1e-6  # relative: a few float32 roundings


def tree(*values):
    return {"w": np.array(values, np.float32)}


def server_of(strategy, params, version=0):
    return Server(params=params, version=version, memory=strategy.init(params))


def update_of(*values, base=(), num_examples=1, staleness=0):
    return Update(delta=tree(*values), base=tree(*base), num_examples=num_examples, staleness=staleness)


def take(strategy, server, *updates, num_outstanding=0, num_sites=1):
    """Fold in updates one after another, closing after each as the coordinator does."""
    for update in updates:
        server = strategy.close(strategy.fold(server, update), num_outstanding, num_sites)
    return server


def assert_same_bits(one, other):
    assert list(one) == list(other)
    for path, leaf in one.items():
        np.testing.assert_array_equal(leaf, other[path], strict=True)


# FedAsync


def test_fedasync_mixes_the_sites_whole_model_into_the_global_one():
    # x = 0.5 * [2, 4] + 0.5 * ([2, 4] + [1, -2])
    strategy = FedAsync(mixing_rate=0.5, staleness=Constant())
    server = take(strategy, server_of(strategy, tree(2, 4)), update_of(1, -2, base=(2, 4)))
    np.testing.assert_array_equal(server.params["w"], np.array([2.5, 3.0], np.float32), strict=True)
    assert server.version == 1
    assert server.memory == {}


def test_fedasync_mixes_with_the_base_model_and_not_with_the_current_one():
    # x = 0.75 * 8 + 0.25 * (0 + 4) = 7; from the current model it would be 8 + 0.25 * 4 = 9.
    strategy = FedAsync(mixing_rate=0.25, staleness=Constant())
    server = take(strategy, server_of(strategy, tree(8), version=3), update_of(4, base=(0,), staleness=3))
    assert server.params["w"] == pytest.approx([7.0], rel=TOLERANCE)
    assert server.version == 4


def test_fedasync_rate_does_not_compound_from_one_update_to_the_next():
    # Each mixes half of a model at 1 into x: 0, 1/2, 3/4, 7/8. A rate that shrinks would fall behind.
    strategy = FedAsync(mixing_rate=0.5, staleness=Constant())
    server, seen = server_of(strategy, tree(0)), []
    for _ in range(3):
        server = take(strategy, server, update_of(1, base=(0,)))
        seen.append(server.params["w"].item())
    assert seen == [0.5, 0.75, 0.875]


def test_fedasync_with_polynomial_staleness_follows_the_sequence_computed_by_hand():
    # α = 0.6, s = (1 + staleness)^-1/2: 0.6, then 0.6 / 2 at staleness 3, then 0.6 again when fresh.
    strategy = FedAsync(mixing_rate=0.6, staleness=Polynomial(a=0.5))
    server = take(strategy, server_of(strategy, tree(0, 10)), update_of(1, -10, base=(0, 10)))
    assert server.params["w"] == pytest.approx([0.6, 4.0], rel=TOLERANCE)  # 0.4 x + 0.6 [1, 0]
    server = take(strategy, server, update_of(2, 0, base=(0, 10), staleness=3))
    assert server.params["w"] == pytest.approx([1.02, 5.8], rel=TOLERANCE)  # 0.7 x + 0.3 [2, 10]
    server = take(strategy, server, update_of(0, 0, base=(0, 0)))
    assert server.params["w"] == pytest.approx([0.408, 2.32], rel=TOLERANCE)  # 0.4 x + 0.6 [0, 0]
    assert server.version == 3


def test_fedasync_with_hinge_staleness_follows_the_sequence_computed_by_hand():
    # α = 0.5, a = 4, b = 1: s = 1 at staleness 1, 1 / (4 * 1 + 1) = 0.2 at staleness 2.
    strategy = FedAsync(mixing_rate=0.5, staleness=Hinge(a=4.0, b=1))
    server = take(strategy, server_of(strategy, tree(0)), update_of(1, base=(1,), staleness=1))
    assert server.params["w"] == pytest.approx([1.0], rel=TOLERANCE)  # 0.5 * 0 + 0.5 * 2
    server = take(strategy, server, update_of(10, base=(1,), staleness=2))
    assert server.params["w"] == pytest.approx([2.0], rel=TOLERANCE)  # 0.9 * 1 + 0.1 * 11


@pytest.mark.parametrize(
    ("staleness", "weight"),
    [(Constant(), 0.6), (Polynomial(a=1.0), 0.1), (Hinge(a=1.0, b=3), 0.2)],
)
def test_fedasync_writes_the_mixing_rate_times_the_staleness_weight_into_the_history(staleness, weight):
    strategy = FedAsync(mixing_rate=0.6, staleness=staleness)
    assert strategy.weight(update_of(1, staleness=5, num_examples=77)) == pytest.approx(weight, rel=1e-12)


def test_fedasync_at_a_mixing_rate_of_one_takes_a_fresh_sites_model_over():
    strategy = FedAsync(mixing_rate=1.0)
    server = take(strategy, server_of(strategy, tree(5)), update_of(2, base=(1,)))
    np.testing.assert_array_equal(server.params["w"], np.array([3.0], np.float32), strict=True)


# FedBuff


def test_fedbuff_makes_one_version_of_k_updates():
    strategy = FedBuff(buffer_size=3)
    server = server_of(strategy, tree(10, 20))
    server = take(strategy, server, update_of(1, 0), update_of(2, 0), num_outstanding=5)
    assert server.version == 0
    assert server.params["w"].tolist() == [10, 20]
    assert server.memory["count"] == 2
    assert server.memory["sum/w"].tolist() == [3, 0]
    server = take(strategy, server, update_of(3, -9), num_outstanding=5)
    assert server.version == 1
    assert server.params["w"] == pytest.approx([12, 17], rel=TOLERANCE)  # + [6, -9] / 3
    assert_same_bits(server.memory, strategy.init(server.params))  # empty again
    server = take(strategy, server, *[update_of(3, 3)] * 3)
    assert server.version == 2
    assert server.params["w"] == pytest.approx([15, 20], rel=TOLERANCE)


def test_fedbuff_divides_by_k_and_not_by_the_sum_of_the_staleness_weights():
    # s = 1 and (1 + 3)^-1/2 = 1/2: x = 1 + (1 * 2 + 1/2 * 4) / 2 = 3; by the sum of weights it would be 3.67.
    strategy = FedBuff(buffer_size=2)
    updates = [update_of(2), update_of(4, staleness=3)]
    assert [strategy.weight(update) for update in updates] == [1.0, 0.5]
    server = take(strategy, server_of(strategy, tree(1)), *updates)
    assert server.params["w"] == pytest.approx([3.0], rel=TOLERANCE)


def test_a_fedbuff_buffer_of_stale_updates_alone_makes_a_smaller_step():
    strategy = FedBuff(buffer_size=2)
    server = take(
        strategy, server_of(strategy, tree(0)), update_of(4, staleness=3), update_of(4, staleness=3)
    )
    assert server.params["w"] == pytest.approx([2.0], rel=TOLERANCE)


def test_fedbuff_weighs_no_update_by_its_number_of_examples():
    strategy = FedBuff(buffer_size=2)
    server = take(
        strategy, server_of(strategy, tree(0)), update_of(1, num_examples=1000), update_of(3, num_examples=1)
    )
    assert server.params["w"] == pytest.approx([2.0], rel=TOLERANCE)


def test_fedbuff_scales_the_mean_by_the_server_learning_rate():
    strategy = FedBuff(buffer_size=2, server_optimizer=Sgd(learning_rate=0.1))
    server = take(strategy, server_of(strategy, tree(1)), update_of(10), update_of(30))
    assert server.params["w"] == pytest.approx([3.0], rel=TOLERANCE)  # 1 + 0.1 * 20


@pytest.mark.parametrize(
    ("optimizer", "transform"),
    [
        (Sgd(learning_rate=0.5, momentum=0.9), optax.sgd(0.5, momentum=0.9)),
        (Sgd(learning_rate=0.5, momentum=0.9, nesterov=True), optax.sgd(0.5, momentum=0.9, nesterov=True)),
        (Adam(learning_rate=0.1), optax.adam(0.1)),
        (Yogi(learning_rate=0.1), optax.yogi(0.1)),
    ],
)
def test_fedbuff_carries_the_server_optimizers_state_from_one_step_to_the_next(optimizer, transform):
    strategy = FedBuff(buffer_size=2, server_optimizer=optimizer)
    pairs = [((1.0, -2.0), (3.0, 0.0)), ((0.5, 0.5), (-1.5, 0.5)), ((2.0, 2.0), (0.0, -1.0))]
    server = server_of(strategy, tree(1, -1))
    expected = tree(1, -1)
    state = transform.init(expected)
    for step, (one, other) in enumerate(pairs, start=1):
        server = take(strategy, server, update_of(*one), update_of(*other))
        gradient = {"w": -(np.float32(one) + np.float32(other)) / 2}
        changes, state = transform.update(gradient, state, expected)
        expected = optax.apply_updates(expected, changes)
        assert server.version == step
        np.testing.assert_allclose(server.params["w"], expected["w"], rtol=TOLERANCE)


@pytest.mark.parametrize(("weighting", "expected"), [("examples", 2.0), ("equal", 1.0)])
def test_fedbuff_weighs_sites_by_examples_or_equally_and_stale_updates_by_less(weighting, expected):
    # s = (1 + 3)^-1/2 = 0.5: 1 + (30 * 2 + 0.5 * 10 * -4) / 40 = 2, or 1 + (2 + 0.5 * -4) / 2 = 1
    strategy = FedBuff(buffer_size=2, weighting=weighting)
    updates = [update_of(2, num_examples=30), update_of(-4, num_examples=10, staleness=3)]
    assert take(strategy, server_of(strategy, tree(1)), *updates).params["w"] == pytest.approx([expected])
    weights = [strategy.weight(update) for update in updates]
    assert weights == ([30.0, 5.0] if weighting == "examples" else [1.0, 0.5])


def test_fedbuff_with_momentum_follows_the_sequence_computed_by_hand():
    # Momentum m <- 0.9 m + g: 1, then 0.9 + 1 = 1.9; x = 0 + 1 + 1.9.
    strategy = FedBuff(buffer_size=1, server_optimizer=Sgd(learning_rate=1.0, momentum=0.9))
    server = take(strategy, server_of(strategy, tree(0)), update_of(1), update_of(1))
    assert server.params["w"] == pytest.approx([2.9], rel=TOLERANCE)


# FedAvg


def test_fedavg_waits_for_every_outstanding_site():
    strategy = FedAvg(weighting="equal")
    server = strategy.fold(server_of(strategy, tree(0)), update_of(2))
    assert strategy.close(server, 2, num_sites=2) is server
    assert strategy.close(server, 1, num_sites=2) is server
    closed = strategy.close(strategy.fold(server, update_of(4)), 0, num_sites=2)
    assert closed.version == 1
    assert closed.params["w"] == pytest.approx([3.0], rel=TOLERANCE)
    assert_same_bits(closed.memory, strategy.init(closed.params))


def test_fedavg_makes_no_version_of_a_round_that_nobody_answered():
    strategy = FedAvg()
    server = server_of(strategy, tree(1))
    assert strategy.close(server, 0, num_sites=3) is server


@pytest.mark.parametrize(
    ("quorum", "num_sites", "needed"),
    [
        (0.5, 1, 1),
        (0.5, 2, 1),
        (0.5, 3, 2),
        (0.5, 4, 2),
        (0.01, 3, 1),
        (0.34, 3, 2),
        (0.75, 4, 3),
        (1.0, 1, 1),
        (1.0, 3, 3),
        (1, 4, 4),
    ],
)
def test_fedavg_needs_its_quorum_of_the_experiments_sites_rounded_up(quorum, num_sites, needed):
    strategy = FedAvg(weighting="equal", quorum=quorum)
    assert strategy.needed(num_sites) == needed
    server = server_of(strategy, tree(0))
    for _ in range(needed):
        assert strategy.close(server, 0, num_sites) is server
        server = strategy.fold(server, update_of(2))
    assert strategy.close(server, 1, num_sites) is server  # somebody is still waited for
    closed = strategy.close(server, 0, num_sites)
    assert (closed.version, closed.params["w"].tolist()) == (1, [2.0])


def test_fedavg_divides_by_what_has_come_and_not_by_the_experiments_sites():
    strategy = FedAvg(weighting="examples")
    server = server_of(strategy, tree(0))
    for update in (update_of(3, num_examples=30), update_of(-1, num_examples=10)):
        server = strategy.fold(server, update)
    assert strategy.close(server, 0, num_sites=4).params["w"] == pytest.approx(
        [2.0], rel=TOLERANCE
    )  # 80 / 40


@pytest.mark.parametrize(("weighting", "expected"), [("examples", 3.0), ("equal", 2.0)])
def test_fedavg_weighs_sites_by_examples_or_equally(weighting, expected):
    # 1 + (30 * 3 + 10 * -1) / 40 = 3, or 1 + (3 - 1) / 2 = 2
    strategy = FedAvg(weighting=weighting)
    updates = [update_of(3, num_examples=30), update_of(-1, num_examples=10)]
    server = server_of(strategy, tree(1))
    for update in updates:
        server = strategy.fold(server, update)
    assert strategy.close(server, 0, num_sites=2).params["w"] == pytest.approx([expected], rel=TOLERANCE)
    weights = [strategy.weight(update) for update in updates]
    assert weights == ([30.0, 10.0] if weighting == "examples" else [1.0, 1.0])


def test_fedavg_steps_with_its_server_optimizer():
    # Momentum over two rounds of mean delta 2: x = 1 + 0.5 * 2 + 0.5 * (0.9 * 2 + 2) = 3.9
    strategy = FedAvg(weighting="equal", server_optimizer=Sgd(learning_rate=0.5, momentum=0.9))
    server = server_of(strategy, tree(1))
    for _ in range(2):
        server = strategy.fold(strategy.fold(server, update_of(1)), update_of(3))
        server = strategy.close(server, 0, num_sites=2)
    assert server.params["w"] == pytest.approx([3.9], rel=TOLERANCE)
    assert server.version == 2


# All of them

EVERY_STRATEGY = [
    FedAsync(),
    FedBuff(buffer_size=2),
    FedBuff(buffer_size=2, weighting="examples"),
    FedBuff(buffer_size=2, server_optimizer=Adam(learning_rate=0.1)),
    FedBuff(buffer_size=3, server_optimizer=Sgd(learning_rate=0.5, momentum=0.9)),
    FedAvg(),
    FedAvg(weighting="equal", server_optimizer=Yogi(learning_rate=0.1)),
]


def uneven_updates():
    """Seven updates whose numbers round: any change in the order of the arithmetic would show."""
    rng = np.random.default_rng(5)
    for number in range(7):
        yield Update(
            delta={
                "layer0/weight": rng.normal(size=(3, 2)).astype(np.float32),
                "layer0/bias": rng.normal(size=2).astype(np.float32),
            },
            base={
                "layer0/weight": rng.normal(size=(3, 2)).astype(np.float32),
                "layer0/bias": rng.normal(size=2).astype(np.float32),
            },
            num_examples=number + 1,
            staleness=number,
        )


def uneven_params():
    rng = np.random.default_rng(6)
    return {
        "layer0/weight": rng.normal(size=(3, 2)).astype(np.float32),
        "layer0/bias": np.zeros(2, np.float32),
    }


@pytest.mark.parametrize("strategy", EVERY_STRATEGY)
@pytest.mark.parametrize("is_checked", [True, False])
def test_memory_survives_the_wire_format_bit_for_bit_in_the_middle_of_a_sequence(strategy, is_checked):
    kept = carried = server_of(strategy, uneven_params())
    reference = strategy.init(uneven_params()) if is_checked else None
    for number, update in enumerate(uneven_updates()):
        num_outstanding = 0 if number % 3 == 2 else 1
        kept = take(strategy, kept, update, num_outstanding=num_outstanding)
        carried = Server(
            params=codec.decode_tree(codec.encode_tree(carried.params), uneven_params()),
            version=carried.version,
            memory=codec.decode_tree(codec.encode_tree(carried.memory), reference),
        )
        carried = take(strategy, carried, update, num_outstanding=num_outstanding)
        assert_same_bits(carried.params, kept.params)
        assert_same_bits(carried.memory, kept.memory)
        assert carried.version == kept.version
    assert kept.version >= 2


@pytest.mark.parametrize("strategy", EVERY_STRATEGY)
def test_fold_and_close_change_nothing_that_they_are_given(strategy):
    server = server_of(strategy, uneven_params())
    updates = list(uneven_updates())
    for update in updates:
        given = [server.params, server.memory, update.delta, update.base]
        before = [{path: np.array(leaf) for path, leaf in mapping.items()} for mapping in given]
        folded = strategy.fold(server, update)
        for now, then in zip(given, before, strict=True):
            assert_same_bits(now, then)
        given = [folded.params, folded.memory]
        before = [{path: np.array(leaf) for path, leaf in mapping.items()} for mapping in given]
        server = strategy.close(folded, 0, num_sites=1)
        for now, then in zip(given, before, strict=True):
            assert_same_bits(now, then)
    assert server.version >= 2


@pytest.mark.parametrize("strategy", EVERY_STRATEGY)
def test_parameters_keep_their_dtypes_shapes_and_paths(strategy):
    server = take(strategy, server_of(strategy, uneven_params()), *uneven_updates())
    assert list(server.params) == list(uneven_params())
    for path, leaf in uneven_params().items():
        assert (server.params[path].shape, server.params[path].dtype) == (leaf.shape, leaf.dtype)
    memory = strategy.init(uneven_params())
    assert {path: (leaf.shape, leaf.dtype) for path, leaf in server.memory.items()} == {
        path: (leaf.shape, leaf.dtype) for path, leaf in memory.items()
    }


def test_only_fedavg_is_synchronous_and_only_fedasync_needs_the_base_model():
    assert [kind.is_synchronous for kind in (FedAsync, FedBuff, FedAvg)] == [False, False, True]
    assert [kind.uses_base for kind in (FedAsync, FedBuff, FedAvg)] == [True, False, False]


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (FedAsync, {"mixing_rate": 0.0}, "mixing_rate\n  Input should be greater than 0"),
        (FedAsync, {"mixing_rate": 1.1}, "mixing_rate\n  Input should be less than or equal to 1"),
        (FedAsync, {"max_staleness": -1}, "max_staleness\n  Input should be greater than or equal to 0"),
        (FedAsync, {"max_norm": 0.0}, "max_norm\n  Input should be greater than 0"),
        (FedBuff, {"max_norm": float("inf")}, "max_norm\n  Input should be a finite number"),
        (FedAvg, {"max_norm": "1"}, "max_norm\n  Input should be a valid number"),
        (FedBuff, {"buffer_size": 0}, "buffer_size\n  Input should be greater than 0"),
        (FedAvg, {"weighting": "loss"}, "weighting\n  Input should be 'examples' or 'equal'"),
        (FedAvg, {"max_staleness": 3}, "max_staleness\n  Unexpected keyword argument"),
        (FedAvg, {"quorum": 0.0}, "quorum\n  Input should be greater than 0"),
        (FedAvg, {"quorum": 1.01}, "quorum\n  Input should be less than or equal to 1"),
        (FedAvg, {"quorum": "1"}, "quorum\n  Input should be a valid number"),
        (FedAsync, {"quorum": 0.5}, "quorum\n  Unexpected keyword argument"),
    ],
)
def test_bad_settings_are_refused(kind, options, message):
    with pytest.raises(ValidationError, match=message):
        kind(**options)


def test_the_norm_is_unbounded_by_default_and_every_strategy_can_bound_it():
    assert [kind().max_norm for kind in (FedAsync, FedBuff, FedAvg)] == [None, None, None]
    assert [kind(max_norm=2.5).max_norm for kind in (FedAsync, FedBuff, FedAvg)] == [2.5, 2.5, 2.5]


@pytest.mark.parametrize("num_sites", [1, 2, 100])
def test_an_asynchronous_strategy_needs_any_site_alone(num_sites):
    assert [FedAsync().needed(num_sites), FedBuff().needed(num_sites)] == [1, 1]


# Arrays that are used again


@pytest.mark.parametrize(
    "strategy",
    [FedAsync(mixing_rate=0.5), FedBuff(buffer_size=3), FedAvg()],
    ids=["fedasync", "fedbuff", "fedavg"],
)
def test_folding_into_the_same_arrays_gives_the_same_bits_and_only_then_changes_what_was_there(strategy):
    rng = np.random.default_rng(0)

    def large(scale=1.0):
        shape = (3, trees.BLOCK // 2 + 1)  # more than a block
        return {"weight": (scale * rng.normal(size=shape)).astype(np.float32), "bias": np.float32([1.0])}

    begun = Server(params=large(), version=0, memory=strategy.init(large()))
    updates = [Update(delta=large(0.1), base=large(), num_examples=n, staleness=n) for n in range(1, 4)]
    kept = copy.deepcopy((begun, updates))
    pure = begun
    for update in updates:
        pure = strategy.fold(pure, update)
    assert_same_bits(begun.params, kept[0].params)
    assert_same_bits(begun.memory, kept[0].memory)
    reused = strategy.fold(begun, updates[0])
    for update in updates[1:]:
        before = reused
        reused = strategy.fold(before, update, reuse=True)
    assert_same_bits(reused.params, pure.params)
    assert_same_bits(reused.memory, pure.memory)
    assert_same_bits(begun.params, kept[0].params)
    for update, as_it_was in zip(updates, kept[1], strict=True):
        assert_same_bits(update.delta, as_it_was.delta)
        assert_same_bits(update.base, as_it_was.base)
    path = "weight" if isinstance(strategy, FedAsync) else "sum/weight"
    one, other = ({**server.params, **server.memory}[path] for server in (before, reused))
    assert one is other


# Deltas that are folded in as they were sent

KINDS = [
    BFloat16(),
    Float16(),
    Int8(),
    Int8(rotation=True),
    Int4(block=16),
    Int3(),
    Int2(),
    TopK(fraction=0.1),
]


def compressed(kind, tree):
    """As the coordinator has it: each leaf with its own seed, small ones as they are."""
    return {
        path: Compressed(kind, compression.encode(kind, leaf, seed), leaf.shape, seed)
        for seed, (path, leaf) in enumerate(tree.items())
    }


def decoded(tree):
    return {path: leaf.decoded() for path, leaf in tree.items()}


def normal(*shape, seed):
    """A leaf of this shape, which is compressed if it has 64 values, and a small one."""
    rng = np.random.default_rng(seed)
    weight, bias = rng.normal(size=shape), rng.normal(size=3)
    return {"weight": weight.astype(np.float32), "bias": bias.astype(np.float32)}


def assert_close(one, other):
    """Within a few roundings of numbers of about 1."""
    assert list(one) == list(other)
    for path, leaf in one.items():
        assert (leaf.shape, leaf.dtype) == (other[path].shape, other[path].dtype)
        np.testing.assert_allclose(leaf, other[path], rtol=4e-6, atol=4e-6, err_msg=path)


def read_only(tree):
    for leaf in tree.values():
        leaf.flags.writeable = False
    return tree


@pytest.mark.parametrize("kind", KINDS, ids=repr)
@pytest.mark.parametrize("strategy", EVERY_STRATEGY)
@pytest.mark.parametrize("reuse", [False, True])
def test_a_compressed_delta_counts_as_what_decoding_gives(strategy, kind, reuse):
    sent = [compressed(kind, normal(3, 100, seed=number)) for number in range(7)]
    models = []
    for deltas in ([decoded(delta) for delta in sent], sent):
        server = server_of(strategy, read_only(normal(3, 100, seed=10)))
        for number, delta in enumerate(deltas):
            base = normal(3, 100, seed=10 + number)
            update = Update(delta=delta, base=base, num_examples=number + 1, staleness=number % 3)
            server = strategy.fold(server, update, reuse=reuse)
            server = strategy.close(server, 0 if number % 3 == 2 else 1, 1, reuse=reuse)
        models.append(server)
    assert models[1].version == models[0].version >= 2
    assert_close(models[1].params, models[0].params)
    assert_close(models[1].memory, models[0].memory)
    # And by the delta, not only by what else is mixed in.
    assert not np.allclose(models[1].params["weight"], normal(3, 100, seed=10)["weight"], atol=1e-2)


@pytest.mark.parametrize("strategy", EVERY_STRATEGY)
def test_of_a_fresh_update_the_base_may_be_the_model_that_is_overwritten(strategy):
    delta = compressed(Int8(), normal(3, 100, seed=1))
    folded = []
    for reuse in (False, True):
        params = normal(3, 100, seed=0)
        update = Update(delta=delta, base=params, num_examples=5, staleness=0)
        folded.append(strategy.fold(server_of(strategy, params), update, reuse=reuse))
    assert_same_bits(folded[1].params, folded[0].params)
    assert_same_bits(folded[1].memory, folded[0].memory)


@pytest.mark.parametrize("strategy", EVERY_STRATEGY)
@pytest.mark.parametrize("kind", [Int4(), TopK()], ids=repr)
def test_what_may_not_be_changed_is_as_it_was_after_a_compressed_delta(strategy, kind):
    """Without `reuse` nothing may; with it, no array that somebody else has, and no blank sum."""
    deltas = [compressed(kind, normal(2, trees.BLOCK, seed=number)) for number in range(2)]
    base = read_only(normal(2, trees.BLOCK, seed=3))
    for reuse in (False, True):
        server = server_of(strategy, normal(2, trees.BLOCK, seed=2))
        for delta in deltas:
            if reuse:
                server = Server(
                    params=read_only(dict(server.params)), version=0, memory=read_only(dict(server.memory))
                )
            before = copy.deepcopy((server, decoded(delta)))
            update = Update(delta=delta, base=base, num_examples=2, staleness=1)
            after = strategy.fold(server, update, reuse=reuse)
            assert_same_bits(server.params, before[0].params)
            assert_same_bits(server.memory, before[0].memory)
            assert_same_bits(decoded(delta), before[1])
            server = after
        assert_same_bits(base, normal(2, trees.BLOCK, seed=3))


@pytest.mark.parametrize("strategy", [FedAsync(), FedBuff(buffer_size=9), FedAvg()], ids=repr)
def test_a_compressed_delta_is_added_to_arrays_that_nobody_else_has(strategy):
    path = "weight" if isinstance(strategy, FedAsync) else "sum/weight"
    server, found = server_of(strategy, read_only(normal(3, 100, seed=0))), []
    for number in range(3):
        delta, base = compressed(Int8(), normal(3, 100, seed=number)), normal(3, 100, seed=5)
        update = Update(delta=delta, base=base, num_examples=1, staleness=1)
        server = strategy.fold(server, update, reuse=True)
        found.append({**server.params, **server.memory}[path])
    assert found[0] is found[1] is found[2]


@pytest.mark.parametrize("kind", [BFloat16(), Int8(), Int2(), Int8(rotation=True), TopK()], ids=repr)
@pytest.mark.parametrize("strategy", [FedAsync(), FedBuff(buffer_size=9), FedAvg()], ids=repr)
def test_of_huge_deltas_and_the_most_examples_the_sums_are_finite(strategy, kind):
    delta = compressed(kind, {"weight": np.tile(np.float32([1e16, -6e15]), (300, 1))})
    assert trees.out_of_bounds(delta) is None
    update = Update(
        delta=delta, base={"weight": np.zeros((300, 2), np.float32)}, num_examples=2**53, staleness=0
    )
    server = server_of(strategy, {"weight": np.zeros((300, 2), np.float32)})
    for _ in range(3):
        server = strategy.fold(server, update, reuse=True)
    arrays = {**server.params, **server.memory}
    assert all(np.isfinite(leaf).all() for leaf in arrays.values())
    assert max(np.abs(leaf).max() for leaf in arrays.values()) > 1e15
