"""Preprocessing: hand-computed numbers, and that parts combined are as good as pooled examples."""

import csv
import gzip

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.conftest import REPOSITORY
from workers import standardization
from workers.standardization import Moments, Preprocessing, combine, filling, moments, standardizing

TOLERANCE = 1e-6  # of a deviation, between what sites combine and what pooled examples give
NAN = np.nan


def pooled(inputs):
    """Mean and deviation of each input, by the definition and in more digits than float64 has."""
    rows = np.asarray(inputs).reshape(-1, inputs.shape[-1]).astype(np.longdouble)
    return np.nanmean(rows, axis=0), np.nanstd(rows, axis=0)


def assert_as_pooled(parts):
    """What the parts combine to is what the definition gives of all examples together."""
    found = standardizing(combine([moments(part) for part in parts]))
    everything = np.concatenate([part.reshape(-1, part.shape[-1]) for part in parts])
    mean, deviation = pooled(everything)
    is_constant = deviation <= 1e-11 * np.abs(mean)
    scale = np.where(is_constant, 1, deviation)
    assert (np.abs(np.asarray(found.scale) / scale - 1) < TOLERANCE).all()
    rounding = np.finfo(np.float64).eps * np.abs(mean)
    assert (np.abs(np.asarray(found.shift) - mean) <= TOLERANCE * deviation + rounding).all()
    assert found.fill == found.shift
    expected = np.where(np.isnan(everything) | is_constant, 0.0, (everything - mean) / scale)
    applied = found.apply(everything)
    applied[:, is_constant] /= np.maximum(1, np.abs(mean[is_constant]))
    np.testing.assert_allclose(applied, expected.astype(np.float64), rtol=TOLERANCE, atol=TOLERANCE)


def test_moments_are_counts_means_and_squares_of_the_values_that_are_there():
    found = moments(np.array([[1.0, NAN, 5.0], [3.0, NAN, NAN], [8.0, NAN, 7.0]]))
    assert found.count.tolist() == [3.0, 0.0, 2.0]
    assert found.mean.tolist() == [4.0, 0.0, 6.0]
    assert found.squares.tolist() == [9.0 + 1.0 + 16.0, 0.0, 2.0]


def test_every_pixel_of_an_image_counts_for_its_channel():
    images = np.arange(2 * 3 * 4 * 2, dtype=np.float64).reshape(2, 3, 4, 2)
    found = moments(images)
    assert found.count.tolist() == [24.0, 24.0]
    assert found.mean.tolist() == [images[..., 0].mean(), images[..., 1].mean()] == [23.0, 24.0]
    assert found.squares.tolist() == [np.square(images[..., 0] - 23.0).sum()] * 2


def test_two_sites_combine_to_the_numbers_of_both():
    found = combine([moments(np.array([[0.0], [2.0]])), moments(np.array([[7.0], [NAN]]))])
    assert (found.count.tolist(), found.mean.tolist(), found.squares.tolist()) == ([3.0], [3.0], [26.0])
    assert standardizing(found) == Preprocessing(fill=(3.0,), shift=(3.0,), scale=(np.sqrt(26 / 3),))


def test_a_site_without_a_value_of_an_input_changes_nothing_of_it():
    told = Moments(count=np.zeros(1), mean=np.array([1e90]), squares=np.zeros(1))
    found = combine([told, moments(np.array([[1.0], [3.0]])), told])
    assert (found.count.tolist(), found.mean.tolist(), found.squares.tolist()) == ([2.0], [2.0], [2.0])


def test_an_input_that_nobody_has_becomes_0():
    found = combine([moments(np.full((3, 1), NAN))] * 2)
    for make in (standardizing, filling):
        assert make(found) == Preprocessing(fill=(0.0,), shift=(0.0,), scale=(1.0,))
        assert make(found).apply(np.array([[NAN]])).tolist() == [[0.0]]


def test_filling_leaves_values_as_they_are_and_missing_ones_become_the_mean():
    found = filling(moments(np.array([[1.0, 5.0], [NAN, 5.0], [4.0, NAN]])))
    assert found == Preprocessing(fill=(2.5, 5.0), shift=(0.0, 0.0), scale=(1.0, 1.0))
    assert found.apply(np.array([[NAN, NAN], [7.0, -1.0]])).tolist() == [[2.5, 5.0], [7.0, -1.0]]


def test_what_is_prepared_is_float32_of_the_same_shape():
    found = Preprocessing(fill=(1.0, 0.0), shift=(1.0, 2.0), scale=(2.0, 0.5))
    assert len(found) == 2
    images = np.array([[[[5.0, 3.0], [NAN, NAN]]]])
    applied = found.apply(images)
    np.testing.assert_array_equal(applied, np.float32([[[[2.0, 2.0], [0.0, -4.0]]]]), strict=True)


@pytest.mark.parametrize("scale", [0.0, -1.0, NAN, np.inf])
def test_a_scale_that_would_give_no_number_or_turn_the_sign_is_refused(scale):
    with pytest.raises(ValidationError):
        Preprocessing(fill=(0.0,), shift=(0.0,), scale=(scale,))


@pytest.mark.parametrize("field", ["fill", "shift"])
@pytest.mark.parametrize("value", [NAN, np.inf, -np.inf])
def test_a_preprocessing_of_what_is_no_number_is_refused(field, value):
    with pytest.raises(ValidationError):
        Preprocessing(**{"fill": (0.0,), "shift": (0.0,), "scale": (1.0,), field: (value,)})


# As if they had been pooled

SIZES = st.lists(st.integers(1, 60), min_size=1, max_size=6)
SPREADS = st.sampled_from([0.0, 1e-9, 1e-3, 1.0, 1e6])  # in shares of the mean, or where that is 0 absolute


@given(
    seed=st.integers(0, 2**32),
    sizes=SIZES,
    large=st.booleans(),
    mean=st.sampled_from([0.0, 1e-30, -1.0, 1e9, -1e15, 1e30]),
    spread=SPREADS,
    missing=st.sampled_from([0.0, 0.3, 0.9]),
    image=st.booleans(),
)
@example(seed=0, sizes=[1], large=False, mean=1e9, spread=1e-9, missing=0.0, image=False)
@example(seed=1, sizes=[1, 60], large=True, mean=1e9, spread=1e-9, missing=0.3, image=False)
@settings(max_examples=200, deadline=None)
def test_what_parts_combine_to_is_what_pooled_examples_give(seed, sizes, large, mean, spread, missing, image):
    rng = np.random.default_rng(seed)
    sizes = [*sizes, 5000] if large else sizes
    parts = []
    for size in sizes:
        deviations = rng.normal(rng.normal(), 1.0, (size, 2, 3, 2) if image else (size, 4))
        part = (mean + spread * abs(mean) * deviations) if mean else spread * deviations
        part[rng.random(part.shape) < missing] = NAN
        parts.append(part)
    everything = np.concatenate([part.reshape(-1, part.shape[-1]) for part in parts])
    has_values = ~np.isnan(everything).all(axis=0)
    if has_values.any():
        assert_as_pooled([part[..., has_values] for part in parts])


def test_parts_of_the_stroke_trial_combine_to_what_all_its_patients_give():
    """International Stroke Trial, ODC-By: age, delay and blood pressure, in 466 hospitals."""
    file = REPOSITORY.parent / "shared" / "data" / "stroke-trial" / "ist.csv.gz"
    with gzip.open(file, "rt", encoding="latin-1") as lines:
        rows = list(csv.DictReader(lines))
    names = ("HOSPNUM", "RDELAY", "AGE", "RSBP")
    table = np.array([[float(row[name].strip() or "nan") for name in names] for row in rows])
    parts = [table[table[:, 0] == hospital][:, 1:] for hospital in np.unique(table[:, 0])]
    assert (len(parts), sum(map(len, parts))) == (466, 19_435)
    assert_as_pooled(parts)


def test_parts_of_real_images_combine_to_what_all_of_them_give():
    """BreastMNIST of MedMNIST v2, CC BY 4.0."""
    file = REPOSITORY.parent / "shared" / "data" / "medmnist" / "breastmnist.npz"
    images = np.load(file)["train_images"][..., None] / 255.0
    assert_as_pooled(np.split(images, [1, 3, 100]))


def test_many_sites_whose_means_are_large_lose_nothing_of_their_deviation():
    rng = np.random.default_rng(0)
    assert_as_pooled([1e9 + 0.5 * rng.normal(size=(rng.integers(1, 9), 4)) for _ in range(2000)])


def test_many_values_whose_mean_is_large_lose_nothing_of_their_deviation():
    rng = np.random.default_rng(0)
    assert_as_pooled(list(1e9 + rng.normal(size=(50, 4000, 2))))


@pytest.mark.parametrize("sizes", [(1_000_000,), (3, 500_000, 1)])
def test_a_constant_is_one_however_many_values_it_has_and_becomes_0(sizes):
    found = standardizing(combine([moments(np.full((size, 2), 0.1)) for size in sizes]))
    assert found.scale == (1.0, 1.0)
    assert np.abs(found.apply(np.full((1, 2), 0.1))).max() < 1e-12


def test_a_constant_that_differs_from_site_to_site_is_none():
    found = standardizing(combine([moments(np.full((5, 1), 1.0)), moments(np.full((5, 1), 3.0))]))
    assert (found.shift, found.scale) == ((2.0,), (1.0,))
    assert found.apply(np.array([[1.0], [3.0]])).tolist() == [[-1.0], [1.0]]


def test_a_deviation_just_above_rounding_is_kept():
    found = standardizing(moments(np.array([[1.0], [1.0 + 4e-12]])))
    assert found.scale[0] == pytest.approx(2e-12, rel=1e-3)
    assert standardization.ROUNDING == 1e-12
