"""NumPy's own files, of real images and of a table that scikit-learn ships."""

import numpy as np
import pytest
import sklearn.datasets
from pydantic import TypeAdapter

from tests.test_images import DATA
from tests.test_images import layout as image_layout
from workers import sources
from workers.data_settings import Layout
from workers.errors import DataError
from workers.mistakes import Mistakes
from workers.source_settings import NpzSource

NAMES = tuple(sklearn.datasets.load_iris().feature_names)


def layout(**changes):
    written = {
        "features": [NAMES[2], NAMES[0]],
        "target": {
            "kind": "multiclass",
            "column": "species",
            "classes": {"setosa": ["0"], "versicolor": ["1"], "virginica": ["2"]},
        },
        **changes,
    }
    return TypeAdapter(Layout).validate_python(written)


@pytest.fixture
def iris(tmp_path):
    bunch = sklearn.datasets.load_iris()
    return tmp_path / "iris.npz", bunch.data, bunch.target


def source(path, **options):
    return NpzSource(name="iris", path=path, **options)


def mistakes_in(source, asked=None):
    found = Mistakes(source.name, source.path)
    with pytest.raises(DataError) as raised:
        sources.read(source, asked or layout(), mistakes=found)
    return [str(mistake) for mistake in found.first], str(raised.value)


def test_features_are_chosen_by_the_names_in_the_file_or_in_the_site_s_own_order(iris):
    path, features, targets = iris
    np.savez(path, features=features, targets=targets, columns=NAMES)
    found = sources.read(source(path), layout())
    np.testing.assert_array_equal(found.features, features[:, [2, 0]])
    np.testing.assert_array_equal(found.targets, targets)
    np.savez_compressed(path, X=features, y=targets[:, None])
    found = sources.read(source(path, features="X", targets="y", order=NAMES), layout())
    np.testing.assert_array_equal(found.features, features[:, [2, 0]])
    np.testing.assert_array_equal(found.targets, targets)
    assert sources.size(source(path, features="X", targets="y", order=NAMES)) == (150, 5)


def test_categories_missing_values_and_survival_are_as_in_any_table(iris):
    path = iris[0]
    features = np.array([[1, np.nan], [2, 7.5], [np.nan, -9]])
    np.savez(path, features=features, targets=[[3.5, 1], [2, 0], [1, 1]], columns=["grade", "size"])
    asked = layout(
        features=["size", "grade"],
        categories={"grade": ["2", "1"]},
        target={"kind": "survival", "time": "months", "event": "died"},
    )
    found = sources.read(source(path, missing=("-9",)), asked)
    np.testing.assert_array_equal(found.features, [[np.nan, 1], [7.5, 0], [np.nan, np.nan]])
    np.testing.assert_array_equal(found.targets, [[3.5, 1], [2, 0], [1, 1]])


def test_texts_are_read_too(iris):
    path = iris[0]
    np.savez(path, features=[["1.5", "f"], ["?", "m"]], targets=[b"yes", b"no"], columns=["x", "sex"])
    asked = layout(
        features=["x", "sex"],
        categories={"sex": ["f", "m"]},
        target={"kind": "binary", "column": "y", "classes": {"no": ["no"], "yes": ["yes"]}},
    )
    found = sources.read(source(path), asked)
    np.testing.assert_array_equal(found.features, [[1.5, 0], [np.nan, 1]])
    np.testing.assert_array_equal(found.targets, [1, 0])


def test_images_in_the_files_of_medmnist_are_read_as_they_are():
    path = DATA / "medmnist" / "breastmnist.npz"
    target = {"kind": "binary", "column": "y", "classes": {"malignant": ["0"], "benign": ["1"]}}
    chosen = source(path, features="val_images", targets="val_labels")
    found = sources.read(chosen, image_layout(target=target))
    with np.load(path) as arrays:
        images, labels = arrays["val_images"], arrays["val_labels"]
    np.testing.assert_array_equal(found.features[..., 0], images / np.float32(255))
    np.testing.assert_array_equal(found.targets, labels[:, 0])
    small = sources.read(chosen, image_layout(height=14, width=14, channels=3, target=target))
    assert small.features.shape == (78, 14, 14, 3)
    assert sources.size(chosen) == (78, 1)
    told = sources.inventory(chosen, Mistakes("iris", path))
    assert told.notes == ("val_images: uint8 (78, 28, 28)",)
    assert [facts.name for facts in told.columns] == ["val_labels"]


@pytest.mark.parametrize(("shape", "channels"), [((4, 9, 9, 1), 1), ((4, 9, 9, 3), 3)])
def test_images_may_have_channels(iris, shape, channels):
    path = iris[0]
    images = np.random.default_rng(0).random(shape)
    np.savez(path, features=images, targets=[0, 1, 0, 1])
    target = {"kind": "binary", "column": "y", "classes": {"a": ["0"], "b": ["1"]}}
    asked = image_layout(height=9, width=9, channels=channels, target=target)
    np.testing.assert_array_equal(sources.read(source(path), asked).features, images.astype(np.float32))


@pytest.mark.parametrize(
    ("changes", "mistake"),
    [
        ({"targets": [0, 1]}, "expected as many targets as features, found 2 and 150"),
        ({"targets": np.zeros((150, 2))}, "expected targets of 1 columns, found an array of shape (150, 2)"),
        ({"targets": np.zeros((150, 2, 2))}, "targets of shape (examples, columns), found (150, 2, 2)"),
        ({"columns": NAMES[:3]}, "expected a name for each of 4 features, found 3"),
        ({"features": np.array([{}])}, "an .npz file of numbers and text, found Object arrays cannot be"),
        ({"features": np.array(3.0)}, "expected an array features of numbers or text, found float64 ()"),
        ({"features": np.zeros((150, 4), complex)}, "an array features of numbers or text, found complex"),
        ({"columns": ["a", "b", "c", "d"]}, f"column {NAMES[2]}: expected a column of that name, found 'a'"),
        ({"targets": np.full(150, 5)}, "row 1, column species: expected one of '0', '1', '2', found '5'"),
        ({"features": np.full((150, 4), np.inf)}, f"row 1, column {NAMES[2]}: expected a number, found inf"),
    ],
)  # fmt: skip
def test_arrays_that_are_not_as_they_should_be_are_refused(iris, changes, mistake):
    path, features, targets = iris
    np.savez(path, **{"features": features, "targets": targets, "columns": NAMES, **changes})
    shown, told = mistakes_in(source(path))
    assert mistake in shown[0]
    assert str(path) in shown[0] and str(path) not in told


def test_what_is_no_archive_of_arrays_is_refused(iris):
    path, features, targets = iris
    np.savez(path, targets=targets)
    assert "expected an array features, found targets" in mistakes_in(source(path))[0][0]
    np.savez(path, features=features, targets=targets)
    assert "expected an array columns, found features, targets" in mistakes_in(source(path))[0][0]
    for data in (b"", b"PK\3\4", path.read_bytes()[:500]):
        path.write_bytes(data)
        assert "expected an .npz file of numbers and text" in mistakes_in(source(path))[0][0]
    np.save(path.with_suffix(".npy"), features)
    path.with_suffix(".npy").replace(path)
    assert "found one array without a name" in mistakes_in(source(path))[0][0]


def test_images_of_another_shape_or_with_holes_are_refused(iris):
    path = iris[0]
    target = {"kind": "binary", "column": "y", "classes": {"a": ["0"], "b": ["1"]}}
    for features in (np.zeros((2, 5)), np.zeros((2, 5, 5, 2)), np.full((2, 5, 5), np.nan)):
        np.savez(path, features=features, targets=[0, 1], columns=np.arange(5).astype(str))
        with pytest.raises(DataError, match="expected (features of shape|finite numbers)"):
            sources.read(source(path), image_layout(target=target))
