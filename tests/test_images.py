"""Folders of images, of real ones: ultrasound of breasts (MedMNIST v2's BreastMNIST, CC BY 4.0)."""

import numpy as np
import pytest
from PIL import Image
from pydantic import TypeAdapter

from tests.conftest import REPOSITORY
from workers import sources
from workers.data_settings import Layout
from workers.errors import DataError
from workers.mistakes import Mistakes
from workers.source_settings import ImagesSource

DATA = REPOSITORY.parent / "shared" / "data"


def layout(height=28, width=28, channels=1, **changes):
    written = {
        "image": {"height": height, "width": width, "channels": channels},
        "target": {
            "kind": "binary",
            "column": "finding",
            "classes": {"malignant": ["malignant"], "benign": ["benign"]},
        },
        **changes,
    }
    return TypeAdapter(Layout).validate_python(written)


@pytest.fixture(scope="module")
def breasts():
    """The first images, uint8 `(12, 28, 28)`, and their classes."""
    with np.load(DATA / "medmnist" / "breastmnist.npz") as arrays:
        return arrays["train_images"][:12], arrays["train_labels"][:12, 0]


@pytest.fixture
def folder(tmp_path, breasts):
    """PNG files in two folders, and a table of labels that is in another order."""
    lines = ["file;finding"]
    for number, (pixels, label) in enumerate(zip(*breasts, strict=True)):
        name = f"{'left' if number % 2 else 'right'}/{number:02}.png"
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "images" / name)
        lines.insert(1, f"{name};{'benign' if label else 'malignant'}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    return tmp_path


def source(folder, **options):
    chosen = {"separator": ";", **options}
    return ImagesSource(name="breasts", path=folder / "images", labels=folder / "labels.csv", **chosen)


def mistakes_in(source, asked=None):
    found = Mistakes(source.name, source.path)
    with pytest.raises(DataError) as raised:
        sources.read(source, asked or layout(), mistakes=found)
    return [str(mistake) for mistake in found.first], str(raised.value)


def test_images_are_read_from_black_0_to_white_1_in_the_order_of_their_table(folder, breasts):
    images, labels = breasts
    found = sources.read(source(folder), layout())
    assert (found.features.shape, found.features.dtype) == ((12, 28, 28, 1), np.float32)
    np.testing.assert_array_equal(found.features[..., 0], images[::-1] / np.float32(255))
    np.testing.assert_array_equal(found.targets, labels[::-1])
    assert (found.feature_names, found.classes) == (("grey",), ("malignant", "benign"))
    assert sources.size(source(folder)) == (12, 2)


def test_examples_that_the_study_drops_are_not_even_opened(folder, breasts):
    (folder / "images" / "right" / "00.png").write_bytes(b"no image")
    labels = (folder / "labels.csv").read_text().replace("right/00.png;malignant", "right/00.png;?")
    labels = labels.replace("right/00.png;benign", "right/00.png;?")
    (folder / "labels.csv").write_text(labels)
    target = {"kind": "binary", "column": "finding", "classes": {"m": ["malignant"], "b": ["benign"]}}
    found = sources.read(source(folder), layout(target={**target, "others": "drop"}))
    np.testing.assert_array_equal(found.features[..., 0], breasts[0][:0:-1] / np.float32(255))


def test_images_are_brought_to_the_size_and_channels_of_the_study(folder, breasts):
    found = sources.read(source(folder), layout(height=14, width=56, channels=3))
    assert found.features.shape == (12, 14, 56, 3)
    assert found.feature_names == ("red", "green", "blue")
    assert (found.features == found.features[..., :1]).all()
    means = breasts[0][::-1].mean(axis=(1, 2)) / 255
    assert found.features.mean(axis=(1, 2, 3)) == pytest.approx(means, abs=0.02)


@pytest.mark.parametrize(
    ("mode", "value", "channels", "expected"),
    [
        ("RGB", (255, 0, 51), 3, (1, 0, 0.2)),
        ("RGBA", (255, 0, 51, 7), 3, (1, 0, 0.2)),
        ("RGB", (255, 0, 0), 1, (0.299,)),
        ("P", 0, 1, (0,)),
        ("1", 1, 1, (1,)),
        ("LA", (51, 9), 1, (0.2,)),
        ("I;16", 13107, 1, (0.2,)),
        ("I;16", 65535, 3, (1, 1, 1)),
    ],
)
def test_every_mode_of_a_png_file_becomes_numbers_from_0_to_1(tmp_path, mode, value, channels, expected):
    (tmp_path / "images").mkdir()
    Image.new(mode, (28, 28), value).save(tmp_path / "images" / "a.png")
    (tmp_path / "labels.csv").write_text("file;finding\na.png;benign\n")
    found = sources.read(source(tmp_path), layout(channels=channels))
    assert found.features[0, 3, 5] == pytest.approx(expected, abs=1e-6)


def test_a_photograph_is_turned_as_the_camera_says(tmp_path):
    (tmp_path / "images").mkdir()
    pixels = np.zeros((28, 28), np.uint8)
    pixels[:14] = 255  # the upper half is white
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(pixels).save(tmp_path / "images" / "a.jpeg", exif=exif, quality=95)
    (tmp_path / "labels.csv").write_text("file;finding\na.jpeg;benign\n")
    found = sources.read(source(tmp_path), layout()).features[0, ..., 0]
    assert found[:13].max() < 0.1 and found[15:].min() > 0.9


def test_a_label_without_a_file_and_a_file_without_a_label_are_mistakes(folder):
    (folder / "images" / "left" / "extra.PNG").write_bytes(b"")
    (folder / "images" / "left" / ".hidden.png").write_bytes(b"")
    (folder / "images" / "left" / "notes.txt").write_bytes(b"")
    with (folder / "labels.csv").open("a") as labels:
        labels.write("\nleft/gone.png;benign\nleft/01.png;benign\n../labels.csv;benign")
    shown, told = mistakes_in(source(folder))
    images, table = folder / "images", folder / "labels.csv"
    assert shown == [
        f"{images}, row 13, column file: expected the name of a file in the folder, found 'left/gone.png'",
        f"{images}, row 14, column file: expected a row for each file, found 'left/01.png' in row 11, too",
        f"{images}, row 15, column file: expected the name of a file in the folder, found '../labels.csv'",
        f"{table}: expected a row of the table of labels for each file, found none of 'left/extra.PNG'",
    ]
    assert not [word for word in ("gone", "extra", str(folder)) if word in told]


def test_a_file_that_is_no_image_is_named(folder):
    (folder / "images" / "left" / "01.png").write_bytes(b"no image")
    whole = (folder / "images" / "left" / "03.png").read_bytes()
    (folder / "images" / "left" / "03.png").write_bytes(whole[: len(whole) // 2])
    shown, told = mistakes_in(source(folder))
    assert [line.partition(": expected")[0] for line in shown] == [
        str(folder / "images" / "left" / name) for name in ("03.png", "01.png")
    ]
    assert "a PNG or JPEG file" in told and "01.png" not in told


def test_a_label_that_is_none_of_the_classes_is_told_by_its_row(folder):
    labels = (folder / "labels.csv").read_text().splitlines()
    labels[3] = labels[3].partition(";")[0] + ";unsure"
    (folder / "labels.csv").write_text("\n".join(labels))
    shown, _ = mistakes_in(source(folder))
    assert len(shown) == 1 and shown[0].endswith("expected one of 'malignant', 'benign', found 'unsure'")
    assert "row 3, column finding" in shown[0]


def test_a_study_of_a_table_is_no_study_of_images(folder):
    asked = layout(image=None, features=["x"])
    (shown,), _ = mistakes_in(source(folder), asked)
    assert shown.endswith("expected a table, for which the study asks, found images (images)")


def test_what_is_there_is_told_with_the_images_sizes(folder):
    Image.new("RGB", (30, 20)).save(folder / "images" / "left" / "01.png")
    found = sources.inventory(source(folder), Mistakes("breasts", folder))
    assert found.num_examples == 12
    assert [facts.name for facts in found.columns] == ["file", "finding"]
    assert found.notes == ("images: 11 of 28 x 28 L, 1 of 30 x 20 RGB",)
