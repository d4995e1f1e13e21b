"""Validate and decode one image file."""

import contextlib
import io
import stat
import warnings
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from PIL.ExifTags import Base as ExifTag

from alzmri.errors import UserError

Pixels = NDArray[np.uint8]

MIN_SIDE = 16
"""Pixels. A smaller image shows no anatomy."""
MAX_SIDE = 4096
"""Pixels. Far above any MR slice, and small enough that every thread can hold such a square."""
MAX_BYTES = 128 * 2**20
"""Maximum bytes of a file: the largest image, uncompressed, with 16 bits and 4 channels."""
MAX_SCANS = 20
"""Maximum scans of a JPEG; encoders write ten, 18 for CMYK. Each scan is a pass over all pixels:
thousands of them in a small file would take a minute."""
MAX_SCANNED = 40 * 2**20
"""Maximum bytes of a JPEG with several scans: twice a photograph of the largest size."""
MAX_SLOW = 2**20
"""Maximum values of an image that Pillow decodes in Python: a microsecond for each."""
MAX_JPEG2000 = 2**23
"""Maximum bytes of a JPEG 2000 file, which takes ten times as long to decode as others."""
THUMBNAIL_SIDE = 32

_HEADER, _WHOLE, _CALL = 2**22, 2 * MAX_BYTES, 2**9
"""Maximum bytes that Pillow reads before the pixels, and in all; what a call counts in addition."""
_COMMENTS = 100
"""Maximum comments in a PGM written as text; Pillow copies the rest of the file at each."""
_SLOW = frozenset(("bmp_rle", "ppm", "ppm_plain"))
"""Decoders in Python: of compressed BMP, and of PGM as text or with an odd maximum."""

_MAX_OUTLINED = 256
"""Pixels. A larger slice is reduced to this side before its head is outlined."""
_BLUR = 0.01
"""Radius of the blur before outlining, as a fraction of the side; it removes compression specks."""
_SPECK = 0.02
"""Least area of a part of the head, as a fraction of the largest; smaller ones may be letters."""
_OVERSAMPLING = 4
"""Points per side of a thumbnail's pixel, averaged."""
_RINGS, _RAYS = 24, 256
"""Samples around the centre of a head, which give its axis to 0.7 degrees."""
_UPRIGHT, _LEANING, _QUARTER = 45, 0.05, 0.1
"""Degrees; then how much more symmetrical (1: perfectly) than about an upright axis a head must be
about an axis that leans by up to these degrees, or by more."""

SUFFIXES = frozenset(
    (".bmp", ".gif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".tif", ".tiff", ".webp")
)
"""Suffixes of images. The content determines the format."""
# Only raster formats: others that Pillow reads start programs (EPS) or have several pictures.
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000")
SYMBOLIC_LINK = "symbolic link: may lead elsewhere (if DVC made it, set cache.type to hardlink)"
"""The reason for refusing a link."""
_POINTER, _PULL = b"version https://git-lfs.github.com/spec/", "run `git lfs pull` in its clone"

# This module checks what Pillow warns about (large headers, odd EXIF), per file, with the path.
warnings.filterwarnings("ignore", module=r"PIL\.")


class Unreadable(Exception):
    """The file cannot be used; the message is a short reason without the path."""


class NotAnImage(Unreadable):
    """The content is not in a supported image format."""


class _File(io.BytesIO):
    """The bytes of an image, of which Pillow may read ``left``.

    It takes a header apart in Python: a few MiB of comments, chunks or tags would take a minute.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        # Pillow reads a whole WebP at once, before it knows anything.
        self.left = _WHOLE if data[8:12] == b"WEBP" else _HEADER

    def read(self, size: int | None = -1, /) -> bytes:
        found = super().read(size)
        self.left -= len(found) + _CALL
        if self.left < 0:
            raise Unreadable("too many or too large comments, chunks or tags, which take too long")
        return found


class Decoded(NamedTuple):
    """A usable image: uint8 ``[height, width]``, 0 black to 255 white, upright; and whether its
    file has other pixels: colour, transparency, another depth or orientation."""

    pixels: Pixels
    converted: bool


def decode(path: Path) -> Decoded:
    """:func:`decode_bytes` of a file; raises like :func:`read`."""
    return decode_bytes(read(path))


def decode_bytes(data: bytes) -> Decoded:
    """Validate and decode the bytes of one image by their content.

    Everything that has one clear meaning becomes an 8-bit grayscale slice: colour its luma (ITU-R
    601), on a black background; more than 8 bits are scaled from the lowest value to the highest,
    because MR intensities have no unit and 12-bit values in a 16-bit file would come out black; an
    EXIF orientation is applied. The rest is refused: files that are empty or larger than
    ``MAX_BYTES``, damaged, or not images; images with several frames, fewer than ``MIN_SIDE`` or
    more than ``MAX_SIDE`` pixels a side, or one value everywhere; and files that would take more
    than about two seconds.

    Raises:
        NotAnImage: the content is of no known image format.
        Unreadable: any other refusal.
    """
    check_bytes(len(data))
    if data.startswith(_POINTER):
        raise Unreadable(f"a Git LFS pointer instead of the image: {_PULL}")
    try:
        with _File(data) as file, Image.open(file, formats=_FORMATS) as image:
            file.left = _WHOLE
            size = f"{image.width}x{image.height}"
            if max(image.size) > MAX_SIDE:
                raise Unreadable(f"more than {MAX_SIDE} pixels a side: {size}")
            if min(image.size) < MIN_SIDE:
                raise Unreadable(f"smaller than {MIN_SIDE}x{MIN_SIDE} pixels: {size}")
            _require_quick(image, data)
            with contextlib.suppress(EOFError):
                image.seek(1)  # counting all frames could take for ever in formats that chain them
                raise Unreadable("animated or stacked: several frames instead of one slice")
            rotated = image.getexif().get(ExifTag.Orientation) in range(2, 9)
            converted = rotated or image.mode != "L" or image.has_transparency_data
            pixels = _to_gray(ImageOps.exif_transpose(image) if rotated else image)
    except Unreadable:
        raise
    except UnidentifiedImageError:
        raise NotAnImage("not an image in JPEG, PNG, BMP, GIF, TIFF, WebP or PGM") from None
    except Image.DecompressionBombError:
        raise Unreadable(f"more than {MAX_SIDE} pixels a side") from None
    except Exception as error:  # noqa: BLE001 - a damaged file can make Pillow raise anything
        raise Unreadable(f"damaged: {error}") from None
    if pixels.min() == pixels.max():
        raise Unreadable(f"blank: every pixel is {pixels.min()}")
    return Decoded(pixels, converted)


def _require_quick(image: ImageFile.ImageFile, data: bytes) -> None:
    """Refuse (`Unreadable`) an image of ``data`` that would take more than about two seconds."""
    # Compressed data has a 0 after FF: each FF DA is a scan, of the image or a thumbnail.
    scans = data.count(b"\xff\xda") if image.format in ("JPEG", "MPO") else 0
    if scans > MAX_SCANS or (scans > 1 and len(data) > MAX_SCANNED):
        raise Unreadable(f"{scans} scans in a JPEG of {len(data)} bytes, which take too long")
    slow = {tile.codec_name for tile in image.tile} & _SLOW
    values = image.width * image.height * len(image.getbands())
    if (
        (slow and values > MAX_SLOW)
        or ("ppm_plain" in slow and data.count(b"#") > _COMMENTS)
        or (image.format == "JPEG2000" and len(data) > MAX_JPEG2000)
    ):
        what = f"{image.format}, {image.width}x{image.height}, {len(data)} bytes"
        raise Unreadable(f"takes too long to decode ({what}): save it as PNG")


def read(path: Path) -> bytes:
    """The bytes of a regular file that is neither empty nor larger than ``MAX_BYTES``; `Unreadable`
    otherwise, and for a symbolic link, which may lead out of the collection."""
    try:
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            raise Unreadable(SYMBOLIC_LINK)
        if not stat.S_ISREG(status.st_mode):
            raise Unreadable("not a regular file")
        check_bytes(status.st_size)
        return path.read_bytes()
    except OSError as error:
        raise Unreadable(f"cannot be read: {(error.strerror or str(error)).lower()}") from None


def check_bytes(size: int) -> None:
    """Refuse a file of ``size`` bytes that is empty or too large (:class:`Unreadable`)."""
    if not 0 < size <= MAX_BYTES:
        raise Unreadable(f"larger than {MAX_BYTES >> 20} MiB" if size else "empty file")


def check_start(data: bytes, path: Path) -> None:
    """Refuse (`UserError`) the file at ``path``, which begins with ``data``, if it is a pointer."""
    if data.startswith(_POINTER):
        raise UserError(f"{path} is a Git LFS pointer instead of the file: {_PULL}")


def fit(pixels: Pixels, image_size: int, mode: Literal["pad", "stretch"]) -> Pixels:
    """Make uint8 ``[height, width]`` into uint8 ``[image_size, image_size]`` by area averages.

    ``pad`` keeps the proportions and adds black evenly at both ends of the short side.
    ``stretch`` scales each side on its own.
    """
    if mode == "pad":
        height, width = pixels.shape
        side = max(height, width)
        top, left = (side - height) // 2, (side - width) // 2
        bottom, right = side - height - top, side - width - left
        pixels = cv2.copyMakeBorder(pixels, top, bottom, left, right, cv2.BORDER_CONSTANT, value=0)
    return _area(pixels, image_size)


def thumbnail(pixels: Pixels) -> Pixels:
    """Cut out the head of a slice and turn it upright or upside down: uint8 ``[32, 32]``.

    The head is the convex hull of everything brighter than the background. Its mirror symmetry
    gives its rotation. The hull's centre and standard deviations (twice those are the edge of an
    ellipse) give the area to stretch to the square. Between darker, resized or compressed copies of
    a slice, the outline of a head differs less than its outermost pixel or the shape of its tissue.
    """
    scale = _MAX_OUTLINED / max(pixels.shape)
    if scale < 1:
        height, width = (round(side * scale) for side in pixels.shape)
        small = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
        pixels = np.asarray(small, np.uint8)
    centre, covariance, background = _outline(pixels)
    fine = THUMBNAIL_SIDE * _OVERSAMPLING

    def cut(axes: NDArray[np.float64]) -> Pixels:
        """The head, uint8 ``[128, 128]``; the columns of ``axes`` are half its radii."""
        matrix = axes * (4 / fine)
        corner = centre - matrix.sum(axis=1) * (fine - 1) / 2
        affine = np.column_stack([matrix, corner])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        found = cv2.warpAffine(pixels, affine, (fine, fine), flags=flags, borderValue=background)
        # A border may be darker than the background of a brightened slice.
        return np.maximum(np.asarray(found, np.uint8), np.uint8(background))

    variances, directions = np.linalg.eigh(covariance)
    # Maps a disc to the ellipse of the head. In the disc, stretched copies of a head differ only
    # by a rotation.
    ellipse = (directions * np.sqrt(variances)) @ directions.T
    tilt = np.deg2rad(_tilt(cut(ellipse)))
    cos, sin = np.cos(tilt), np.sin(tilt)
    return _area(cut(ellipse @ np.array([[cos, -sin], [sin, cos]])), THUMBNAIL_SIDE)


def _outline(pixels: Pixels) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """The convex hull of a head: its centre, x and y; their covariance ``[2, 2]``, over the hull;
    the level of the pixels around it."""
    blurred = cv2.GaussianBlur(pixels, (0, 0), _BLUR * np.sqrt(pixels.size))
    between, _ = cv2.threshold(blurred, 0, 255, cv2.THRESH_OTSU)
    background = float(blurred[blurred <= max(between, blurred.min())].mean())
    # Halfway to Otsu's threshold, because the outline is where the head begins, not where it is
    # bright.
    head = (blurred > (background + between) / 2).astype(np.uint8)
    outlines, _ = cv2.findContours(head, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    areas = [cv2.contourArea(outline) for outline in outlines]
    least = _SPECK * max(areas, default=0)
    parts = [outline for outline, area in zip(outlines, areas, strict=True) if area >= least]
    moments = cv2.moments(cv2.convexHull(np.concatenate(parts))) if parts else {"m00": 0}
    if moments["m00"] <= 0:
        sides = np.array(pixels.shape[::-1], np.float64)
        return (sides - 1) / 2, np.diag((sides / 4) ** 2), round(background)
    centre = np.array([moments["m10"], moments["m01"]]) / moments["m00"]
    mixed = moments["mu11"]
    covariance = np.array([[moments["mu20"], mixed], [mixed, moments["mu02"]]]) / moments["m00"]
    return centre, covariance, round(background)


def _tilt(head: Pixels) -> float:
    """The clockwise rotation of a square's axis of mirror symmetry, -90 to 90 degrees.

    In polar coordinates, mirroring reverses the angle: one autoconvolution along the angle compares
    a head with its mirror images at all axes.
    """
    middle = (len(head) - 1) / 2
    smooth = cv2.GaussianBlur(head, (0, 0), _BLUR * len(head))
    flags = cv2.INTER_LINEAR | cv2.WARP_FILL_OUTLIERS
    found = cv2.warpPolar(smooth, (_RINGS, _RAYS), (middle, middle), len(head) / 2, flags)
    polar = np.asarray(found, np.float64)
    # Points of outer rings stand for a larger area of the head.
    polar = (polar - polar.mean()) * np.sqrt(np.arange(_RINGS) + 0.5)
    spectrum = np.fft.rfft(polar, axis=0)
    alike = np.fft.irfft((spectrum**2).sum(axis=1), _RAYS)
    tilts = (np.arange(_RAYS) - _RAYS / 2) * 180 / _RAYS
    # A head without a clear axis counts as upright. Quarter turns must be clearer, because in some
    # heads the transverse axis is nearly as good.
    doubt = np.where(np.abs(tilts) > _UPRIGHT, _QUARTER, _LEANING * (tilts / _UPRIGHT) ** 2)
    best = int((alike - doubt * (polar**2).sum()).argmax())
    before, peak, after = alike[best - 1], alike[best], alike[(best + 1) % _RAYS]
    bend = before - 2 * peak + after
    # The maximum of a parabola through the three values.
    between = (before - after) / (2 * bend) if bend else 0
    return float(tilts[best] + between * 180 / _RAYS)


def _area(pixels: Pixels, side: int) -> Pixels:
    return np.asarray(cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA), np.uint8)


def _to_gray(image: Image.Image) -> Pixels:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.asarray(image, np.float64)
        if not np.isfinite(values).all():
            raise Unreadable("some pixels are not numbers")
        low, high = values.min(), values.max()
        scaled = np.rint((values - low) * (255 / (high - low))) if high > low else 0 * values
        return scaled.astype(np.uint8)
    if image.has_transparency_data:
        black = Image.new("RGBA", image.size, "black")
        opaque = Image.alpha_composite(black, image.convert("RGBA"))
        return np.array(opaque.convert("L"))
    # Through RGB, because not every mode converts directly to gray.
    return np.array((image if image.mode == "L" else image.convert("RGB")).convert("L"))
