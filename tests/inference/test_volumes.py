"""Volumes: whichever way they are stored, the same slices; what is no head is refused."""

import gzip
import tracemalloc
from pathlib import Path

import gdcm
import nibabel as nib
import nilearn
import numpy as np
import pytest
from nibabel.affines import from_matvec
from nibabel.orientations import axcodes2ornt, ornt_transform
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEGLosslessSV1,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
    generate_uid,
)
from scipy.ndimage import affine_transform

from alzmri.data.images import Unreadable
from alzmri.inference import inputs, ventricles, volumes
from alzmri.inference.predictor import Preprocessing

TEMPLATE = Path(nilearn.__file__).parent / (
    "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
)
COMMISSURE_BELOW_TOP = 81
"""Of the template, mm."""


@pytest.fixture(scope="module")
def head():
    """The template at 1 mm, as stored: right, front, top; a bright spot marks the right front."""
    image = nib.as_closest_canonical(nib.load(TEMPLATE))
    voxels = np.asarray(image.dataobj).astype(np.uint8)
    voxels[130:140, 150:160, 60:110] = 255
    return nib.Nifti1Image(voxels, image.affine)


@pytest.fixture(scope="module")
def expected(head, tmp_path_factory):
    path = tmp_path_factory.mktemp("head") / "head.nii"
    nib.save(head, path)
    return ventricles.choose(volumes.read(path), 6)


def test_the_slices_are_those_that_the_embedded_collection_shows(expected):
    """Its heights: 11.5 to 16.5 mm above the anterior commissure."""
    heights = [COMMISSURE_BELOW_TOP - chosen.depth for chosen in expected]
    assert heights == [11, 12, 13, 14, 15, 16]
    for _, pixels in expected:
        assert pixels.shape == (208, 176)
        assert pixels.dtype == np.uint8


def test_the_front_is_down_and_the_right_is_right(expected):
    row, column = np.argwhere(expected[3].pixels == 255).mean(axis=0)
    assert row > 104
    assert column > 88


@pytest.mark.parametrize("stored", ["PIL", "ASR"])
def test_how_a_volume_is_stored_does_not_matter(head, expected, tmp_path, stored):
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(stored))
    nib.save(head.as_reoriented(turn), tmp_path / "turned.nii.gz")
    found = ventricles.choose(volumes.read(tmp_path / "turned.nii.gz"), 6)
    assert [chosen.depth for chosen in found] == [chosen.depth for chosen in expected]
    for first, second in zip(found, expected, strict=True):
        assert np.array_equal(first.pixels, second.pixels)


def _write_series(folder, head, *, skip=(), **tags):
    """``head`` as a series of sagittal slices, numbered in no order; returns the files."""
    folder.mkdir()
    voxels = np.asarray(head.dataobj)
    series, files = generate_uid(), []
    for number in range(len(voxels)):
        if number in skip:
            continue
        item = Dataset()
        item.file_meta = FileMetaDataset()
        item.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        item.file_meta.MediaStorageSOPClassUID = item.SOPClassUID = MRImageStorage
        item.file_meta.MediaStorageSOPInstanceUID = item.SOPInstanceUID = generate_uid()
        item.SeriesInstanceUID, item.Modality = series, "MR"
        # Columns run to the back, rows downward; DICOM's x and y point to the left and the back.
        plane = voxels[number][::-1, ::-1].T
        item.Rows, item.Columns = plane.shape
        item.PixelSpacing = [1.0, 1.0]
        item.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
        corner = head.affine @ [number, voxels.shape[1] - 1, voxels.shape[2] - 1, 1]
        item.ImagePositionPatient = [-corner[0], -corner[1], corner[2]]
        item.SamplesPerPixel, item.PhotometricInterpretation = 1, "MONOCHROME2"
        item.BitsAllocated, item.BitsStored, item.HighBit = 16, 16, 15
        item.PixelRepresentation = 0
        item.PixelData = plane.astype("<u2").tobytes()
        for name, value in tags.items():
            setattr(item, name, value)
        files.append(folder / f"{number * 7 % 1000:04d}")
        item.save_as(files[-1], enforce_file_format=True)
    return files


def test_a_dicom_series_gives_the_slices_of_the_same_nifti(head, expected, tmp_path):
    _write_series(tmp_path / "series", head)
    (tmp_path / "series/DICOMDIR.txt").write_text("not a slice")
    (source,) = inputs.find([str(tmp_path / "series")])
    assert source.kind == "dicom"
    found = inputs.read(source, Preprocessing("pad", 208), count=6, by_folder=False)
    assert [item.depth for item in found] == [chosen.depth for chosen in expected]
    assert {item.subject for item in found} == {str(tmp_path / "series")}
    for item, chosen in zip(found, expected, strict=True):
        assert np.array_equal(item.pixels[:, 16:-16], chosen.pixels)


@pytest.mark.parametrize(
    ("skip", "tags", "reason"),
    [
        ({90}, {}, "not evenly spaced"),
        (set(range(1, 197)), {}, "give the folder"),
        (set(range(3, 197)), {"Modality": "CT"}, "modality CT"),
        (set(range(3, 197)), {"NumberOfFrames": 2}, "several frames"),
        (set(range(3, 197)), {"PixelSpacing": None}, "no PixelSpacing"),
        (set(range(3, 197)), {"PhotometricInterpretation": "RGB"}, "photometric"),
        (set(range(3, 197)), {"PixelData": b"\0\0"}, "cannot be decoded"),
    ],
)
def test_an_unusable_series_is_refused_with_the_reason(head, tmp_path, skip, tags, reason):
    files = _write_series(tmp_path / "series", head, skip=skip, **tags)
    with pytest.raises(Unreadable, match=reason):
        volumes.read_series(files)


def _saved(path, voxels, affine=None):
    nib.save(nib.Nifti1Image(voxels, np.eye(4) if affine is None else affine), path)
    return path


def test_what_is_no_volume_of_a_head_is_refused_with_the_reason(head, tmp_path):
    ball = np.hypot(*(np.mgrid[:90, :90] - 44.5)) < 40
    rng = np.random.default_rng(0)
    nib.save(nib.Nifti1Image(np.ones((9, 9, 9), np.uint8), None), tmp_path / "directionless.nii")
    whole = np.asarray(head.dataobj)
    nib.save(head, tmp_path / "whole.nii.gz")
    content = (tmp_path / "whole.nii.gz").read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(content[: len(content) // 2])
    nib.save(nib.Nifti2Image(np.ones((60, 9, 9), np.uint8), np.eye(4)), tmp_path / "two.nii")
    (tmp_path / "stub.nii").write_bytes((tmp_path / "two.nii").read_bytes()[:400])
    (tmp_path / "text.nii").write_text("not a volume")
    (tmp_path / "text.nii.gz").write_bytes(gzip.compress(b"not a volume" * 100))
    cases = {
        "directionless.nii": "which way is up",
        "cut.nii.gz": "damaged",
        "stub.nii": "cut short",
        "text.nii": "not NIfTI",
        "text.nii.gz": "not NIfTI",
        _saved(tmp_path / "four.nii", np.ones((60, 9, 9, 3), np.uint8)).name: "3 volumes in one",
        _saved(tmp_path / "zero.nii", np.zeros((60, 9, 9), np.uint8)).name: "blank",
        _saved(tmp_path / "nan.nii", np.full((60, 9, 9), np.nan, np.float32)).name: "not numbers",
        _saved(tmp_path / "inf.nii", np.full((60, 9, 9), np.inf, np.float32)).name: "infinite",
        _saved(tmp_path / "phase.nii", np.ones((60, 9, 9), np.complex64)).name: "give their magn",
        _saved(tmp_path / "plane.nii", np.ones((60, 60, 1), np.uint8)).name: "not a volume",
        _saved(
            tmp_path / "small.nii", np.ones((9, 9, 9), np.uint8)
        ).name: "9 x 9 x 9 mm is no head",
        _saved(
            tmp_path / "huge.nii", np.ones((9, 9, 9), np.uint8), np.diag([99, 99, 99, 1])
        ).name: "more than 500 mm",
        _saved(tmp_path / "noise.nii", rng.random((60, 40, 40), np.float32)).name: "no head",
        _saved(
            tmp_path / "tube.nii", np.repeat(ball[:, :, None], 120, 2).astype(np.uint8)
        ).name: "cut off",
        _saved(tmp_path / "slab.nii", whole[:, :, 60:110], head.affine).name: "cut off",
        _saved(
            tmp_path / "solid.nii",
            np.pad(np.repeat(ball[:, :, None], 120, 2), 5).astype(np.uint8),
        ).name: "no ventricles",
    }
    for name, reason in cases.items():
        with pytest.raises(Unreadable, match=reason):
            ventricles.choose(volumes.read(tmp_path / name), 6)


def test_thick_and_tilted_slices_are_resampled_upright(head, expected, tmp_path):
    """Every third axial plane of a head that lay 10 degrees askew."""
    cosine, sine = np.cos(np.radians(10)), np.sin(np.radians(10))
    askew = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
    centre = np.array([98.0, 117.0, 94.0])
    voxels = affine_transform(np.asarray(head.dataobj), askew, centre - askew @ centre, order=1)
    affine = head.affine @ from_matvec(askew, centre - askew @ centre) @ np.diag([1, 1, 3, 1])
    path = _saved(tmp_path / "thick.nii", voxels[:, :, ::3], affine)
    found = ventricles.choose(volumes.read(path), 6)
    difference = found[3].pixels.astype(int) - expected[3].pixels
    turned = np.rot90(expected[3].pixels, 2).astype(int) - expected[3].pixels
    assert abs(found[3].depth - expected[3].depth) <= 2
    assert np.abs(difference).mean() < np.abs(turned).mean() / 3


def _header(path, **changes):
    """The header of a valid file of 8 voxels a side with some fields changed, and nothing else."""
    header = nib.Nifti1Header()
    header.set_data_shape((8, 8, 8))
    header.set_data_dtype(np.uint8)
    header.set_sform(np.diag([10, 10, 10, 1]), 1)
    for name, value in {"magic": b"n+1", "vox_offset": 368, **changes}.items():
        header[name] = value
    extension = np.array([2**30, 6], "<i4").tobytes()
    path.write_bytes(gzip.compress(header.binaryblock + b"\1\0\0\0" + extension + bytes(2**22)))
    return path


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"vox_offset": 2.0**33}, "voxels begin at byte 8589934592"),
        ({"vox_offset": -352}, "damaged header"),
        ({"dim": [3, 32767, 32767, 32767, 1, 1, 1, 1]}, "million voxels"),
        ({"dim": [3, 8, 8, -8, 1, 1, 1, 1]}, "not a volume"),
        ({"srow_x": [29.5, 28.5, 28.5, 0], "srow_y": [28.5, 29.5, 28.5, 0],
          "srow_z": [28.5, 28.5, 29.5, 0]}, "when turned upright"),
        ({"srow_x": [np.nan] * 4}, "which way is up"),
        ({"srow_x": [0, 10, 0, 0]}, "which way is up"),
        ({"datatype": 1234}, "damaged"),
    ],
)  # fmt: skip
def test_a_header_that_promises_too_much_costs_nothing(tmp_path, changes, reason):
    """Of a file of some kilobytes: neither its gigabytes of zeros are unpacked nor a box filled."""
    path = _header(tmp_path / "hostile.nii.gz", **changes)
    tracemalloc.start()
    with pytest.raises(Unreadable, match=reason):
        volumes.read(path)
    assert tracemalloc.get_traced_memory()[1] < 2**23
    tracemalloc.stop()


def test_an_extension_that_claims_a_gibibyte_is_not_read(tmp_path):
    assert volumes.read(_header(tmp_path / "extended.nii.gz")).shape == (71, 71, 71)


@pytest.mark.parametrize(
    "change",
    [
        lambda voxels: np.where(voxels > 0, (voxels - 120) / 40, 0),
        lambda voxels: np.where(voxels > 0, (voxels - 120) / 40, np.nan),
        lambda voxels: (voxels - voxels.mean()) / voxels.std(),
    ],
    ids=["0 around it", "NaN around it", "all of it"],
)
def test_a_head_of_z_scores_has_the_slices_of_the_plain_one(head, expected, tmp_path, change):
    voxels = change(np.asarray(head.dataobj, np.float32)[::2, ::2, ::2]).astype(np.float32)
    path = _saved(tmp_path / "changed.nii", voxels, head.affine @ np.diag([2, 2, 2, 1]))
    found = ventricles.choose(volumes.read(path), 6)
    for one, other in zip(found, expected, strict=True):
        assert abs(one.depth - other.depth) <= 3
    likeness = np.corrcoef(found[3].pixels.ravel(), expected[3].pixels.ravel())[0, 1]
    assert likeness > 0.9
    assert (found[3].pixels[0] == 0).all()  # the background is black


@pytest.fixture(scope="module")
def block():
    """Voxels of 2 mm in no order, and where they are."""
    voxels = np.random.default_rng(0).integers(0, 200, (30, 25, 20)).astype(np.float32)
    return voxels, np.diag([2.0, 2.0, 2.0, 1.0])


def test_what_is_not_a_number_is_background(block, tmp_path):
    voxels, affine = block
    expected = volumes.read(_saved(tmp_path / "plain.nii", voxels, affine))
    marked = np.where(voxels == 0, np.nan, voxels)
    found = volumes.read(_saved(tmp_path / "marked.nii", marked, affine))
    np.testing.assert_array_equal(found, expected)


def test_every_format_of_a_volume_is_known_by_its_content_and_gives_the_same(block, tmp_path):
    voxels, affine = block
    one = volumes.read(_saved(tmp_path / "one.nii", voxels, affine))
    nib.save(nib.Nifti2Image(voxels, affine), tmp_path / "two.nii.gz")
    nib.save(nib.Nifti1Pair(voxels, affine), tmp_path / "pair.hdr")
    nib.save(nib.MGHImage(voxels, affine), tmp_path / "free.mgz")
    (tmp_path / "no suffix").write_bytes((tmp_path / "two.nii.gz").read_bytes())
    (tmp_path / "notes").write_text("none of our business")
    sources = inputs.find([str(tmp_path)])
    assert [(Path(source.name).name, source.kind) for source in sources] == [
        (name, "volume") for name in ("free.mgz", "no suffix", "one.nii", "pair.hdr", "two.nii.gz")
    ]
    for source in sources:
        np.testing.assert_allclose(volumes.read(source.files[0]), one, atol=1e-3)
    (found,) = inputs.find([str(tmp_path / "pair.img")])
    assert found.files == (tmp_path / "pair.hdr",)
    (tmp_path / "pair.img").unlink()
    with pytest.raises(Unreadable, match=r"\.img is not beside it"):
        volumes.read(tmp_path / "pair.hdr")


def test_directions_and_units_are_the_headers(block, tmp_path):
    """A valid qform counts where the sform's code is set but its matrix is empty."""
    voxels, affine = block
    expected = volumes.read(_saved(tmp_path / "plain.nii", voxels, affine))
    image = nib.Nifti1Image(voxels, affine)
    image.set_qform(affine, 1)
    image.header["sform_code"], image.header["vox_offset"] = 1, 352
    for row in ("srow_x", "srow_y", "srow_z"):
        image.header[row] = 0
    content = image.header.binaryblock + bytes(4) + voxels.tobytes(order="F")
    (tmp_path / "qform.nii").write_bytes(content)
    np.testing.assert_allclose(volumes.read(tmp_path / "qform.nii"), expected, atol=0.1)
    metres = nib.Nifti1Image(voxels, np.diag([0.001, 0.001, 0.001, 1]) @ affine)
    metres.header.set_xyzt_units("meter")
    nib.save(metres, tmp_path / "metres.nii")
    found = volumes.read(tmp_path / "metres.nii")  # by rounding, with one more at each end
    np.testing.assert_allclose(found[:59, :49, :39], expected, atol=0.1)
    metres.header["xyzt_units"] = 0
    nib.save(metres, tmp_path / "unsaid.nii")
    with pytest.raises(Unreadable, match="in metres instead of millimetres"):
        volumes.read(tmp_path / "unsaid.nii")


def _compress(file, coding):
    if coding != JPEGLosslessSV1:
        item = dcmread(file)
        item.compress(coding)
        item.save_as(file)
        return
    reader, change, writer = (
        gdcm.ImageReader(),
        gdcm.ImageChangeTransferSyntax(),
        gdcm.ImageWriter(),
    )
    reader.SetFileName(str(file))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetImage(change.GetOutput())
    writer.SetFile(reader.GetFile())
    writer.SetFileName(str(file))
    assert writer.Write()


def test_compressed_series_with_any_names_are_read(head, tmp_path):
    """`MR.1.2.840…` and `.IMA`, as scanners and archives name them; three codings without loss."""
    folder = tmp_path / "series"
    files = _write_series(folder, head, skip={*range(60), *range(120, 197)})
    plain = volumes.read_series(files)
    codings = (JPEGLosslessSV1, JPEGLSLossless, RLELossless)
    for number, file in enumerate(files):
        _compress(file, codings[number % 3])
        name = f"MR.1.2.840.{number}" if number % 2 else f"{file.name}.IMA"
        file.rename(folder / name)
    (source,) = inputs.find([str(folder)])
    assert (source.kind, len(source.files)) == ("dicom", len(files))
    syntaxes = {
        dcmread(f, stop_before_pixels=True).file_meta.TransferSyntaxUID for f in source.files
    }
    assert syntaxes == set(codings)
    np.testing.assert_array_equal(volumes.read_series(source.files), plain)
