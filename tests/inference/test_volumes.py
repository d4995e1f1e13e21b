"""Volumes: whichever way they are stored, the same slices; what is no head is refused."""

import gzip
import tracemalloc
from functools import partial
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

from alzmri.data.images import Unreadable, fit
from alzmri.inference import inputs, ventricles, volumes

TEMPLATE = Path(nilearn.__file__).parent / (
    "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
)
COMMISSURE_BELOW_TOP = 81
"""The depth of the anterior commissure in the template, in mm."""


def test_the_slices_are_those_that_the_embedded_collection_shows():
    """Its heights: 11.5 to 16.5 mm above the anterior commissure."""
    heights = [
        COMMISSURE_BELOW_TOP - chosen.depth
        for chosen in ventricles.choose(volumes.read(TEMPLATE), 6)
    ]
    assert heights == [11, 12, 13, 14, 15, 16]


@pytest.fixture(scope="module")
def head():
    """An egg of 100 by 120 by 100 mm with ventricles, voxels of 3 x 2 x 2 mm from left to right,
    back to front, bottom to top; a bright spot marks the right front."""
    x, y, z = np.mgrid[-57:58:3, -67:68:2, -57:58:2]
    brain = np.hypot(np.hypot(x / 50, y / 60), z / 50) < 1
    fluid = np.hypot(np.hypot((np.abs(x) - 8) / 5, y / 18), (z + 12) / 9) < 1
    voxels = np.where(brain, 150 + 10 * np.cos(x / 4) * np.cos(y / 5), 0) - np.where(fluid, 120, 0)
    voxels[25:29, 45:50, :] = np.where(brain[25:29, 45:50, :], 255, 0)
    return nib.Nifti1Image(voxels.astype(np.uint8), np.diag([3.0, 2.0, 2.0, 1.0]))


@pytest.fixture(scope="module")
def expected(head, tmp_path_factory):
    path = tmp_path_factory.mktemp("head") / "head.nii"
    nib.save(head, path)
    return ventricles.choose(volumes.read(path), 6)


def test_the_front_is_down_and_the_right_is_right(expected):
    assert abs(np.mean([chosen.depth for chosen in expected]) - 60) < 1.5  # the centre is at 62
    assert all(pixels.shape == (208, 176) and pixels.dtype == np.uint8 for _, pixels in expected)
    row, column = np.argwhere(expected[3].pixels > 240).mean(axis=0)
    assert row > 104
    assert column > 88


@pytest.mark.parametrize("stored", ["PIL", "ASR", "RIP"])
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
        item.PixelSpacing = [2.0, 2.0]
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


def _compress(file, coding):
    if coding != JPEGLosslessSV1:
        item = dcmread(file)
        item.compress(coding)
        item.save_as(file)
        return
    reader, writer = gdcm.ImageReader(), gdcm.ImageWriter()
    change = gdcm.ImageChangeTransferSyntax()
    reader.SetFileName(str(file))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetImage(change.GetOutput())
    writer.SetFile(reader.GetFile())
    writer.SetFileName(str(file))
    assert writer.Write()


def test_a_compressed_series_with_any_names_gives_the_slices_of_the_same_nifti(
    head, expected, tmp_path
):
    """`MR.1.2.840…` and `.IMA`, as scanners and archives name them; codings without loss."""
    folder = tmp_path / "series"
    codings = (JPEGLosslessSV1, JPEGLSLossless, RLELossless)
    for number, file in enumerate(_write_series(folder, head)):
        if number % 4 < 3:
            _compress(file, codings[number % 4])
        file.rename(folder / (f"MR.1.2.840.{number}" if number % 2 else f"{file.name}.IMA"))
    (folder / "DICOMDIR.txt").write_text("not a slice")
    (source,) = inputs.find([str(folder)])
    assert (source.kind, len(source.files)) == ("dicom", head.shape[0])
    syntaxes = {
        dcmread(file, stop_before_pixels=True).file_meta.TransferSyntaxUID for file in source.files
    }
    assert syntaxes == {*codings, ExplicitVRLittleEndian}
    pad = partial(fit, image_size=208, mode="pad")
    found = inputs.read(source, pad)
    assert [item.depth for item in found] == [chosen.depth for chosen in expected]
    assert {item.subject for item in found} == {str(folder)}
    for item, chosen in zip(found, expected, strict=True):
        assert np.array_equal(item.pixels[:, 16:-16], chosen.pixels)


@pytest.mark.parametrize(
    ("count", "tags", "reason"),
    [
        (4, {}, "not evenly spaced"),  # one is skipped
        (2, {}, "give the folder"),
        (4, {"Modality": "CT"}, "modality is CT"),
        (4, {"NumberOfFrames": 2}, "several frames"),
        (4, {"PixelSpacing": None}, "no PixelSpacing"),
        (4, {"PhotometricInterpretation": "RGB"}, "photometric"),
        (4, {"ImagePositionPatient": [0, 0, 0]}, "several images at each position"),
        (5, {"PixelData": b"\0\0"}, "cannot be decoded"),
        (5, {"RescaleSlope": 0, "RescaleIntercept": 0}, "blank"),
    ],
)
def test_an_unusable_series_is_refused_with_the_reason(head, tmp_path, count, tags, reason):
    skip = {1, *range(count, 200)} if count < 5 else range(100, 200)
    files = _write_series(tmp_path / "series", head, skip=skip, **tags)
    with pytest.raises(Unreadable, match=reason):
        ventricles.choose(volumes.read_series(files), 6)


def _saved(path, voxels, affine=None):
    nib.save(nib.Nifti1Image(voxels, np.eye(4) if affine is None else affine), path)
    return path


def test_what_is_no_volume_of_a_head_is_refused_with_the_reason(head, tmp_path):
    ball = np.hypot(*(np.mgrid[:90, :90] - 44.5)) < 40
    tube = np.repeat(ball[:, :, None], 120, 2).astype(np.uint8)
    block = np.ones((60, 9, 9), np.uint8)
    nib.save(head, tmp_path / "whole.nii.gz")
    content = (tmp_path / "whole.nii.gz").read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(content[: len(content) // 2])
    nib.save(nib.Nifti1Image(block, None), tmp_path / "directionless.nii")
    nib.save(nib.Nifti2Image(block, np.eye(4)), tmp_path / "two.nii")
    (tmp_path / "stub.nii").write_bytes((tmp_path / "two.nii").read_bytes()[:400])
    (tmp_path / "text.nii.gz").write_bytes(gzip.compress(b"not a volume" * 100))
    (tmp_path / "analyze.hdr").write_bytes((348).to_bytes(4, "little") + bytes(344))
    colours = np.zeros((60, 9, 9), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    cases = {
        "directionless.nii": "has no directions",
        "cut.nii.gz": "damaged",
        "stub.nii": "neither NIfTI",
        "text.nii.gz": "neither NIfTI",
        "analyze.hdr": "convert it to NIfTI",
    }
    for name, voxels, reason in (
        ("four", np.stack([block] * 3, 3), "3 volumes: give"),
        ("zero", 0 * block, "blank"),
        ("nan", np.full(block.shape, np.nan, np.float32), "are NaN"),
        ("inf", np.full(block.shape, np.inf, np.float32), "infinite"),
        ("phase", block.astype(np.complex64), "give their magn"),
        ("colours", colours, "RGB"),
        ("plane", block[:, :, :1], "not a volume"),
        ("small", block[:9], "9 x 9 x 9 mm is not a head"),
        ("long", np.ones((600, 9, 9), np.uint8), "600 x 9 x 9 mm is not a head"),
        ("noise", np.random.default_rng(0).random((60, 40, 40), np.float32), "no head"),
        ("tube", tube, "cut off"),
        ("solid", np.pad(tube, 5), "no ventricles"),
    ):
        _saved(tmp_path / f"{name}.nii", voxels)
        cases[f"{name}.nii"] = reason
    for name, reason in cases.items():
        with pytest.raises(Unreadable, match=reason):
            ventricles.choose(volumes.read(tmp_path / name), 6)


def test_thick_and_tilted_slices_are_resampled_upright(head, expected, tmp_path):
    """Every second axial plane of a head that lay 10 degrees askew."""
    cosine, sine = np.cos(np.radians(10)), np.sin(np.radians(10))
    askew = np.array([[cosine, -sine / 1.5, 0], [sine * 1.5, cosine, 0], [0, 0, 1]])
    centre = (np.array(head.shape) - 1) / 2
    voxels = affine_transform(np.asarray(head.dataobj), askew, centre - askew @ centre, order=1)
    affine = head.affine @ from_matvec(askew, centre - askew @ centre) @ np.diag([1, 1, 2, 1])
    path = _saved(tmp_path / "thick.nii", voxels[:, :, ::2], affine)
    found = ventricles.choose(volumes.read(path), 6)
    assert abs(found[3].depth - expected[3].depth) <= 2
    # Not turned back, the bright spot would be 8 mm away.
    spots = [np.argwhere(one[3].pixels > 200).mean(axis=0) for one in (found, expected)]
    assert np.abs(spots[0] - spots[1]).max() < 3


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
        ({"srow_x": [np.nan] * 4}, "no directions"),
        ({"srow_x": [0, 10, 0, 0]}, "no directions"),
        ({"datatype": 1234}, "damaged"),
    ],
)  # fmt: skip
def test_a_header_that_promises_too_much_costs_nothing(tmp_path, changes, reason):
    """The file is small: its gigabytes of zeros are not unpacked, and no box is filled."""
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
    voxels = change(np.asarray(head.dataobj, np.float32)).astype(np.float32)
    found = ventricles.choose(volumes.read(_saved(tmp_path / "z.nii", voxels, head.affine)), 6)
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


def test_every_format_of_a_volume_is_known_by_its_content_and_gives_the_same(block, tmp_path):
    voxels, affine = block
    one = volumes.read(_saved(tmp_path / "one.nii", voxels, affine))
    _saved(tmp_path / "marked.nii", np.where(voxels == 0, np.nan, voxels), affine)
    nib.save(nib.Nifti2Image(voxels, affine), tmp_path / "two.nii.gz")
    nib.save(nib.Nifti1Pair(voxels, affine), tmp_path / "pair.hdr")
    nib.save(nib.MGHImage(voxels, affine), tmp_path / "free.mgz")
    (tmp_path / "no suffix").write_bytes((tmp_path / "two.nii.gz").read_bytes())
    (tmp_path / "notes").write_text("none of our business")
    names = ("free.mgz", "marked.nii", "no suffix", "one.nii", "pair.hdr", "two.nii.gz")
    sources = inputs.find([str(tmp_path)])
    assert [(Path(source.name).name, source.kind) for source in sources] == [
        (name, "volume") for name in names
    ]
    for source in sources:
        np.testing.assert_allclose(volumes.read(source.files[0]), one, atol=1e-3)
    (found,) = inputs.find([str(tmp_path / "pair.img")])
    assert found.files == (tmp_path / "pair.hdr",)
    (tmp_path / "pair.img").unlink()
    with pytest.raises(Unreadable, match=r"\.img is missing"):
        volumes.read(tmp_path / "pair.hdr")


def test_directions_units_and_scale_are_the_headers(block, tmp_path):
    """A valid qform counts where the sform's code is set but its matrix is empty."""
    voxels, affine = block
    expected = volumes.read(_saved(tmp_path / "plain.nii", voxels, affine))
    image = nib.Nifti1Image(voxels, affine)
    image.set_qform(affine, 1)
    image.header["sform_code"], image.header["vox_offset"] = 1, 352
    image.header["scl_slope"], image.header["scl_inter"] = 2, 0
    for row in ("srow_x", "srow_y", "srow_z"):
        image.header[row] = 0
    content = image.header.binaryblock + bytes(4) + voxels.tobytes(order="F")
    (tmp_path / "qform.nii").write_bytes(content)
    np.testing.assert_allclose(volumes.read(tmp_path / "qform.nii"), 2 * expected, atol=0.2)
    metres = nib.Nifti1Image(voxels, np.diag([0.001, 0.001, 0.001, 1]) @ affine)
    metres.header.set_xyzt_units("meter")
    nib.save(metres, tmp_path / "metres.nii")
    found = volumes.read(tmp_path / "metres.nii")  # by rounding, with one more at each end
    np.testing.assert_allclose(found[:59, :49, :39], expected, atol=0.1)
    metres.header["xyzt_units"] = 0
    nib.save(metres, tmp_path / "unsaid.nii")
    with pytest.raises(Unreadable, match="not a head: is its header in metres"):
        volumes.read(tmp_path / "unsaid.nii")


def test_rows_and_columns_of_a_dicom_series_have_their_own_spacing(head, tmp_path):
    """DICOM's spacing is first that between rows, then that between columns."""
    files = _write_series(tmp_path / "series", head, PixelSpacing=[2.0, 2.5])
    found = volumes.read_series(files)
    sides = [(count - 1) * size + 1 for count, size in zip(head.shape, (3, 2.5, 2), strict=True)]
    assert np.abs(np.array(found.shape) - sides).max() <= 1


def test_scaled_voxels_have_the_intercept_of_the_header(block, tmp_path):
    voxels, affine = block
    image = nib.Nifti1Image(voxels, affine)
    _saved(tmp_path / "plain.nii", 2 * voxels + 5, affine)
    image.header["vox_offset"], image.header["scl_slope"], image.header["scl_inter"] = 352, 2, 5
    content = image.header.binaryblock + bytes(4) + voxels.tobytes(order="F")
    (tmp_path / "scaled.nii").write_bytes(content)
    expected = volumes.read(tmp_path / "plain.nii")
    np.testing.assert_allclose(volumes.read(tmp_path / "scaled.nii"), expected, atol=0.01)


def test_a_freesurfer_file_of_an_unknown_type_is_damaged(tmp_path):
    path = tmp_path / "strange.mgh"
    voxels = nib.MGHImage(np.zeros((60, 60, 60), np.uint8), np.eye(4)).to_bytes()
    path.write_bytes(voxels[:20] + (99).to_bytes(4) + voxels[24:])
    with pytest.raises(Unreadable, match="damaged: 99"):
        volumes.read(path)


def test_a_direction_that_is_nearly_zero_is_damaged(tmp_path):
    header = nib.Nifti2Header()
    header.set_data_shape((8, 8, 8))
    header.set_sform(np.diag([1e-300, 10, 10, 1]), 1)
    header["magic"], header["vox_offset"] = b"n+2", 544
    path = tmp_path / "flat.nii"
    path.write_bytes(header.binaryblock + bytes(4) + np.arange(512, dtype="<f4").tobytes())
    with pytest.raises(Unreadable, match=r"damaged header: Could not decompose affine$"):
        volumes.read(path)
