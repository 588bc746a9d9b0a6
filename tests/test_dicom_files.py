"""Folders of DICOM files, made of real X-rays of the chest (MedMNIST v2's PneumoniaMNIST, CC BY 4.0)."""

import numpy as np
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from tests.test_images import DATA, layout
from workers import sources
from workers.errors import DataError
from workers.mistakes import Mistakes
from workers.source_settings import DicomSource


@pytest.fixture(scope="module")
def chests():
    """The first X-rays, uint8 `(4, 28, 28)`."""
    with np.load(DATA / "medmnist" / "pneumoniamnist.npz") as arrays:
        return arrays["train_images"][:4]


def write(path, stored, colours="MONOCHROME2", bits=12, **elements):
    """A DICOM file of these stored values."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    made = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    made.SOPClassUID, made.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    made.Modality, made.PatientName = "DX", "Nobody^Known"
    made.PhotometricInterpretation = colours
    made.SamplesPerPixel = 3 if colours == "RGB" else 1
    if colours == "RGB":
        made.PlanarConfiguration = 0
    made.Rows, made.Columns = stored.shape[-3:-1] if colours == "RGB" else stored.shape[-2:]
    made.BitsAllocated = 8 * stored.dtype.itemsize
    made.BitsStored, made.HighBit = bits, bits - 1
    made.PixelRepresentation = int(stored.dtype.kind == "i")
    made.PixelData = stored.tobytes()
    for name, value in elements.items():
        setattr(made, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save_as(path, enforce_file_format=True)


def source(folder, **options):
    return DicomSource(name="chests", path=folder / "dicom", labels=folder / "labels.csv", **options)


def labelled(folder, *names):
    lines = ["file,finding", *(f"{name},benign" for name in names)]
    (folder / "labels.csv").write_text("\n".join(lines))


def one(tmp_path, stored, asked=None, *, colours="MONOCHROME2", bits=12, window=None, **elements):
    """What the study sees of one image."""
    write(tmp_path / "dicom" / "IM0001", stored, colours, bits, **elements)
    labelled(tmp_path, "IM0001")
    chosen = {} if window is None else {"window_centre": window[0], "window_width": window[1]}
    return sources.read(source(tmp_path, **chosen), asked or layout()).features[0]


def test_stored_values_become_numbers_by_slope_and_intercept_and_grey_by_the_window(tmp_path, chests):
    for number, image in enumerate(chests):
        stored = image.astype(np.uint16) * 16
        rescaling = {"RescaleSlope": 0.5, "RescaleIntercept": -100}
        window = {"WindowCenter": 920.5, "WindowWidth": 2041}  # from -100 + 0.5 to 1940.5
        write(tmp_path / "dicom" / "series" / f"IM{number}.dcm", stored, **rescaling, **window)
    labelled(tmp_path, *(f"series/IM{number}.dcm" for number in range(4)))
    found = sources.read(source(tmp_path), layout())
    assert (found.features.shape, found.features.dtype) == ((4, 28, 28, 1), np.float32)
    numbers = chests.astype(int) * 8 - 100
    expected = np.clip((numbers - 920) / 2040 + 0.5, 0, 1)  # DICOM PS3.3, C.11.2.1.2.1
    np.testing.assert_allclose(found.features[..., 0], expected, atol=1e-6)
    assert found.features.max() == pytest.approx(int(chests.max()) * 8 / 2040, abs=1e-3)


def test_the_site_may_choose_another_window(tmp_path, chests):
    found = one(tmp_path, chests[0].astype(np.uint16), window=(128, 101), WindowCenter=1, WindowWidth=2)
    expected = np.clip((chests[0] - 127.5) / 100 + 0.5, 0, 1)
    np.testing.assert_allclose(found[..., 0], expected, atol=1e-6)


def test_of_several_windows_the_first_is_taken(tmp_path, chests):
    found = one(tmp_path, chests[0].astype(np.uint16), WindowCenter=[128, 1], WindowWidth=[101, 2])
    np.testing.assert_allclose(found[..., 0], np.clip((chests[0] - 127.5) / 100 + 0.5, 0, 1), atol=1e-6)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("LINEAR_EXACT", lambda x: np.clip((x - 128) / 100 + 0.5, 0, 1)),
        ("SIGMOID", lambda x: 1 / (1 + np.exp(-4 * (x - 128) / 100))),
    ],
)
def test_the_other_functions_of_a_window_are_as_the_standard_says(tmp_path, chests, function, expected):
    window = {"WindowCenter": 128, "WindowWidth": 100, "VOILUTFunction": function}
    found = one(tmp_path, chests[0].astype(np.uint16), **window)
    np.testing.assert_allclose(found[..., 0], expected(chests[0].astype(float)), atol=1e-6)


def test_without_a_window_the_smallest_number_is_black_and_the_largest_white(tmp_path, chests):
    stored = chests[0].astype(np.int16) - 50
    found = one(tmp_path, stored, bits=16)[..., 0]
    low, high = stored.min(), stored.max()
    np.testing.assert_allclose(found, (stored - low) / (high - low), atol=1e-6)
    small = one(tmp_path, stored, bits=16, RescaleSlope=1e-4, RescaleIntercept=0)[..., 0]
    np.testing.assert_allclose(small, found, atol=1e-6)
    assert not one(tmp_path, np.full((28, 28), 7, np.uint16)).any()


def test_of_monochrome_1_the_smallest_number_is_white(tmp_path, chests):
    stored = chests[0].astype(np.uint16)
    window = {"WindowCenter": 128, "WindowWidth": 101}
    usual = one(tmp_path, stored, **window)
    np.testing.assert_allclose(one(tmp_path, stored, colours="MONOCHROME1", **window), 1 - usual, atol=1e-6)


def test_images_are_brought_to_the_size_of_the_study(tmp_path, chests):
    found = one(tmp_path, chests[0].repeat(4, 0).repeat(8, 1).astype(np.uint16), layout())
    scaled = (chests[0] - chests[0].min()) / float(np.ptp(chests[0]))
    assert found[..., 0] == pytest.approx(scaled, abs=0.2)
    assert found.mean() == pytest.approx(scaled.mean(), abs=0.01)


def test_an_image_in_colour_is_read_too(tmp_path):
    stored = np.zeros((28, 28, 3), np.uint8)
    stored[...] = (255, 0, 51)
    found = one(tmp_path, stored, layout(channels=3), colours="RGB", bits=8)
    assert found[4, 7] == pytest.approx((1, 0, 0.2))


def mistakes_in(source):
    found = Mistakes(source.name, source.path)
    with pytest.raises(DataError) as raised:
        sources.read(source, layout(), mistakes=found)
    return [str(mistake) for mistake in found.first], str(raised.value)


def test_an_image_of_several_frames_is_refused_with_what_to_do(tmp_path, chests):
    write(tmp_path / "dicom" / "IM0001", chests.astype(np.uint16), NumberOfFrames=4)
    labelled(tmp_path, "IM0001")
    (shown,), told = mistakes_in(source(tmp_path))
    assert shown.endswith("IM0001: expected one image in a file, found 4 frames; write each into a file")
    assert "IM0001" not in told


def test_files_that_are_no_image_are_named_and_all_at_once(tmp_path, chests):
    write(tmp_path / "dicom" / "a", chests[0].astype(np.uint16))
    (tmp_path / "dicom" / "b").write_bytes(b"no DICOM")
    cut = (tmp_path / "dicom" / "a").read_bytes()
    (tmp_path / "dicom" / "c").write_bytes(cut[:-100])
    write(tmp_path / "dicom" / "d", chests[0].astype(np.uint16), colours="PALETTE COLOR")
    (tmp_path / "dicom" / "DICOMDIR").write_bytes(b"")
    (tmp_path / "dicom" / ".hidden").write_bytes(b"")
    labelled(tmp_path, "a", "b", "c", "d")
    shown, _ = mistakes_in(source(tmp_path))
    places = [line.removeprefix(f"{tmp_path}/dicom/").partition(", found")[0] for line in shown]
    assert places == [
        "b: expected a DICOM file",
        "c: expected an image that can be decoded",
        "d: expected grey, or red, green and blue",
    ]


def test_files_without_a_label_are_found_but_not_the_table_itself(tmp_path, chests):
    write(tmp_path / "dicom" / "a", chests[0].astype(np.uint16))
    write(tmp_path / "dicom" / "b", chests[0].astype(np.uint16))
    (tmp_path / "dicom" / "labels.csv").write_text("file,finding\na,benign\n")
    inside = DicomSource(name="chests", path=tmp_path / "dicom", labels=tmp_path / "dicom" / "labels.csv")
    (shown,), _ = mistakes_in(inside)
    assert shown.endswith("expected a row of the table of labels for each file, found none of 'b'")


def test_what_is_there_is_told_with_sizes_and_how_they_were_made(tmp_path, chests):
    for name in ("a", "b"):
        write(tmp_path / "dicom" / name, chests[0].astype(np.uint16))
    labelled(tmp_path, "a", "b")
    found = sources.inventory(source(tmp_path), Mistakes("chests", tmp_path))
    assert found.notes == ("images: 2 of 28 x 28 DX MONOCHROME2",)
    assert "Nobody" not in str(found)
