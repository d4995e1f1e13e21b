"""NIfTI files and DICOM series as voxels of 1 mm whose directions are known from the header."""

import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from alzmri.data.images import Unreadable
from alzmri.inference.extras import require

if TYPE_CHECKING:
    import nibabel as nib
    from pydicom import Dataset

Volume = NDArray[np.float32]
"""``[x, y, z]``, 1 mm apart: to the person's right, to the front, to the top."""

MAX_VOXELS = 2**26
"""Of a volume as stored, and at 1 mm: 400 a side, 256 MiB."""
MAX_EXTENT = 500.0
"""Of a volume's sides, mm."""
_UNEVEN = 0.1
"""Of the distance of two slices: by more than this share, slices are missing."""

_HEADER = ("ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing")


def read_nifti(path: Path) -> Volume:
    """The volume in a NIfTI file (``.nii``, ``.nii.gz``).

    Raises:
        Unreadable: it is damaged, too large, no single volume of numbers, or its header does not
            say where right, front and top are.
    """
    nib = require("nibabel", "volumes")
    try:
        image = nib.squeeze_image(nib.load(path))
        if not isinstance(image, nib.Nifti1Image):
            raise Unreadable("not NIfTI")
        if not (int(image.header["sform_code"]) or int(image.header["qform_code"])):
            raise Unreadable("its header does not say which way is up (sform and qform are unset)")
        return _upright(image)
    except (nib.filebasedimages.ImageFileError, nib.spatialimages.HeaderDataError) as error:
        raise Unreadable(f"not NIfTI: {error}") from None
    except (OSError, EOFError, ValueError, zlib.error, np.linalg.LinAlgError) as error:
        raise Unreadable(f"damaged: {error}") from None


def read_series(paths: Sequence[Path]) -> Volume:
    """The volume of one DICOM series, a file per slice, in any order.

    Raises:
        Unreadable: it is no whole series of plain MR slices with position and orientation.
    """
    nib = require("nibabel", "volumes")
    slices = [read_dicom(path) for path in paths]
    first = slices[0]
    if len(slices) < 2:
        raise Unreadable("one slice of a series: give the folder of them all")
    if len(slices) * int(first.Rows) * int(first.Columns) > MAX_VOXELS:
        raise Unreadable(f"more than {MAX_VOXELS} voxels")
    orientation = np.array(first.ImageOrientationPatient, float)
    normal = np.cross(orientation[:3], orientation[3:])
    slices.sort(key=lambda item: float(normal @ np.array(item.ImagePositionPatient, float)))
    heights = [float(normal @ np.array(item.ImagePositionPatient, float)) for item in slices]
    gaps = np.diff(heights)
    gap = float(np.median(gaps))
    if gap <= 0 or np.abs(gaps - gap).max() > _UNEVEN * gap:
        raise Unreadable("its slices are not evenly spaced: some are missing, or several series")
    for item in slices[1:]:
        if not np.allclose(np.array(item.ImageOrientationPatient, float), orientation, atol=1e-3):
            raise Unreadable("its slices lie in different directions: a localizer?")
    rows, columns = (float(value) for value in first.PixelSpacing)
    affine = np.eye(4)
    # DICOM's axes point to the left and to the back, NIfTI's to the right and to the front.
    flip = np.array([-1.0, -1.0, 1.0])
    affine[:3, 0] = orientation[:3] * columns * flip
    affine[:3, 1] = orientation[3:] * rows * flip
    affine[:3, 2] = normal * gap * flip
    affine[:3, 3] = np.array(slices[0].ImagePositionPatient, float) * flip
    voxels = np.stack([_pixels(item).T for item in slices], axis=2)
    return _upright(nib.Nifti1Image(voxels, affine))


def read_dicom(path: Path, *, pixels: bool = True) -> "Dataset":
    """One file of a series; without ``pixels`` its header only.

    Raises:
        Unreadable: it is not one plain MR slice.
    """
    pydicom = require("pydicom", "volumes")
    try:
        item: Dataset = pydicom.dcmread(path, stop_before_pixels=not pixels)
    except pydicom.errors.InvalidDicomError:
        raise Unreadable("not DICOM") from None
    except Exception as error:  # noqa: BLE001 - a damaged file can make pydicom raise anything
        raise Unreadable(f"damaged: {error}") from None
    if item.get("Modality") != "MR":
        raise Unreadable(f"modality {item.get('Modality')}: the model knows MR only")
    if int(item.get("NumberOfFrames", 1)) > 1:
        raise Unreadable("several frames in one file: convert it to NIfTI (dcm2niix)")
    missing = [name for name in _HEADER if item.get(name) is None]
    if missing:
        raise Unreadable(f"its header has no {missing[0]}")
    return item


def _pixels(item: "Dataset") -> NDArray[np.float32]:
    """float32 ``[row, column]``, in the scanner's units."""
    if item.get("PhotometricInterpretation") != "MONOCHROME2":
        raise Unreadable(f"photometric interpretation {item.get('PhotometricInterpretation')}")
    try:
        values = item.pixel_array.astype(np.float32)
    except Exception as error:  # noqa: BLE001 - see read_dicom
        raise Unreadable(f"its pixels cannot be decoded: {error}") from None
    slope, intercept = (item.get(f"Rescale{name}") for name in ("Slope", "Intercept"))
    result: NDArray[np.float32] = values * np.float32(1 if slope is None else slope)
    return result + np.float32(intercept or 0)


def _upright(image: "nib.Nifti1Image") -> Volume:
    """``image`` turned and resampled, linearly, as :data:`Volume` says."""
    from nibabel.affines import voxel_sizes
    from nibabel.processing import resample_to_output

    if len(image.shape) != 3 or image.get_data_dtype().kind not in "iuf":
        raise Unreadable(f"not one volume of numbers: shape {image.shape}")
    extent = np.array(image.shape) * voxel_sizes(image.affine)
    if not np.isfinite(extent).all() or extent.max() > MAX_EXTENT:
        raise Unreadable(f"more than {MAX_EXTENT:.0f} mm a side: are its units millimetres?")
    if max(math.prod(image.shape), extent.prod()) > MAX_VOXELS:
        raise Unreadable(f"more than {MAX_VOXELS} voxels")
    upright = resample_to_output(image, 1.0, order=1)
    voxels: Volume = np.asarray(upright.dataobj, np.float32)
    if not np.isfinite(voxels).all():
        raise Unreadable("has voxels that are not numbers")
    return voxels
