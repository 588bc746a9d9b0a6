import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from tasks import messages
from tests.conftest import make_spec
from workers.schema import Schema
from workers.spec import Spec
from workers.standardization import Preprocessing

NAN = np.nan
ANGINA = ("typical", "atypical", "none")


def schema_of(**changes):
    given = {
        **{"features": ("age", "angina", "sex"), "target": "disease", "target_kind": "binary"},
        **{"categories": {"angina": ANGINA, "sex": ("f", "m")}, "classes": ("absent", "present")},
    }
    return Schema(**given | changes)


def images_of(**changes):
    return schema_of(features=("red", "green", "blue"), categories={}, size=(2, 4), **changes)


def same(size, fill=0.0, shift=0.0, scale=1.0):
    return Preprocessing(fill=(fill,) * size, shift=(shift,) * size, scale=(scale,) * size)


RAW = np.array([[50.0, 0.0, 1.0], [60.0, 2.0, 0.0], [NAN, NAN, NAN]])


def test_inputs_are_the_numbers_and_a_column_for_every_category_in_the_features_order():
    schema = schema_of()
    assert schema.inputs == (
        *("age", "angina = typical", "angina = atypical", "angina = none"),
        *("sex = f", "sex = m"),
    )
    assert schema.input_shape == (6,)


def test_a_category_is_1_and_the_others_of_its_feature_0_and_one_that_is_missing_is_missing_in_all():
    np.testing.assert_array_equal(
        schema_of().encoded(RAW),
        [[50, 1, 0, 0, 0, 1], [60, 0, 0, 1, 1, 0], [NAN] * 6],
    )


def test_a_first_category_that_is_dropped_has_no_input_and_is_0_in_the_others():
    schema = schema_of(drop_first=True)
    assert schema.inputs == ("age", "angina = atypical", "angina = none", "sex = m")
    np.testing.assert_array_equal(schema.encoded(RAW), [[50, 0, 0, 1], [60, 0, 1, 0], [NAN] * 4])


def test_examples_without_categories_are_encoded_as_they_are():
    raw = np.array([[1, 2], [3, 4]], np.float32)
    encoded = schema_of(features=("a", "b"), categories={}).encoded(raw)
    np.testing.assert_array_equal(encoded, raw.astype(np.float64), strict=True)


def test_features_that_are_not_as_many_as_the_schemas_are_refused():
    with pytest.raises(ValueError, match="zip"):
        schema_of().encoded(RAW[:, :2])


def test_the_inputs_of_an_image_are_its_channels():
    schema = images_of()
    assert (schema.inputs, schema.input_shape) == (("red", "green", "blue"), (2, 4, 3))
    raw = np.arange(48.0).reshape(2, 2, 4, 3)
    assert schema.encoded(raw).shape == (2, 2, 4, 3)
    fitted = schema.fitted(raw)
    assert fitted.shift == (22.5, 23.5, 24.5)
    prepared = schema.prepared(raw, fitted)
    assert (prepared.shape, prepared.dtype) == ((2, 2, 4, 3), np.float32)
    np.testing.assert_allclose(prepared.mean(axis=(0, 1, 2)), 0.0, atol=1e-6)
    np.testing.assert_allclose(prepared.std(axis=(0, 1, 2)), 1.0, atol=1e-6)


def test_what_is_missing_becomes_the_mean_which_of_a_category_is_its_share():
    schema = schema_of(preprocessing=None)
    raw = np.array([[50.0, 0.0, 1.0], [70.0, 0.0, 0.0], [60.0, 1.0, 0.0], [60.0, 1.0, NAN], [NAN, NAN, 1.0]])
    fitted = schema.fitted(raw)
    assert fitted.fill == (60.0, 0.5, 0.5, 0.0, 0.5, 0.5)
    assert not schema.prepared(raw, fitted)[4, :4].any()  # a mean, scaled, is 0


def test_the_preprocessing_that_all_sites_share_is_used_before_a_sites_own():
    shared = schema_of(features=("x",), categories={}, preprocessing=same(1, shift=1.0, scale=2.0))
    assert shared.prepared(np.array([[5.0]]), same(1, shift=9.0)).tolist() == [[2.0]]
    own = schema_of(features=("x",), categories={})
    assert own.prepared(np.array([[5.0]]), same(1, shift=9.0)).tolist() == [[-4.0]]


@pytest.mark.parametrize(
    ("kind", "classes", "expected"),
    [
        ("multiclass", ("a", "b", "c"), 3),
        ("binary", ("a", "b"), 1),
        ("regression", (), 1),
        ("survival", (), 1),
    ],
)
def test_a_model_has_an_output_for_each_of_several_classes_and_else_one(kind, classes, expected):
    assert schema_of(target_kind=kind, classes=classes).num_outputs == expected


@pytest.mark.parametrize("field", ["fill", "shift", "scale"])
@pytest.mark.parametrize("size", [5, 7])
def test_a_preprocessing_of_another_number_of_inputs_is_refused(field, size):
    right = {"fill": (0.0,) * 6, "shift": (0.0,) * 6, "scale": (1.0,) * 6}
    wrong = Preprocessing(**right | {field: (1.0,) * size})
    with pytest.raises(ValidationError, match="expected numbers for each of 6 inputs"):
        schema_of(preprocessing=wrong)
    with pytest.raises(ValidationError, match="expected numbers for each of 4 inputs"):
        schema_of(drop_first=True, preprocessing=same(6))
    assert schema_of(drop_first=True, preprocessing=same(4)).preprocessing == same(4)


@pytest.mark.parametrize(
    "wrong",
    [
        {"categories": {"sex": ()}},
        {"size": (0, 4)},
        {"size": (2, -1)},
        {"size": (2,)},
        {"target_kind": "odd"},
    ],
)
def test_a_schema_that_is_none_is_refused(wrong):
    with pytest.raises(ValidationError):
        schema_of(**wrong)


NUMBERS = st.floats(-1e30, 1e30) | st.just(NAN)


@st.composite
def tables(draw):
    """Rows of a number that may be missing, and two categories that may."""
    rows = draw(st.lists(st.tuples(NUMBERS, st.sampled_from([0, 1, 2, NAN]), st.sampled_from([0, 1, NAN]))))
    return np.array(rows, np.float64).reshape(-1, 3)


@given(train=tables().filter(len), other=tables(), drop_first=st.booleans())
@settings(max_examples=200, deadline=None)
def test_what_is_prepared_is_always_a_number(train, other, drop_first):
    schema = schema_of(drop_first=drop_first)
    fitted = schema.fitted(train)
    assert np.isfinite(schema.prepared(train, fitted)).all()
    with np.errstate(over="ignore"):  # beyond anything that it has seen
        assert not np.isnan(schema.prepared(other, fitted)).any()


@pytest.mark.parametrize("size", [None, (28, 28)])
def test_a_schema_of_thousands_of_inputs_travels_whole(size):
    schema = Schema(
        features=tuple(f"gene {number}" for number in range(5000)),
        categories={f"gene {number}": ("low", "high") for number in range(0, 5000, 7)},
        size=size,
        target="y",
        target_kind="regression",
    )
    schema = TypeAdapter(Schema).validate_python(
        TypeAdapter(Schema).dump_python(schema)
        | {"preprocessing": same(len(schema.inputs), 0.1, 1 / 3, 1e-9)}
    )
    spec = Spec(experiment=make_spec().experiment, schema=schema)
    assert messages.decode(Spec, messages.encode_spec(spec)) == spec
