import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_sample_weight

from workers import batches
from workers.batches import MIN_STEPS, PADDING
from workers.spec import LocalTraining


def rows_with_examples(plan):
    return plan[(plan != PADDING).any(axis=1)]


@given(
    num_examples=st.integers(1, 300),
    batch_size=st.integers(1, 40),
    epochs=st.integers(1, 4),
    seed=st.integers(0, 2**63 - 1),
)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_every_epoch_holds_every_example_exactly_once(num_examples, batch_size, epochs, seed):
    training = LocalTraining(batch_size=batch_size, epochs=epochs)
    plan = batches.plan(training, num_examples, seed)
    batches_per_epoch = math.ceil(num_examples / batch_size)
    assert plan.dtype == np.int32
    assert plan.shape[1] == batch_size
    steps = rows_with_examples(plan)
    assert len(steps) == batches_per_epoch * epochs
    assert (plan[len(steps) :] == PADDING).all()  # what is skipped comes last
    for epoch in steps.reshape(epochs, -1):
        assert sorted(epoch[epoch != PADDING]) == list(range(num_examples))


def test_the_last_batch_of_an_epoch_is_padded_and_not_dropped():
    plan = batches.plan(LocalTraining(batch_size=4, epochs=2), 10, seed=0)
    sizes = (plan != PADDING).sum(axis=1)
    assert sizes[:6].tolist() == [4, 4, 2, 4, 4, 2]
    assert not sizes[6:].any()


def test_a_batch_larger_than_the_site_holds_all_its_examples():
    plan = batches.plan(LocalTraining(batch_size=8, epochs=1), 3, seed=0)
    assert sorted(plan[0][:3]) == [0, 1, 2]
    assert (plan[0][3:] == PADDING).all()


def test_every_epoch_is_a_new_shuffle():
    plan = batches.plan(LocalTraining(batch_size=50, epochs=3), 50, seed=0)
    epochs = [plan[number].tolist() for number in range(3)]
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    assert epochs[0] != list(range(50))


@pytest.mark.parametrize(("steps", "num_epochs"), [(1, 1), (3, 1), (4, 2), (7, 3)])
def test_in_steps_mode_exactly_so_many_batches_are_taken_across_epochs(steps, num_epochs):
    # 10 examples in batches of 4: 3 batches an epoch.
    plan = rows_with_examples(batches.plan(LocalTraining(batch_size=4, steps=steps), 10, seed=1))
    assert len(plan) == steps
    for number in range(num_epochs):
        epoch = plan[3 * number : 3 * number + 3]
        seen = epoch[epoch != PADDING].tolist()
        assert len(set(seen)) == len(seen)
        assert len(epoch) < 3 or sorted(seen) == list(range(10))


def test_steps_are_the_same_whatever_the_number_of_examples():
    training = LocalTraining(batch_size=4, steps=5)
    assert [len(rows_with_examples(batches.plan(training, n, seed=0))) for n in (1, 10, 500)] == [5, 5, 5]


def test_the_same_seed_gives_the_same_plan_and_another_seed_another():
    training = LocalTraining(batch_size=4, epochs=2)
    one, same, other = (batches.plan(training, 30, seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(one, same, strict=True)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize(
    ("num_rows", "at_least", "padded"),
    [
        (0, 32, 32),
        (1, 32, 32),
        (32, 32, 32),
        (33, 32, 64),
        (200, 256, 256),
        (256, 256, 256),
        (257, 256, 512),
        (1024, 256, 1024),
        (1025, 256, 2048),
        (2048, 256, 2048),
        (2049, 256, 3072),
        (100_000, 256, 100_352),
    ],
)
def test_rows_are_padded_to_powers_of_two_and_past_1024_to_multiples_of_it(num_rows, at_least, padded):
    rows = np.arange(num_rows, dtype=np.float32)
    grown = batches.pad(rows, -7.0, at_least)
    assert (grown.shape, grown.dtype) == ((padded,), np.float32)
    np.testing.assert_array_equal(grown[:num_rows], rows)
    assert (grown[num_rows:] == -7.0).all()


def test_padding_keeps_the_other_dimensions():
    grown = batches.pad(np.ones((3, 2, 5), np.int32), 0, 4)
    assert (grown.shape, grown.dtype) == ((4, 2, 5), np.int32)
    assert grown[:3].all() and not grown[3].any()


def test_small_sites_share_one_plan_shape():
    training = LocalTraining(batch_size=16, epochs=1)
    shapes = {batches.plan(training, num_examples, seed=0).shape for num_examples in (1, 57, 256, 512)}
    assert shapes == {(MIN_STEPS, 16)}


# Weights


def weights(class_weights, targets):
    training = LocalTraining(epochs=1, class_weights=class_weights)
    return batches.class_weights(training, np.float32(targets))


def test_without_class_weights_all_examples_weigh_the_same():
    assert weights(None, [0, 1]) is None


def test_balanced_classes_have_the_same_weight_together():
    # n = 6, k = 2: 6 / (2 * 4) and 6 / (2 * 2).
    found = weights("balanced", [0, 0, 1, 0, 1, 0])
    np.testing.assert_array_equal(found, np.float32([0.75, 0.75, 1.5, 0.75, 1.5, 0.75]), strict=True)


def test_balanced_weights_are_scikit_learns_and_their_mean_is_1():
    targets = np.random.default_rng(0).choice(
        [0.0, 2.0, 3.0], 50, p=[0.7, 0.2, 0.1]
    )  # a site without class 1
    found = weights("balanced", targets)
    np.testing.assert_allclose(found, compute_sample_weight("balanced", targets), rtol=1e-6)
    assert found.mean() == pytest.approx(1, rel=1e-6)


def test_a_site_with_one_class_weighs_it_as_usual():
    assert weights("balanced", [1, 1, 1]).tolist() == [1, 1, 1]


def test_given_weights_are_those_of_classes_0_1_and_so_on():
    found = weights((0.5, 1.0, 4.0), [2, 0, 1, 2])
    np.testing.assert_array_equal(found, np.float32([4, 0.5, 1, 4]), strict=True)
