"""What a site tells of its examples, and what becomes of what hostile sites tell."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import codec
from tests.conftest import REPOSITORY
from workers import description
from workers.data_settings import Data, Layout, NumberTarget
from workers.description import MIN_COUNT, Description
from workers.errors import DataError
from workers.schema import Schema
from workers.standardization import Moments

NAN = np.nan
SCHEMA = Schema(
    features=("age", "sex"), categories={"sex": ("f", "m")}, target="y", target_kind="regression"
)  # three inputs
IMAGES = Schema(features=("grey",), size=(2, 3), target="y", target_kind="regression")
HEART_DISEASE = Schema(
    features=("age", "sex", "cp", "trestbps", "chol"),
    categories={"cp": ("typical", "atypical", "other", "none")},
    target="disease",
    target_kind="binary",
    classes=("absent", "present"),
)


def data_of(standardize="pooled"):
    layout = Layout(features=("age", "sex"), target=NumberTarget(kind="regression", column="y"))
    return Data(dataset="ours", layout=layout, standardize=standardize)


def examples(size, missing_ages=0):
    table = np.stack([np.arange(size, dtype=float), np.arange(size) % 2.0], axis=1)
    table[:missing_ages, 0] = NAN
    return table


def told_of(**changes):
    """What a site tells, with other leaves."""
    return {**description.describe(SCHEMA, examples(20)).params, **changes}


def hospitals():
    """Raw examples of the four hospitals of UCI Heart Disease, CC BY 4.0, with what they miss."""
    folder = REPOSITORY.parent / "shared" / "data" / "heart-disease"
    for file in sorted(folder.glob("processed.*.data")):
        table = np.genfromtxt(file, delimiter=",", missing_values="?")[:, :5]
        table[:, 2] -= 1
        table[:, 4][table[:, 4] == 0] = NAN  # nobody has no cholesterol: it was not measured
        yield table


# A site


def test_a_site_tells_how_many_examples_it_has_and_the_moments_of_each_input():
    told = description.describe(SCHEMA, examples(20))
    assert told.num_examples == 20
    assert told.moments.count.tolist() == [20.0, 20.0, 20.0]
    assert told.moments.mean.tolist() == [9.5, 0.5, 0.5]
    assert told.moments.squares.tolist() == [20 * (20**2 - 1) / 12, 5.0, 5.0]


def test_a_site_tells_nothing_of_an_input_with_fewer_values_than_its_minimum():
    told = description.describe(SCHEMA, examples(20, missing_ages=20 - MIN_COUNT))
    assert told.moments.count.tolist() == [MIN_COUNT, 20.0, 20.0]
    told = description.describe(SCHEMA, examples(20, missing_ages=20 - MIN_COUNT + 1))
    for part in (told.moments.count, told.moments.mean, told.moments.squares):
        assert part[0] == 0.0 and part[1:].all()
    told = description.describe(SCHEMA, examples(20, missing_ages=17), min_count=3)
    assert told.moments.count.tolist() == [3.0, 20.0, 20.0]


def test_a_site_with_fewer_examples_than_its_minimum_tells_nothing_not_even_how_many():
    assert description.describe(SCHEMA, examples(MIN_COUNT)).num_examples == MIN_COUNT
    with pytest.raises(
        DataError, match="^expected at least 10 examples to train on, to tell numbers of them$"
    ):
        description.describe(SCHEMA, examples(MIN_COUNT - 1))
    with pytest.raises(DataError, match="at least 30"):
        description.describe(SCHEMA, examples(29), min_count=30)
    with pytest.raises(DataError, match="at least 1 "):
        description.describe(SCHEMA, examples(0), min_count=1)


def test_an_image_is_one_example_whose_pixels_are_values():
    told = description.describe(IMAGES, np.ones((10, 2, 3, 1)))
    assert (told.num_examples, told.moments.count.tolist()) == (10, [60.0])


@pytest.mark.parametrize("schema", [SCHEMA, IMAGES])
def test_what_a_site_tells_travels_whole_and_is_as_large_as_the_reference_says(schema):
    raw = examples(20) if schema is SCHEMA else np.ones((20, 2, 3, 1))
    told = description.describe(schema, raw).params
    leaves = codec.unpack_tree(
        [[path, {**leaf, "data": bytes(leaf["data"])}] for path, leaf in codec.pack_tree(told)],
        description.reference(schema),
    )
    again = description.from_params(schema, leaves)
    assert again.num_examples == 20
    for field in dataclasses.fields(Moments):
        np.testing.assert_array_equal(getattr(again.moments, field.name), told[field.name], strict=True)


# The centre


def test_what_real_hospitals_tell_combines_to_what_their_pooled_patients_give():
    tables = list(hospitals())
    told = [description.describe(HEART_DISEASE, table, min_count=1) for table in tables]
    found = description.combine(HEART_DISEASE, data_of(), told).preprocessing
    everything = HEART_DISEASE.encoded(np.concatenate(tables))
    assert np.isnan(everything).any(axis=0).sum() == 2
    np.testing.assert_allclose(found.shift, np.nanmean(everything, axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.scale, np.nanstd(everything, axis=0), rtol=1e-12)
    assert found.fill == found.shift


def test_a_hospital_that_has_not_one_value_of_an_input_tells_nothing_of_it():
    told = [description.describe(HEART_DISEASE, table) for table in hospitals()]
    chol = HEART_DISEASE.inputs.index("chol")
    assert [int(part.moments.count[chol]) for part in told].count(0) == 1  # Switzerland measured none


def test_without_standardization_values_stay_and_what_is_missing_becomes_the_mean_of_all():
    told = [description.describe(SCHEMA, examples(20)), description.describe(SCHEMA, examples(10))]
    found = description.combine(SCHEMA, data_of("none"), told)
    assert found.preprocessing.shift == (0.0,) * 3
    assert found.preprocessing.scale == (1.0,) * 3
    assert found.preprocessing.fill == pytest.approx(((20 * 9.5 + 10 * 4.5) / 30, 0.5, 0.5))


def test_where_each_site_has_its_own_preprocessing_all_have_none():
    assert description.combine(SCHEMA, data_of("local"), []) == SCHEMA


def test_inputs_that_no_site_has_are_named():
    told = [description.describe(SCHEMA, examples(20, missing_ages=missing)) for missing in (11, 20)]
    with pytest.raises(DataError, match="^no site has values of age$"):
        description.combine(SCHEMA, data_of(), told)
    genes = Schema(features=tuple(f"g{number}" for number in range(50)), target="y", target_kind="regression")
    told = [description.describe(genes, np.full((10, 50), NAN))]
    with pytest.raises(DataError, match="^no site has values of g0, .*, g19$"):
        description.combine(genes, data_of("none"), told)


# Hostile sites

LARGEST = description.MAX_NUMBER
WRONG = {
    "no number of examples": {"num_examples": np.array([NAN])},
    "endless examples": {"num_examples": np.array([np.inf])},
    "no examples": {"num_examples": np.array([0.0])},
    "fewer than none": {"num_examples": np.array([-5.0])},
    "half an example": {"num_examples": np.array([20.5])},
    "more examples than a float counts": {"num_examples": np.array([2.0**53])},
    "a count that is none": {"count": np.array([NAN, 20.0, 20.0])},
    "an endless count": {"count": np.array([20.0, np.inf, 20.0])},
    "a negative count": {"count": np.array([20.0, 20.0, -1.0])},
    "half a value": {"count": np.array([19.5, 20.0, 20.0])},
    "more values than examples": {"count": np.array([20.0, 21.0, 20.0])},
    "a mean that is none": {"mean": np.array([0.0, NAN, 0.0])},
    "an endless mean": {"mean": np.array([0.0, -np.inf, 0.0])},
    "a huge mean": {"mean": np.array([0.0, -1.1 * LARGEST, 0.0])},
    "squares that are none": {"squares": np.array([NAN, 0.0, 0.0])},
    "huge squares": {"squares": np.array([0.0, 0.0, 1.1 * LARGEST])},
    "negative squares": {"squares": np.array([0.0, -1e-300, 0.0])},
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_numbers_that_no_examples_have_are_refused(wrong):
    description.from_params(SCHEMA, told_of())
    with pytest.raises(DataError, match="^expected "):
        description.from_params(SCHEMA, told_of(**wrong))


def test_an_image_has_no_more_values_than_pixels():
    told = description.describe(IMAGES, np.ones((10, 2, 3, 1)))
    description.from_params(IMAGES, told.params)
    with pytest.raises(DataError, match="expected counts of values, no more than there are examples"):
        description.from_params(IMAGES, told.params | {"count": np.array([61.0])})


EXTREME = st.sampled_from([0.0, 1.0, -1.0, 1e-300, 5e-324, 1e-160, 1e16, -LARGEST, LARGEST]) | st.floats(
    -LARGEST, LARGEST
)
THREE = st.tuples(EXTREME, EXTREME, EXTREME).map(np.array)


@st.composite
def lies(draw):
    """What passes for a description, whatever its numbers."""
    num_examples = draw(st.sampled_from([1.0, 17.0, 2.0**53 - 1]))
    count = draw(st.lists(st.integers(0, int(num_examples)), min_size=3, max_size=3))
    return {
        "num_examples": np.array([num_examples]),
        "count": np.array(count, np.float64),
        "mean": draw(THREE),
        "squares": np.abs(draw(THREE)),
    }


@given(told=st.lists(lies(), min_size=1, max_size=5), standardize=st.sampled_from(["pooled", "none"]))
@settings(max_examples=300, deadline=None)
def test_whatever_passes_for_descriptions_combines_to_numbers_and_honest_examples_stay_numbers(
    told, standardize
):
    honest = description.describe(SCHEMA, examples(20))
    known = [honest, *(description.from_params(SCHEMA, one) for one in told)]
    schema = description.combine(SCHEMA, data_of(standardize), known)
    with np.errstate(over="ignore"):  # an unscaled mean of 1e100 is no float32
        prepared = schema.prepared(examples(20, missing_ages=3))
    assert not np.isnan(prepared).any()
    if standardize == "pooled":
        assert np.isfinite(prepared).all()


def test_ten_thousand_sites_that_tell_the_largest_numbers_do_not_overflow():
    count = np.full(3, 2.0**53 - 1)
    one = Moments(count=count, mean=np.full(3, LARGEST), squares=np.full(3, LARGEST))
    other = dataclasses.replace(one, mean=-one.mean)
    told = [Description(num_examples=2**53 - 1, moments=part) for part in (one, other)] * 5000
    found = description.combine(SCHEMA, data_of(), told).preprocessing
    assert found.scale == pytest.approx((LARGEST,) * 3)
