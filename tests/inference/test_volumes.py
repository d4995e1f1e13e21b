"""Volumes: whichever way they are stored, the same slices; what is no head is refused."""

import gzip
from pathlib import Path

import nibabel as nib
import nilearn
import numpy as np
import pytest
from nibabel.affines import from_matvec
from nibabel.orientations import axcodes2ornt, ornt_transform
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid
from scipy.ndimage import affine_transform

from alzmri.data.images import Unreadable
from alzmri.inference import inputs, ventricles, volumes
from alzmri.inference.preprocessing import Preprocessing

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
    return ventricles.choose(volumes.read_nifti(path), 6)


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
    found = ventricles.choose(volumes.read_nifti(tmp_path / "turned.nii.gz"), 6)
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
    (tmp_path / "text.nii").write_text("not a volume")
    (tmp_path / "text.nii.gz").write_bytes(gzip.compress(b"not a volume" * 100))
    cases = {
        "directionless.nii": "which way is up",
        "cut.nii.gz": "damaged",
        "text.nii": "not NIfTI",
        "text.nii.gz": "not NIfTI",
        _saved(tmp_path / "four.nii", np.ones((9, 9, 9, 3), np.uint8)).name: "not one volume",
        _saved(tmp_path / "zero.nii", np.zeros((9, 9, 9), np.uint8)).name: "blank",
        _saved(tmp_path / "nan.nii", np.full((9, 9, 9), np.nan, np.float32)).name: "not numbers",
        _saved(
            tmp_path / "huge.nii", np.ones((9, 9, 9), np.uint8), np.diag([99, 99, 99, 1])
        ).name: "more than 500 mm",
        _saved(tmp_path / "noise.nii", rng.random((40, 40, 40), np.float32)).name: "no head",
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
            ventricles.choose(volumes.read_nifti(tmp_path / name), 6)


def test_thick_and_tilted_slices_are_resampled_upright(head, expected, tmp_path):
    """Every third axial plane of a head that lay 10 degrees askew."""
    cosine, sine = np.cos(np.radians(10)), np.sin(np.radians(10))
    askew = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
    centre = np.array([98.0, 117.0, 94.0])
    voxels = affine_transform(np.asarray(head.dataobj), askew, centre - askew @ centre, order=1)
    affine = head.affine @ from_matvec(askew, centre - askew @ centre) @ np.diag([1, 1, 3, 1])
    path = _saved(tmp_path / "thick.nii", voxels[:, :, ::3], affine)
    found = ventricles.choose(volumes.read_nifti(path), 6)
    difference = found[3].pixels.astype(int) - expected[3].pixels
    turned = np.rot90(expected[3].pixels, 2).astype(int) - expected[3].pixels
    assert abs(found[3].depth - expected[3].depth) <= 2
    assert np.abs(difference).mean() < np.abs(turned).mean() / 3
