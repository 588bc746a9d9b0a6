import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers import datasets, partitions
from workers.data_settings import Dirichlet, Iid, Natural
from workers.datasets import Dataset
from workers.errors import DataError


def dataset_of(targets, classes=(), groups=None):
    return Dataset(
        features=np.zeros((len(targets), 1)),
        targets=np.asarray(targets, np.float64),
        feature_names=("x",),
        target_name="y",
        classes=classes,
        groups=None if groups is None else np.asarray(groups),
    )


def sizes_of(parts):
    return [len(part) for part in parts]


@pytest.mark.parametrize(
    ("name", "partition", "num_sites"),
    [
        ("iris", Iid(), 1),
        ("iris", Iid(), 7),
        ("diabetes", Iid(), 4),
        ("breast-cancer", Dirichlet(), 4),
        ("digits", Dirichlet(alpha=0.1), 5),
        ("wine", Dirichlet(alpha=100.0), 3),
        ("two-hospitals", Natural(), 2),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_every_example_is_one_sites(name, partition, num_sites, seed):
    dataset = datasets.load(name, seed)
    parts = partitions.split(dataset, partition, num_sites, seed)
    assert len(parts) == num_sites
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(dataset.targets)))
    assert all((np.diff(part) > 0).all() for part in parts)


@pytest.mark.parametrize("partition", [Iid(), Dirichlet()])
def test_the_same_seed_shares_out_in_the_same_way_and_another_in_another(partition):
    dataset = datasets.load("breast-cancer", 0)
    one, same, other = (partitions.split(dataset, partition, 4, seed) for seed in (3, 3, 4))
    assert all(np.array_equal(*pair) for pair in zip(one, same, strict=True))
    assert not any(np.array_equal(*pair) for pair in zip(one, other, strict=True))


def test_iid_gives_equal_sizes_and_nearly_the_same_mix():
    dataset = datasets.load("breast-cancer", 0)
    parts = partitions.split(dataset, Iid(), 4, seed=0)
    assert sizes_of(parts) == [143, 142, 142, 142]
    shares = [dataset.targets[part].mean() for part in parts]
    assert shares == pytest.approx([dataset.targets.mean()] * 4, abs=0.1)


def test_a_small_alpha_gives_unequal_sizes_and_unequal_mixes():
    dataset = datasets.load("breast-cancer", 0)
    parts = partitions.split(dataset, Dirichlet(alpha=0.5), 4, seed=0)
    shares = [dataset.targets[part].mean() for part in parts]
    assert max(sizes_of(parts)) > 2 * min(sizes_of(parts))
    assert max(shares) - min(shares) > 0.3


def test_a_large_alpha_gives_nearly_equal_sizes():
    dataset = datasets.load("digits", 0)
    sizes = sizes_of(partitions.split(dataset, Dirichlet(alpha=1000.0), 3, seed=0))
    assert sizes == pytest.approx([1797 / 3] * 3, rel=0.1)


@pytest.mark.parametrize("seed", range(4))
def test_dirichlet_is_drawn_again_until_every_site_has_its_minimum(seed):
    dataset = datasets.load("iris", 0)
    free = partitions.split(dataset, Dirichlet(alpha=0.2, min_examples=1), 4, seed)
    kept = partitions.split(dataset, Dirichlet(alpha=0.2, min_examples=20), 4, seed)
    assert min(sizes_of(free)) < 20 <= min(sizes_of(kept))


def test_dirichlet_gives_up_with_advice_where_no_draw_has_the_minimum():
    with pytest.raises(DataError) as raised:
        partitions.split(datasets.load("iris", 0), Dirichlet(alpha=0.5, min_examples=40), 4, seed=0)
    assert str(raised.value) == (
        "data.partition: no draw of Dir(0.5) gave each of 4 sites 40 of 150 examples; "
        "take a larger alpha, fewer sites or a smaller min_examples"
    )


def test_dirichlet_refuses_a_regression():
    with pytest.raises(
        DataError, match="^data.partition: dirichlet spreads classes .* a regression has none$"
    ):
        partitions.split(datasets.load("diabetes", 0), Dirichlet(), 2, seed=0)


def test_natural_gives_the_first_group_to_the_first_site():
    parts = partitions.split(dataset_of([0, 0, 0, 0, 0], groups=[7, 2, 2, 7, 5]), Natural(), 3, seed=0)
    assert [part.tolist() for part in parts] == [[1, 2], [4], [0, 3]]


@pytest.mark.parametrize(("groups", "found"), [(None, "none"), ([0, 1, 1], "2"), ([0, 0, 0], "1")])
def test_natural_needs_as_many_groups_as_sites(groups, found):
    with pytest.raises(DataError) as raised:
        partitions.split(dataset_of([0, 0, 0], groups=groups), Natural(), 3, seed=0)
    assert str(raised.value) == (
        f"data.partition: natural needs a data set with 3 groups, one for each site; this one has {found}"
    )


@given(
    counts=st.lists(st.integers(0, 60), min_size=1, max_size=4),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_holdout_takes_its_share_of_every_class_and_leaves_the_rest_to_train_on(counts, share, seed):
    targets = np.repeat(np.arange(len(counts)), counts).astype(float)
    np.random.default_rng(seed).shuffle(targets)
    try:
        train, held_out = partitions.holdout(targets, share, is_classes=True, seed=seed)
    except DataError as error:
        assert len(targets) * min(share, 1 - share) < 1 + 1e-9
        assert str(error).endswith(f"to hold out {share:g} of; got {len(targets)}")
        return
    assert len(train) and len(held_out)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, held_out])), np.arange(len(targets)))
    for label, count in enumerate(counts):
        assert abs((targets[held_out] == label).sum() - share * count) < 1 + 1e-9


def test_holdout_of_a_quarter_by_hand():
    # 8 of class 0 and 4 of class 1: 2 and 1, whatever the shuffle.
    targets = np.array([0, 1, 0, 0, 1, 0, 0, 1, 0, 0, 1, 0], float)
    chosen = set()
    for seed in range(20):
        train, held_out = partitions.holdout(targets, 0.25, is_classes=True, seed=seed)
        assert np.bincount(targets[held_out].astype(int)).tolist() == [2, 1]
        assert np.bincount(targets[train].astype(int)).tolist() == [6, 3]
        chosen.add(tuple(held_out))
    assert len(chosen) > 10


def test_holdout_of_a_regression_is_a_shuffle_and_not_the_largest_values():
    targets = np.arange(100.0)
    train, held_out = partitions.holdout(targets, 0.25, is_classes=False, seed=0)
    assert (len(train), len(held_out)) == (75, 25)
    assert targets[held_out].mean() == pytest.approx(targets.mean(), abs=15)
    assert len(set(np.diff(held_out).tolist())) > 2  # nor every fourth


def test_holdout_is_the_same_for_the_same_seed():
    targets = np.tile([0.0, 1.0], 20)
    one, same, other = (partitions.holdout(targets, 0.3, is_classes=True, seed=seed)[1] for seed in (1, 1, 2))
    assert one.tolist() == same.tolist() != other.tolist()


@pytest.mark.parametrize("num_examples", [0, 1])
def test_too_few_examples_to_hold_out_any_are_refused(num_examples):
    with pytest.raises(DataError) as raised:
        partitions.holdout(np.zeros(num_examples), 0.25, is_classes=False, seed=0)
    assert str(raised.value) == (
        f"expected enough examples to train on and to hold out 0.25 of; got {num_examples}"
    )
