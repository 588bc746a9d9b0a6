"""What `[data]` of an experiment file may say, and what of it is refused and how."""

import pytest
from pydantic import TypeAdapter, ValidationError

from workers.data_settings import GIVEN, GROUPED, TARGET_KINDS, Data, Layout

CLASSES = {"alive": ["1"], "dead or dependent": ["2", "3"]}
BINARY = {"kind": "binary", "column": "OCCODE", "classes": CLASSES}
NUMBER = {"kind": "regression", "column": "days"}
SURVIVAL = {"kind": "survival", "time": "T", "event": "E"}
LAYOUT = {"features": ["AGE", "SEX"], "categories": {"SEX": ["F", "M"]}, "target": BINARY}
IMAGES = {"image": {"height": 28, "width": 28}, "target": BINARY}
FILE = {"file": "stroke.csv", "site_column": "HOSPNUM", "layout": LAYOUT}


def data(**written):
    return TypeAdapter(Data).validate_python(written)


def layout(**changes):
    return TypeAdapter(Layout).validate_python(LAYOUT | changes)


def refusal(make, **written):
    with pytest.raises(ValidationError) as raised:
        make(**written)
    return str(raised.value)


# Where the examples are


def test_a_data_set_of_fedeltas_is_known_by_its_name_alone():
    for name, kind in TARGET_KINDS.items():
        found = data(dataset=name)
        assert (found.target_kind, found.is_at_sites, found.needs_description) == (kind, False, False)
    assert set(TARGET_KINDS) >= GROUPED | GIVEN


def test_a_layout_says_that_each_site_has_its_examples_at_home():
    found = data(dataset="stroke", layout=LAYOUT)
    assert (found.is_at_sites, found.needs_description, found.target_kind) == (True, True, "binary")


@pytest.mark.parametrize(("standardize", "expected"), [("pooled", True), ("none", True), ("local", False)])
def test_sites_need_not_describe_examples_that_each_standardizes_for_itself(standardize, expected):
    found = data(dataset="stroke", layout=LAYOUT, standardize=standardize)
    assert found.needs_description is expected
    assert found.is_at_sites


def test_a_file_with_a_column_of_sites_is_a_trials():
    found = data(**FILE)
    assert (found.is_at_sites, found.needs_description, found.target_kind) == (False, False, "binary")


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({}, "dataset: is missing; or say which file has the examples of all sites"),
        (FILE | {"dataset": "stroke"}, "file: expected either dataset or file, and not both"),
        (FILE | {"site_column": None}, "site_column: says which site has which row of file"),
        ({"dataset": "iris", "site_column": "x"}, "site_column: says which site has which row of file"),
        ({"dataset": "iris", "layout": LAYOUT}, "layout: iris is fedelta's own, and has one"),
        ({"dataset": "irises"}, "dataset: expected one of 'breast-cancer', "),
        (FILE | {"layout": None}, "layout: is missing; it says which columns of the file are what"),
        (
            {"dataset": "stroke", "layout": LAYOUT, "partition": {"kind": "iid"}},
            "partition: is of fedelta's own data sets; here each site has its own examples",
        ),
        (FILE | {"partition": {"kind": "natural"}}, "partition: is of fedelta's own data sets"),
        ({"dataset": "iris", "holdout": "given"}, "holdout: given is for breastmnist, heart-disease, khan"),
        (FILE | {"holdout": "given"}, "holdout: given is for "),
        ({"dataset": "Not A Name", "layout": LAYOUT}, "pattern"),
    ],
)
def test_data_that_nobody_can_find_is_refused(written, message):
    text = refusal(data, **written)
    assert message in text


@pytest.mark.parametrize(
    "wrong",
    [
        {"holdout": 0.0},
        {"holdout": 1.0},
        {"holdout": True},
        {"holdout": "taken"},
        {"quorum": 0.0},
        {"quorum": 1.1},
        {"quorum": "0.5"},
        {"standardize": "pool"},
        {"min_examples": 0},
        {"partition": {"kind": "random"}},
        {"partition": {"kind": "dirichlet", "alpha": 0.0}},
        {"partition": {"kind": "dirichlet", "min_examples": 0}},
        {"strange": 1},
    ],
)
def test_settings_that_mean_nothing_are_refused(wrong):
    refusal(data, dataset="iris", **wrong)


def test_the_defaults_are_a_quarter_held_out_pooled_and_half_of_the_sites():
    found = data(dataset="iris")
    assert (found.holdout, found.standardize, found.quorum) == (0.25, "pooled", 0.5)
    assert (found.partition, found.min_examples) == (None, 2)


@pytest.mark.parametrize("name", sorted(GIVEN))
def test_a_data_set_with_a_test_set_may_hold_that_out(name):
    assert data(dataset=name, holdout="given").holdout == "given"


@pytest.mark.parametrize(
    ("quorum", "num_sites", "expected"),
    [(0.5, 8, 4), (0.5, 9, 5), (0.28, 25, 7), (0.29, 25, 8), (1.0, 3, 3), (0.01, 3, 1), (0.07, 100, 7)],
)
def test_a_quorum_is_a_share_of_the_sites_whatever_a_float_says(quorum, num_sites, expected):
    assert data(dataset="iris", quorum=quorum).needed(num_sites) == expected


# What the examples have


def test_a_layouts_classes_are_those_of_its_target():
    assert layout().classes == ("alive", "dead or dependent")
    assert layout(target=NUMBER).classes == layout(target=SURVIVAL).classes == ()


@pytest.mark.parametrize(
    ("target", "name", "columns"),
    [(BINARY, "OCCODE", ("OCCODE",)), (NUMBER, "days", ("days",)), (SURVIVAL, "E", ("T", "E"))],
)
def test_a_target_names_its_columns(target, name, columns):
    found = layout(target=target).target
    assert (found.name, found.columns, found.kind) == (name, columns, target["kind"])


def test_images_need_no_features():
    found = TypeAdapter(Layout).validate_python(IMAGES)
    assert (found.image.height, found.image.width, found.image.channels) == (28, 28, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": []}, "expected either features (of a table) or image, and not both"),
        ({"image": IMAGES["image"]}, "expected either features (of a table) or image, and not both"),
        ({"features": ["AGE", "SEX", "AGE"]}, "features: expected each name once, got AGE again"),
        ({"categories": {"RSEX": ["F", "M"]}}, "categories: RSEX is not one of features"),
        ({"features": ["AGE", "SEX", "OCCODE"]}, "features: OCCODE is the target"),
        ({"features": ["SEX", "T", "E"], "target": SURVIVAL}, "features: E, T is the target"),
        ({"categories": {"SEX": []}}, "at least 1"),
        ({"features": ["AGE", "SEX", ""]}, "at least 1"),
        ({"features": ["SEX", "A" * 201]}, "at most 200"),
        ({"drop_first": 1}, "valid boolean"),
        ({"missing": "ignore"}, "'impute' or 'drop'"),
        ({"target": {"kind": "ordinal", "column": "x"}}, "'binary', 'multiclass', 'regression', 'survival'"),
        ({"target": NUMBER | {"classes": CLASSES}}, "Unexpected keyword argument"),
    ],
)
def test_a_layout_that_contradicts_itself_is_refused(changes, message):
    assert message in refusal(layout, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": {"a": ["1"]}}, "at least 2"),
        (
            {"classes": {"a": ["1"], "b": ["2"], "c": ["3"]}},
            "classes: expected two of a binary target, got 3",
        ),
        ({"classes": {"a": ["1", "2"], "b": ["2"]}}, "classes: expected each value once, got 2 again"),
        ({"classes": {"a": ["1", "1"], "b": ["2"]}}, "classes: expected each value once, got 1 again"),
        ({"classes": {"a": [], "b": ["2"]}}, "at least 1"),
        ({"others": "keep"}, "'refuse' or 'drop'"),
    ],
)
def test_classes_that_cannot_be_told_apart_are_refused(changes, message):
    assert message in refusal(layout, target=BINARY | changes)


def test_several_classes_may_be_more_than_two():
    classes = {"a": ["1"], "b": ["2", "3"], "c": ["4"]}
    found = layout(target=BINARY | {"kind": "multiclass", "classes": classes, "others": "drop"})
    assert (found.classes, found.target.others) == (("a", "b", "c"), "drop")
    assert data(dataset="stroke", layout=found).target_kind == "multiclass"


@pytest.mark.parametrize("size", [{"height": 0}, {"width": -1}, {"channels": 2}, {"height": 1.5}])
def test_an_image_of_no_size_is_refused(size):
    refusal(layout, features=[], categories={}, image=IMAGES["image"] | size)
