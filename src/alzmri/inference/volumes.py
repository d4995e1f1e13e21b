"""NIfTI and FreeSurfer files and DICOM series as voxels of 1 mm whose directions are known.

What a header promises is checked before memory or time is spent on it, so a file costs no more than
an honest one of the largest size.
"""

import gzip
import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, cast

import numpy as np
from numpy.typing import NDArray

from alzmri.data.images import Unreadable
from alzmri.inference.extras import require

if TYPE_CHECKING:
    from pydicom import Dataset

Volume = NDArray[np.float32]
"""``[x, y, z]``, 1 mm apart: to the subject's right, to the front, to the top; 0 is background."""
Affine = NDArray[np.float64]
"""From voxel indices to millimetres, ``[4, 4]``."""

MAX_VOXELS = 2**26
"""Of a volume as stored: 400 a side, 256 MiB as float32."""
MAX_UPRIGHT = 2**25
"""Of the box around it, upright and at 1 mm: 320 a side."""
EXTENT = (50.0, 500.0)
"""Of a volume's sides, mm."""
MAX_OFFSET = 2**24
"""Bytes before the voxels: the header and whatever programs have left there."""
START = 540
"""Bytes by which a format is recognised: the longest header of NIfTI."""
MASKED = 0.1
"""A volume with negative values and this share of zeros has 0 as its background."""
_DARKEST = 0.5
"""Percentile of the tissue around a level of 0 that becomes black."""
_UNEVEN = 0.1
"""Of the distance of two slices: by more than this share, slices are missing."""
_UNITS = {1: 1000.0, 3: 0.001}
"""Of NIfTI's header other than millimetres, in millimetres: metres and micrometres."""

_GEOMETRY = {"ImageOrientationPatient": 6, "ImagePositionPatient": 3, "PixelSpacing": 2}
"""What a slice's header must have, and how many numbers."""

Kind = Literal["nifti", "pair", "analyze", "mgh", "dicom"]


def kind(path: Path) -> Kind | None:
    """Of which format a file is by its content; None for any other. ``pair``: .hdr and .img."""
    try:
        with path.open("rb") as file:
            return _kind(_unpacked(file).read(START))
    except (OSError, EOFError, zlib.error):
        return None


def _kind(start: bytes) -> Kind | None:
    if start[128:132] == b"DICM":
        return "dicom"
    if start[344:348] == b"n+1\0" or start[4:8] == b"n+2\0":
        return "nifti"
    if start[344:348] == b"ni1\0" or start[4:8] == b"ni2\0":
        return "pair"
    if start[:4] in ((348).to_bytes(4, "little"), (348).to_bytes(4)):
        return "analyze"
    # Its version, then its four sides and its type, all small.
    if start[:5] == b"\0\0\0\1\0" and len(start) >= 284 and start[22] == 0:
        return "mgh"
    return None


def read(path: Path) -> Volume:
    """The volume in a file of NIfTI (.nii, or .hdr with .img) or FreeSurfer (.mgh), or its .gz.

    Raises:
        Unreadable: it is damaged, too large, no single volume of numbers, or its header does not
            say where right, front and top are.
    """
    with path.open("rb") as file:
        if kind(path) != "pair":
            return read_stream(file)
        packed = path.suffix == ".gz"
        stem = path.with_suffix("") if packed else path
        for name in (stem.with_suffix(".img"), stem.with_suffix(".img.gz")):
            if name.is_file():
                with name.open("rb") as pixels:
                    return read_stream(file, pixels)
    raise Unreadable("the header of a pair: its .img is not beside it")


def read_stream(file: BinaryIO, pixels: BinaryIO | None = None) -> Volume:
    """:func:`read` of an open file; of a pair, ``pixels`` is the second one."""
    nib = require("nibabel", "volumes")
    try:
        stream = _unpacked(file)
        start = stream.read(START)
        what = _kind(start)
        if what in ("nifti", "pair"):
            first = start[344:347] in (b"n+1", b"ni1")
            if len(start) < (348 if first else START):
                raise Unreadable("damaged: the file was cut short")
            header = nib.Nifti1Header(start[:348]) if first else nib.Nifti2Header(start)
            affine = _affine(header)
        elif what == "mgh":
            header = nib.freesurfer.mghformat.MGHHeader(start[:284])
            affine = header.get_affine()
        elif what == "analyze":
            raise Unreadable("Analyze 7.5, which does not say which way is up: convert it to NIfTI")
        else:
            raise Unreadable("not NIfTI, nor FreeSurfer's .mgz")
        if what == "pair" and pixels is None:
            raise Unreadable("the header of a pair: send a single .nii")
        shape = _shape(header)
        _check_grid(shape, affine)
        offset = int(header.get_data_offset())
        if what == "pair":
            stream, start = _unpacked(cast(BinaryIO, pixels)), b""
        elif offset == 0:
            offset = len(header.binaryblock) + 4
        voxels = _voxels(stream, start, offset, shape, header)
    except (nib.filebasedimages.ImageFileError, nib.spatialimages.HeaderDataError) as error:
        raise Unreadable(f"damaged header: {error}") from None
    except (OSError, EOFError, ValueError, OverflowError, zlib.error) as error:
        raise Unreadable(f"damaged: {error}") from None
    return _upright(voxels, affine)


def _unpacked(file: BinaryIO) -> BinaryIO:
    """``file`` from its start, through gzip if it is compressed."""
    compressed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    return cast(BinaryIO, gzip.GzipFile(fileobj=file)) if compressed else file


def _affine(header: Any) -> Affine:
    """What a NIfTI header says in sform, or else in qform, in millimetres."""
    for said, code in ((header.get_sform, "sform_code"), (header.get_qform, "qform_code")):
        if int(header[code]):
            affine = np.asarray(said(), np.float64)
            # Some programs set a code and leave the matrix empty.
            if np.isfinite(affine).all() and abs(np.linalg.det(affine)) > 0:
                return affine * _scale(header)
    raise Unreadable("its header does not say which way is up (sform and qform are unset)")


def _scale(header: Any) -> Affine:
    factor = _UNITS.get(int(header["xyzt_units"]) & 7, 1.0)
    return np.array([[factor]] * 3 + [[1.0]])


def _shape(header: Any) -> tuple[int, int, int]:
    """The sides of one volume of plain numbers."""
    kind = header.get_data_dtype().kind
    if kind not in "iuf":
        what, remedy = {
            "V": ("colours (RGB)", "give the volume that they were made from"),
            "c": ("complex numbers", "give their magnitude"),
        }.get(kind, ("no numbers", "give the volume itself"))
        raise Unreadable(f"its voxels are {what}: {remedy}")
    shape = tuple(int(side) for side in header.get_data_shape())
    if len(shape) < 3 or min(shape) < 1 or min(shape[:3]) < 2:
        raise Unreadable(f"not a volume but {' x '.join(map(str, shape))} voxels")
    if (volumes := math.prod(shape[3:])) > 1:
        raise Unreadable(f"{volumes} volumes in one file: give one of them alone")
    if math.prod(shape[:3]) > MAX_VOXELS:
        raise Unreadable(f"more than {MAX_VOXELS / 1e6:.0f} million voxels")
    return shape[0], shape[1], shape[2]


def _check_grid(shape: tuple[int, int, int], affine: Affine) -> None:
    """Refuse what is no head by its size, or would fill too large a box when it is upright."""
    from nibabel.affines import voxel_sizes
    from nibabel.spaces import vox2out_vox

    extent = np.array(shape) * voxel_sizes(affine)
    if not np.isfinite(affine).all() or not abs(np.linalg.det(affine)) > 0:
        raise Unreadable("damaged header: its directions do not span a volume")
    if extent.max() > EXTENT[1]:
        raise Unreadable(f"more than {EXTENT[1]:.0f} mm a side: are its units millimetres?")
    if extent.max() < EXTENT[0]:
        sides = " x ".join(f"{side:.2g}" for side in extent)
        raise Unreadable(f"{sides} mm is no head: is its header in metres instead of millimetres?")
    upright, _ = vox2out_vox((shape, affine), (1.0, 1.0, 1.0))
    if math.prod(map(int, upright)) > MAX_UPRIGHT:
        raise Unreadable(
            f"more than {MAX_UPRIGHT / 1e6:.0f} million voxels when turned upright at 1 mm: are the"
            " directions in its header damaged?"
        )


def _voxels(
    stream: BinaryIO, start: bytes, offset: int, shape: tuple[int, int, int], header: Any
) -> Volume:
    """What is stored, scaled; ``start`` has been read from ``stream`` already."""
    if not 0 <= offset <= MAX_OFFSET:
        raise Unreadable(f"damaged header: its voxels begin at byte {offset}")
    kind = header.get_data_dtype()
    size = math.prod(shape) * kind.itemsize
    stored = start[offset:]
    if offset > len(start):
        stream.read(offset - len(start))
    stored = stored[:size] + stream.read(max(0, size - len(stored)))
    if len(stored) < size:
        raise Unreadable("damaged: the file was cut short")
    stream.read(1)  # at its end a compressed file has its checksum
    voxels: Volume = np.frombuffer(stored, kind).reshape(shape, order="F").astype(np.float32)
    slope, intercept = header.get_slope_inter()
    if slope is not None:
        voxels = voxels * np.float32(slope) + np.float32(intercept)
    return voxels


def read_series(paths: Sequence[Path]) -> Volume:
    """The volume of one DICOM series, a file per slice, in any order.

    Raises:
        Unreadable: it is no whole series of plain MR slices with position and orientation.
    """
    slices = [(read_dicom(path, pixels=False), path) for path in paths]
    if len(slices) < 2:
        raise Unreadable("one slice of a series: give the folder of them all")
    first = slices[0][0]
    sides = int(first.Rows), int(first.Columns)
    if len(slices) * math.prod(sides) > MAX_VOXELS:
        raise Unreadable(f"more than {MAX_VOXELS / 1e6:.0f} million voxels")
    orientation = np.array(first.ImageOrientationPatient, float)
    normal = np.cross(orientation[:3], orientation[3:])

    def height(item: "tuple[Dataset, Path]") -> float:
        return float(normal @ np.array(item[0].ImagePositionPatient, float))

    slices.sort(key=height)
    gaps = np.diff([height(item) for item in slices])
    gap = float(np.median(gaps))
    if not gap > 0:
        raise Unreadable("several images at each position: give one echo or time point alone")
    if np.abs(gaps - gap).max() > _UNEVEN * gap:
        raise Unreadable("its slices are not evenly spaced: some are missing, or several series")
    for item, _ in slices:
        if not np.allclose(np.array(item.ImageOrientationPatient, float), orientation, atol=1e-3):
            raise Unreadable("its slices lie in different directions: a localizer?")
        if (item.Rows, item.Columns) != sides:
            raise Unreadable("its slices are of different sizes: several series?")
    rows, columns = (float(value) for value in first.PixelSpacing)
    affine = np.eye(4)
    # DICOM's axes point to the left and to the back, NIfTI's to the right and to the front.
    flip = np.array([-1.0, -1.0, 1.0])
    affine[:3, 0] = orientation[:3] * columns * flip
    affine[:3, 1] = orientation[3:] * rows * flip
    affine[:3, 2] = normal * gap * flip
    affine[:3, 3] = np.array(slices[0][0].ImagePositionPatient, float) * flip
    shape = (sides[1], sides[0], len(slices))
    _check_grid(shape, affine)
    return _upright(np.stack([_pixels(path).T for _, path in slices], axis=2), affine)


def read_dicom(path: Path, *, pixels: bool = True) -> "Dataset":
    """One file of a series; without ``pixels`` its header only.

    Raises:
        Unreadable: it is not one plain MR slice.
    """
    pydicom = require("pydicom", "volumes")
    try:
        item: Dataset = pydicom.dcmread(path, stop_before_pixels=not pixels)
        usable = {
            name: np.isfinite(np.array(item.get(name), float)).sum() == count
            for name, count in _GEOMETRY.items()
            if item.get(name) is not None
        }
        frames = int(item.get("NumberOfFrames") or 1)
        sides = int(item.get("Rows") or 0), int(item.get("Columns") or 0)
    except pydicom.errors.InvalidDicomError:
        raise Unreadable("not DICOM") from None
    except Exception as error:  # noqa: BLE001 - a damaged file can make pydicom raise anything
        raise Unreadable(f"damaged: {error}") from None
    if item.get("Modality") != "MR":
        raise Unreadable(f"modality {item.get('Modality')}: the model knows MR only")
    if frames > 1:
        raise Unreadable("several frames in one file: convert it to NIfTI (dcm2niix)")
    missing = [name for name in _GEOMETRY if not usable.get(name)]
    if missing or not all(sides):
        raise Unreadable(f"its header has no {(*missing, 'Rows and Columns')[0]}")
    if math.prod(sides) > MAX_VOXELS:
        raise Unreadable(f"more than {MAX_VOXELS / 1e6:.0f} million voxels")
    return item


def _pixels(path: Path) -> NDArray[np.float32]:
    """float32 ``[row, column]``, in the scanner's units."""
    item = read_dicom(path)
    if item.get("PhotometricInterpretation") != "MONOCHROME2":
        raise Unreadable(f"photometric interpretation {item.get('PhotometricInterpretation')}")
    try:
        values = item.pixel_array.astype(np.float32)
    except Exception as error:  # noqa: BLE001 - see read_dicom
        raise Unreadable(f"its pixels cannot be decoded: {error}") from None
    slope, intercept = (item.get(f"Rescale{name}") for name in ("Slope", "Intercept"))
    result: NDArray[np.float32] = values * np.float32(1 if slope is None else slope)
    return result + np.float32(intercept or 0)


def _upright(voxels: Volume, affine: Affine) -> Volume:
    """``voxels`` turned and resampled, linearly, as :data:`Volume` says."""
    nib = require("nibabel", "volumes")
    from nibabel.processing import resample_to_output

    image = nib.Nifti1Image(_from_zero(voxels), affine)
    upright = resample_to_output(image, 1.0, order=1)
    result: Volume = np.asarray(upright.dataobj, np.float32)
    return result


def _from_zero(voxels: Volume) -> Volume:
    """The same with 0 as the background and nothing below.

    NaN is background: programs mark so what is outside a head. A volume that was normalised has
    tissue below 0. If it was masked, its background is 0 in the middle of the tissue, and the
    tissue is shifted alone.
    """
    if np.isinf(voxels).any():
        raise Unreadable("has infinite voxels: was it divided by 0?")
    known = voxels[~np.isnan(voxels)]
    if not known.size:
        raise Unreadable("all of its voxels are not numbers (NaN)")
    lowest = float(known.min())
    if lowest < 0:
        background = voxels == 0
        if (known == 0).mean() > MASKED:
            lowest = min(0.0, float(np.percentile(known[known != 0], _DARKEST)))
        else:
            background[:] = False
        voxels = np.where(background, 0, np.maximum(voxels - np.float32(lowest), 0))
    return np.nan_to_num(voxels, nan=0.0)
