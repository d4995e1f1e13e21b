"""Read NIfTI and FreeSurfer files and DICOM series as upright volumes of 1 mm voxels.

It checks a header before it spends memory or time on the voxels.
"""

import gzip
import logging
import math
import resource
import warnings
import zlib
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import psutil
from numpy.typing import NDArray

from alzmri.data.images import Unreadable
from alzmri.errors import EnvironmentFault, require

Volume = NDArray[np.float32]
"""Voxels ``[x, y, z]`` of 1 mm: to the subject's right, the front, the top; 0 is background."""
Affine = NDArray[np.float64]
"""The matrix from voxel indices to millimetres, ``[4, 4]``."""

MAX_VOXELS, MAX_UPRIGHT = 2**26, 2**25  # as stored; in the upright box around it, at 1 mm
MAX_OFFSET = 2**24  # bytes before the voxels: the header and its extensions
_EXTENT = 50.0, 500.0  # range of a volume's sides, mm
_START = 540  # bytes to recognise a format: the longest header of NIfTI
_MASKED = 0.1  # a volume with negative values and this fraction of zeros has 0 as its background
_DARKEST = 0.5  # this percentile of the tissue around a level of 0 becomes black
_UNEVEN = 0.1  # largest relative difference in spacing; beyond it, slices are missing
_MILLIMETRES = {1: 1000.0, 3: 0.001}  # millimetres per metre and micrometre, by NIfTI's code
_NOT_NUMBERS = {  # by NumPy's kind of type
    "V": "colours (RGB); give the volume that they were made from",
    "c": "complex numbers; give their magnitude",
}
_GEOMETRY = {  # required fields of a slice's header, and their numbers of values
    "ImageOrientationPatient": 6, "ImagePositionPatient": 3, "PixelSpacing": 2, "Rows": 1,
    "Columns": 1,
}  # fmt: skip
_TOO_MANY = f"more than {MAX_VOXELS / 1e6:.0f} million voxels"


def confine(memory: int) -> None:
    """Limit the additional memory, in bytes, of a process that reads untrusted files."""
    warnings.simplefilter("ignore")  # warnings and logs of libraries quote headers
    logging.disable(logging.CRITICAL)
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + memory, hard))


def kind(path: Path) -> str | None:
    """``nifti``, ``pair`` (.hdr and .img), ``analyze``, ``mgh``, ``dicom``, by content, or None."""
    try:
        with path.open("rb") as file:
            return _kind(_unpacked(file).read(_START))
    except (OSError, EOFError, zlib.error):
        return None


def _kind(start: bytes) -> str | None:
    if start[128:132] == b"DICM":
        return "dicom"
    magic = start[4:7] if start[4:5] == b"n" and len(start) == _START else start[344:347]
    if magic in (b"n+1", b"n+2", b"ni1", b"ni2"):
        return "nifti" if magic[1:2] == b"+" else "pair"
    if start[:4] in ((348).to_bytes(4, "little"), (348).to_bytes(4)):
        return "analyze"
    # FreeSurfer's header begins with version, four sides and type, all small numbers.
    freesurfer = start[:5] == b"\0\0\0\1\0" and len(start) >= 284 and start[22] == 0
    return "mgh" if freesurfer else None


def _unpacked(file: BinaryIO) -> BinaryIO:
    """``file`` from its start, through gzip if it is compressed."""
    compressed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    return cast(BinaryIO, gzip.GzipFile(fileobj=file)) if compressed else file


def read(path: Path) -> Volume:
    """The volume of a NIfTI (.nii, or .hdr with .img) or FreeSurfer (.mgh) file, or its .gz.

    Raises :class:`Unreadable` with the reason.
    """
    stem = path.with_suffix("") if path.suffix == ".gz" else path
    beside = [stem.with_suffix(end) for end in (".img", ".img.gz") if kind(path) == "pair"]
    with ExitStack() as stack:
        files = [path, *(name for name in beside if name.is_file())]
        return read_stream(*(stack.enter_context(name.open("rb")) for name in files[:2]))


def read_stream(file: BinaryIO, pixels: BinaryIO | None = None) -> Volume:
    """:func:`read` of an open file; of a pair, ``pixels`` is the second one."""
    nib = require("nibabel", "volumes")
    try:
        stream = _unpacked(file)
        start = stream.read(_START)
        what = _kind(start)
        if what == "analyze":
            raise Unreadable("Analyze 7.5 has no directions: convert it to NIfTI")
        if what not in ("nifti", "pair", "mgh"):
            raise Unreadable("it is neither NIfTI nor FreeSurfer's .mgz")
        if what == "pair" and pixels is None:
            raise Unreadable("its .img is missing: put it beside the .hdr, or give one .nii")
        if what == "mgh":
            header = nib.freesurfer.mghformat.MGHHeader(start[:284])
            affine = header.get_affine()
        else:
            first = start[344:347] in (b"n+1", b"ni1")
            header = nib.Nifti1Header(start[:348]) if first else nib.Nifti2Header(start)
            affine = _affine(header)
        shape = _shape(header)
        _check_grid(shape, affine)
        offset = int(header.get_data_offset()) or (0 if pixels else len(header.binaryblock) + 4)
        if not 0 <= offset <= MAX_OFFSET:
            raise Unreadable(f"damaged header: it says that the voxels begin at byte {offset}")
        stream = _unpacked(pixels) if pixels else stream
        stored = nib.arrayproxy.ArrayProxy(stream, (shape, header.get_data_dtype(), offset))
        voxels = stored.get_unscaled().astype(np.float32)
        slope, intercept = header.get_slope_inter()
        if slope is not None:
            voxels = voxels * np.float32(slope) + np.float32(intercept)
        stream.read(1)  # reads the checksum at the end of a compressed file
        return _upright(voxels, affine)
    except (nib.filebasedimages.ImageFileError, nib.spatialimages.HeaderDataError) as error:
        raise Unreadable(f"damaged header: {str(error).partition(':')[0]}") from None
    except (Unreadable, MemoryError, ImportError, EnvironmentFault):
        raise
    except Exception as error:  # noqa: BLE001 - a damaged file can make nibabel raise anything
        raise Unreadable(f"damaged: {error}") from None


def _affine(header: Any) -> Affine:
    """The affine of a NIfTI header, from sform or else qform, in millimetres."""
    unit = _MILLIMETRES.get(int(header["xyzt_units"]) & 7, 1.0)
    for said, code in ((header.get_sform, "sform_code"), (header.get_qform, "qform_code")):
        affine = np.asarray(said(), np.float64) if int(header[code]) else np.zeros((4, 4))
        # Some programs set a code and leave the matrix empty.
        if np.isfinite(affine).all() and abs(np.linalg.det(affine)) > 0:
            affine[:3] *= unit
            return affine
    raise Unreadable("its header has no directions (sform and qform are unset)")


def _shape(header: Any) -> tuple[int, ...]:
    kind = header.get_data_dtype().kind
    if kind not in "iuf":
        raise Unreadable(f"its voxels are {_NOT_NUMBERS.get(kind, 'not numbers')}")
    shape = tuple(map(int, header.get_data_shape()))
    if len(shape) < 3 or min(shape) < 1 or min(shape[:3]) < 2:
        raise Unreadable(f"it is not a volume but has {' x '.join(map(str, shape))} voxels")
    if (volumes := math.prod(shape[3:])) > 1:
        raise Unreadable(f"the file has {volumes} volumes: give a file with one")
    return shape[:3]


def _check_grid(shape: tuple[int, ...], affine: Affine) -> None:
    """Raise Unreadable for a size that is not a head's, or for too large an upright box."""
    from nibabel.affines import voxel_sizes
    from nibabel.spaces import vox2out_vox

    if math.prod(shape) > MAX_VOXELS:
        raise Unreadable(_TOO_MANY)
    if not np.isfinite(affine).all() or not abs(np.linalg.det(affine)) > 0:
        raise Unreadable("damaged header: its directions do not span a volume")
    extent = np.array(shape) * voxel_sizes(affine)
    if not _EXTENT[0] <= extent.max() <= _EXTENT[1]:
        sides = " x ".join(f"{side:.3g}" for side in extent)
        raise Unreadable(f"{sides} mm is not a head: is its header in metres or micrometres?")
    upright, _ = vox2out_vox((shape, affine), (1.0, 1.0, 1.0))
    if math.prod(map(int, upright)) > MAX_UPRIGHT:
        most = f"more than {MAX_UPRIGHT / 1e6:.0f} million voxels when turned upright at 1 mm"
        raise Unreadable(f"{most}: are the directions in its header damaged?")


def read_series(paths: Sequence[Path]) -> Volume:
    """The volume of one DICOM series, a file per slice, in any order.

    Raises :class:`Unreadable` if it is not a complete series of MR slices with known positions.
    """
    if len(paths) < 2:
        raise Unreadable("it is one slice of a series: give the folder with all slices")
    headers = [read_dicom(path) for path in paths]
    first = headers[0]
    directions = np.array([item.ImageOrientationPatient for item in headers], float)
    right, down = directions[0, :3], directions[0, 3:]
    normal = np.cross(right, down)
    places = np.array([item.ImagePositionPatient for item in headers], float)
    order = np.argsort(places @ normal, kind="stable")
    gaps = np.diff((places @ normal)[order])
    gap = float(np.median(gaps))
    if not gap > 0:
        raise Unreadable("it has several images at each position: give one echo or time point")
    if np.abs(gaps - gap).max() > _UNEVEN * gap:
        raise Unreadable("its slices are not evenly spaced: are some missing, or several series?")
    sizes = {(int(item.Columns), int(item.Rows)) for item in headers}
    if np.ptp(directions, axis=0).max() > 1e-3 or len(sizes) > 1:
        raise Unreadable("its slices differ in direction or size: a localizer, or several series?")
    affine = np.eye(4)
    axes = right * first.PixelSpacing[1], down * first.PixelSpacing[0], normal * gap
    affine[:3] = np.column_stack((*axes, places[order[0]]))
    # DICOM's axes point to the left and to the back, NIfTI's to the right and to the front.
    affine[:2] *= -1
    _check_grid((*sizes.pop(), len(paths)), affine)
    planes = [_pixels(paths[number], headers[number]).T for number in order]
    return _upright(np.stack(planes, axis=2), affine)


def read_dicom(path: Path) -> Any:
    """The header of one file of a series; :class:`Unreadable` if it is not one plain MR slice."""
    pydicom = require("pydicom", "volumes")
    try:
        item = pydicom.dcmread(path, stop_before_pixels=True)
        frames = int(item.get("NumberOfFrames") or 1)
        missing = [
            name
            for name, count in _GEOMETRY.items()
            if np.isfinite(np.array(item.get(name) or [], float)).sum() != count
        ]
    except pydicom.errors.InvalidDicomError:
        raise Unreadable("not DICOM") from None
    except Exception as error:  # noqa: BLE001 - a damaged file can make pydicom raise anything
        raise Unreadable(f"damaged: {error}") from None
    if item.get("Modality") != "MR":
        raise Unreadable(f"its modality is {item.get('Modality')}: the model is for MR only")
    if frames > 1:
        raise Unreadable("the file has several frames: convert it to NIfTI (dcm2niix)")
    if missing:
        raise Unreadable(f"its header has no {missing[0]}")
    if item.Rows * item.Columns > MAX_VOXELS:
        raise Unreadable(_TOO_MANY)
    if (photometric := item.get("PhotometricInterpretation")) != "MONOCHROME2":
        raise Unreadable(f"its photometric interpretation is {photometric}, not MONOCHROME2")
    return item


def _pixels(path: Path, header: Any) -> Volume:
    """The pixels, float32 ``[row, column]``, in the scanner's units."""
    pydicom, pixels = require("pydicom", "volumes"), require("pydicom.pixels", "volumes")
    try:
        # From the dataset, because pydicom's function for paths cannot read deflated files.
        values = pixels.apply_rescale(pydicom.dcmread(path).pixel_array, header)
    except Exception as error:  # noqa: BLE001 - see read_dicom
        raise Unreadable(f"its pixels cannot be decoded: {error}") from None
    return np.asarray(values, np.float32)


def _upright(voxels: Volume, affine: Affine) -> Volume:
    """Shift ``voxels`` so that nothing is below 0; turn and resample them, to a :data:`Volume`.

    0 and NaN are background. In a normalised volume, which has tissue below 0, only the tissue is
    shifted if the rest was masked.
    """
    from nibabel import Nifti1Image
    from nibabel.processing import resample_to_output

    if np.isinf(voxels).any():
        raise Unreadable("it has infinite voxels: was it divided by 0?")
    known = voxels[~np.isnan(voxels)]
    if not known.size:
        raise Unreadable("all its voxels are NaN")
    if (lowest := float(known.min())) < 0:
        masked = (known == 0).mean() > _MASKED
        if masked:
            lowest = min(0.0, float(np.percentile(known[known != 0], _DARKEST)))
        shifted = np.maximum(voxels - np.float32(lowest), 0)
        voxels = np.where(masked & (voxels == 0), np.float32(0), shifted)
    image = Nifti1Image(np.nan_to_num(voxels, nan=0.0), affine)
    return np.asarray(resample_to_output(image, 1.0, order=1).dataobj, np.float32)
