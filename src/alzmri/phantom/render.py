"""Render one axial T1-weighted slice of a subject, like a scanner.

The order is that of nature: pose and shape of the head, displaced ventricles, folded cortex, deep
structures, then receive field, point spread and noise of the scanner.
"""

from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from alzmri.phantom import exact
from alzmri.phantom.anatomy import FOLD_CENTRE, FOLD_STEP, Lattice, SimulatedSubject
from alzmri.phantom.exact import ExactRandom
from alzmri.phantom.mni import ORIGIN, Maps

HEIGHT, WIDTH = 208, 176
"""Size of a slice in pixels of 1 mm, as in the public collection."""

_MARGIN = 8
"""Width of the border in pixels, which no brain reaches and which stays zero."""
_WINDOW = (slice(_MARGIN, -_MARGIN), slice(_MARGIN, -_MARGIN))
_ROWS, _COLUMNS = HEIGHT - 2 * _MARGIN, WIDTH - 2 * _MARGIN

# Offsets from the centre of the image in mm: x to the right; y to the front, which is down.
_Y, _X = np.indices((_ROWS, _COLUMNS), np.float32).reshape(2, -1)
_Y, _X = _Y - (_ROWS - 1) / 2, _X - (_COLUMNS - 1) / 2
_INSIDE = np.flatnonzero((_X / 80) * (_X / 80) + (_Y / 96) * (_Y / 96) < 1)
"""Pixels of the window that can be brain."""

_LATTICE_FLOOR = -4.0
"""Height of the lattices' first knot, mm."""

_BRAIN_CENTRE = (0.0, -17.0, -2.0)
_BRAIN_HALF_AXES = (70.0, 88.0, 66.0)
"""Half axes of the ellipsoid around the template's brain, mm."""

_WHITE_LEVEL, _BRIGHTEST = 245, 250
"""Grey levels of intensity 1, and of the brightest pixel."""

_T = TypeVar("_T", bound=np.generic)

Pixels = NDArray[np.floating[Any]]
"""float32, shape (N,): one value per pixel of ``_INSIDE``."""


class _Plane(NamedTuple):
    """Positions of the slice's pixels in the template, mm, and the local depth of sulci."""

    x: Pixels
    y: Pixels
    z: Pixels
    sulcal_depth: Pixels


class _Tissue(NamedTuple):
    """The template at each pixel, after the ventricles have widened; see :class:`Maps`."""

    intensity: Pixels
    deep: Pixels
    sulcus: Pixels
    depth: Pixels
    wall: Pixels


def render_slice(
    maps: Maps, subject: SimulatedSubject, height: float, random: ExactRandom
) -> NDArray[np.uint8]:
    """Draw the slice at ``height`` mm above the anterior commissure; ``random`` is its noise.

    uint8, shape (``HEIGHT``, ``WIDTH``), front of the head down, background exactly zero.
    """
    plane = _plane(subject, height)
    tissue = _widen_ventricles(maps, subject, plane)
    folds = _distance_to_folds(subject, plane, tissue.depth)
    image = _cortex(subject, plane, tissue, folds)
    image += (_deep_structures(subject, tissue.intensity) - image) * tissue.deep
    image += (subject.csf - image) * np.clip(0.5 - tissue.wall, 0, 1)
    image += (subject.grey - image) * _septum(subject, plane)
    near = np.clip(1 - tissue.wall / 9, 0, 1) * np.clip(tissue.wall, 0, 1)
    image *= 1 - subject.leukoaraiosis * near
    image *= 1 + 0.02 * plane.sulcal_depth
    image *= _receive_field(subject, plane, height)
    return _acquire(image, tissue.depth > 0, subject.noise, random)


def _plane(subject: SimulatedSubject, height: float) -> _Plane:
    level = height - _LATTICE_FLOOR
    warps = [_cross_section(lattice, level) for lattice in subject.warps]
    dx, dy, dz = ((coarse + fine).reshape(-1)[_INSIDE] for coarse, fine in zip(*warps, strict=True))
    across = _X[_INSIDE] / np.float32(subject.scale_x)
    along = _Y[_INSIDE] / np.float32(subject.scale_y)
    # Cosine and sine of a small angle to second order: exact arithmetic, no trigonometry.
    cosine, sine = 1 - subject.roll * subject.roll / 2, subject.roll
    tilt = subject.slope_x * across + subject.slope_y * along
    return _Plane(
        x=cosine * across - sine * along + subject.shift_x + dx,
        y=sine * across + cosine * along + subject.shift_y + dy,
        z=height + subject.shift_z + tilt + 0.8 * dz,
        sulcal_depth=_cross_section(subject.sulcal_depth, level).reshape(-1)[_INSIDE],
    )


def _cross_section(lattice: Lattice, level: float) -> NDArray[np.float32]:
    """The field at ``level`` mm above its floor: shape (..., rows, columns)."""
    cell = int(level // lattice.spacing)
    fraction = np.full(1, level / lattice.spacing - cell, np.float32)
    flat = exact.bspline(fraction, lambda offset: lattice.knots[..., cell + offset])
    rows = exact.bspline_along(flat, -2, _ROWS, lattice.spacing)
    return exact.bspline_along(rows, -1, _COLUMNS, lattice.spacing)


def _widen_ventricles(maps: Maps, subject: SimulatedSubject, plane: _Plane) -> _Tissue:
    """Pull the template outward from the ventricles, each side and end by its own amount."""
    x, y, z = (p + np.float32(o) for p, o in zip(plane[:3], ORIGIN, strict=True))
    *motion, wall = exact.sample(maps.motion, x, y, z)
    side = 1 + subject.ventricle_right * np.clip(plane.x / 20, -1, 1)
    end = 1 + subject.ventricle_front * np.clip((plane.y + 12) / 30, -1, 1)
    shift = subject.ventricle * side * end
    moved = [p - shift * m for p, m in zip((x, y, z), motion, strict=True)]
    tissue = _Tissue(*exact.sample(maps.tissue, *moved))
    # The pull can overshoot a narrow ventricle and end behind its opposite wall, so everything that
    # the wall has passed is ventricle.
    passed = np.sqrt(sum(m * m for m in motion)) * shift
    return tissue._replace(wall=np.minimum(tissue.wall, wall - passed))


def _distance_to_folds(subject: SimulatedSubject, plane: _Plane, depth: Pixels) -> Pixels:
    """Distance in mm, within the slice, to the nearest sulcus of the subject's own folding.

    A sulcus is the zero surface of a random field, down to a depth that varies over the head. The
    fields are read at positions pulled toward a shell, so that sulci run inward from the hull.
    """
    from_centre = [p - np.float32(c) for p, c in zip(plane[:3], _BRAIN_CENTRE, strict=True)]
    x, y, z = (p / np.float32(a) for p, a in zip(from_centre, _BRAIN_HALF_AXES, strict=True))
    radius = np.sqrt(x * x + y * y + z * z) + np.float32(1e-3)
    pull = (0.5 + 0.5 * radius) / radius / np.float32(FOLD_STEP * subject.fold_scale)
    fields = exact.sample(
        subject.folds, *(axis * pull + np.float32(FOLD_CENTRE) for axis in from_centre)
    )
    floors = (22 + 6 * plane.sulcal_depth, 13 - 4 * plane.sulcal_depth)
    nearest = np.full(depth.shape, np.inf, np.float32)
    for field, floor, flattest in zip(fields, floors, (0.035, 0.05), strict=True):
        window = _on_window(field)
        slopes = [exact.central_difference(window, axis).reshape(-1)[_INSIDE] for axis in (0, 1)]
        steepness = np.sqrt(slopes[0] * slopes[0] + slopes[1] * slopes[1])
        aside = np.abs(field) / np.maximum(steepness, flattest)
        below = np.maximum(depth - floor, 0)
        nearest = np.minimum(nearest, np.sqrt(aside * aside + below * below))
    return nearest


def _cortex(subject: SimulatedSubject, plane: _Plane, tissue: _Tissue, folds: Pixels) -> Pixels:
    """CSF, grey and white matter by the distance from the nearest sulcus or the rim."""
    rim = np.maximum(tissue.depth - subject.rim, 0)
    distance = np.minimum(np.minimum(folds, tissue.sulcus), rim)
    local = 1 + 0.5 * np.clip(plane.sulcal_depth, -1.5, 1.5)
    # Sulci open toward the surface.
    half_width = subject.sulcus * (local + 0.02 * np.maximum(20 - tissue.depth, 0))
    csf = np.clip((half_width + 1 - distance) * 0.5, 0, 1)
    white = np.clip((distance - half_width - subject.cortex + 1.2) * 0.42, 0, 1)
    inner = subject.grey + (subject.white - subject.grey) * white
    cortex: Pixels = inner + (subject.csf + 0.02 - inner) * csf
    return cortex


def _deep_structures(subject: SimulatedSubject, intensity: Pixels) -> Pixels:
    """The template's intensity (CSF 0.1, grey 0.6, white 1) in the subject's tissue values."""
    dark = subject.csf + (intensity - 0.1) * ((subject.grey - subject.csf) / 0.5)
    bright = subject.grey + (intensity - 0.6) * ((subject.white - subject.grey) / 0.4)
    return np.where(intensity < 0.6, dark, bright)


def _septum(subject: SimulatedSubject, plane: _Plane) -> Pixels:
    """Weight of the septum pellucidum and fornix: a thin sheet on the midline."""
    x, y, z, _ = plane
    sheet: Pixels = np.clip((0.9 - np.abs(x + 5 * subject.ventricle_right)) * 1.2, 0, 1)
    for inside in ((z - 6) * 0.3, (27 - z) * 0.3, (y + 30) * 0.2, (24 - y) * 0.2):
        sheet = sheet * np.clip(inside, 0, 1)
    return 0.85 * sheet


def _receive_field(subject: SimulatedSubject, plane: _Plane, height: float) -> Pixels:
    """Smooth shading by the coil, times the scanner's gain."""
    x, y = plane.x / _BRAIN_HALF_AXES[0], (plane.y - _BRAIN_CENTRE[1]) / _BRAIN_HALF_AXES[1]
    terms = (x, y, x * x - 0.3, y * y - 0.3, x * y)
    field = np.full(x.shape, 1 + subject.bias[5] * (height / 30 - 0.5), np.float32)
    for coefficient, term in zip(subject.bias, terms, strict=False):
        field += coefficient * term
    return field * subject.gain


def _acquire(
    image: Pixels, brain: NDArray[np.bool_], sigma: float, random: ExactRandom
) -> NDArray[np.uint8]:
    """Point spread, Rician noise correlated as in resampled scans, skull stripping, 8 bits."""
    real = _smooth(_on_window(image), 3)
    # Smoothing with [1 4 1] along both axes halves the noise's standard deviation.
    noise = [_smooth(random.normals(_ROWS, _COLUMNS), 4) * (2 * sigma) for _ in range(2)]
    real += noise[0]
    magnitude = np.sqrt(real * real + noise[1] * noise[1])
    levels = np.floor(np.clip(magnitude * _WHITE_LEVEL, 0, _BRIGHTEST) + 0.5)
    picture = np.zeros((HEIGHT, WIDTH), np.uint8)
    picture[_WINDOW] = np.where(_on_window(brain), levels, 0).astype(np.uint8)
    return picture


def _on_window(pixels: NDArray[_T]) -> NDArray[_T]:
    """Put values of ``_INSIDE`` into the window (rows, columns), zero elsewhere."""
    window = np.zeros(_ROWS * _COLUMNS, pixels.dtype)
    window[_INSIDE] = pixels
    return window.reshape(_ROWS, _COLUMNS)


def _smooth(window: NDArray[np.float32], centre: int) -> NDArray[np.float32]:
    """Convolve rows and columns with [1 ``centre`` 1] / (``centre`` + 2); borders stay."""
    smooth = window.copy()
    for lines in (smooth, smooth.T):
        lines[1:-1] = (lines[:-2] + lines[1:-1] * centre + lines[2:]) / np.float32(centre + 2)
    return smooth
