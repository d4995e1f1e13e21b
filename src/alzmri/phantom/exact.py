"""Array operations and random numbers with the same bits on every machine.

IEEE 754 defines the result of ``+ - * /``, square root, floor and comparison to the last bit, and
integer sums do not depend on their order. Exponentials, trigonometry, floating-point sums and
matrix products do depend on the processor and the libraries, so this module uses none. The methods
of NumPy's ``Generator`` may change their streams between versions; NumPy's compatibility policy
(NEP 19) guarantees the raw words of PCG64 and the seeding through ``SeedSequence``.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.floating[Any]]
Volume = Floats
"""float32, shape (X, Y, Z), X from left to right, Y to the front, Z up, in voxels of 1 mm."""

_SUBVOXEL = 64
"""Positions are rounded to 1/64 voxel, so that a difference in the last bit moves no sample."""


class ExactRandom:
    """A stream of random numbers that depends only on ``key``."""

    def __init__(self, *key: int) -> None:
        self._words = np.random.PCG64(np.random.SeedSequence(key))

    def uniform(self) -> float:
        """One number, uniform in [0, 1), with the 24 bits of a float32's significand."""
        return (self._words.random_raw() >> 40) / 2.0**24

    def normal(self) -> float:
        """One number of mean 0 and variance 1; see :meth:`normals`."""
        return float(self.normals(1)[0])

    def normals(self, *shape: int) -> Floats:
        """Numbers of mean 0 and variance 1, nearly normal, within ±3.47.

        Each is the standardised sum of the four 16-bit parts of a word (the Irwin-Hall
        distribution). Its bounded tails prevent grotesque subjects.
        """
        words = self._words.random_raw(math.prod(shape)).astype("<u8")
        total = words.view("<u2").reshape(*shape, 4).sum(axis=-1, dtype=np.int32) - 2 * (2**16 - 1)
        return np.asarray(total * (math.sqrt(3) / 2**16), np.float32)


def box_blur(values: NDArray[np.integer], radius: int, passes: int = 2) -> NDArray[np.int64]:
    """Blur integers with a box of ``2 * radius + 1`` along every axis, ``passes`` times.

    It repeats edges outward and rounds quotients down, which is exact.
    """
    width = 2 * radius + 1
    blurred = values.astype(np.int64)
    for axis in [*range(values.ndim)] * passes:
        # SciPy sums in float64, which is exact for integers below 2**53.
        blurred = ndimage.correlate1d(blurred, np.ones(width), axis, mode="nearest") // width
    return blurred


def blur_fixed(values: NDArray[np.floating], radius: int, passes: int, scale: int) -> Volume:
    """Blur real numbers exactly, in fixed point with ``scale`` steps to one."""
    steps = np.round(values * scale).astype(np.int64)
    return box_blur(steps, radius, passes).astype(np.float32) / np.float32(scale)


def piecewise_linear(values: Floats, knots: Sequence[tuple[float, float]]) -> Floats:
    """Interpolate linearly between ``knots`` (x, y), constant beyond the ends."""
    mapped = np.full(values.shape, knots[0][1], np.float32)
    for (x0, y0), (x1, y1) in itertools.pairwise(knots):
        mapped += np.clip((values - x0) * (1 / (x1 - x0)), 0, 1) * (y1 - y0)
    return mapped


def central_difference(values: Floats, axis: int) -> Floats:
    """The slope along ``axis`` per sample, zero at the two borders."""
    slope = np.zeros_like(values)
    inner, source = np.moveaxis(slope, axis, 0), np.moveaxis(values, axis, 0)
    inner[1:-1] = (source[2:] - source[:-2]) * np.float32(0.5)
    return slope


def sample(channels: Floats, x: Floats, y: Floats, z: Floats) -> Floats:
    """Sample ``channels`` (X, Y, Z, C) at N voxel positions, trilinear and clamped, as (C, N)."""
    nx, ny, nz, _ = channels.shape
    fractions, cells = [], []
    for position, size in ((x, nx), (y, ny), (z, nz)):
        # Exclude the last voxel, so that the upper neighbour always exists.
        last = (size - 1) * _SUBVOXEL - 1
        steps = np.clip(np.floor(position * _SUBVOXEL + 0.5), 0, last).astype(np.int32)
        cells.append(steps >> 6)
        fractions.append(((steps & (_SUBVOXEL - 1)) / np.float32(_SUBVOXEL))[:, None])
    corner = (cells[0] * ny + cells[1]) * nz + cells[2]
    flat = channels.reshape(-1, channels.shape[-1])

    def edge(start: NDArray[np.int32]) -> Floats:
        low = np.take(flat, start, axis=0)
        return _mix(low, np.take(flat, start + 1, axis=0), fractions[2])

    near = _mix(edge(corner), edge(corner + nz), fractions[1])
    far = _mix(edge(corner + ny * nz), edge(corner + ny * nz + nz), fractions[1])
    return np.ascontiguousarray(_mix(near, far, fractions[0]).T)


def _mix(low: Floats, high: Floats, fraction: Floats) -> Floats:
    """``low + (high - low) * fraction``, in place of ``high``, for speed."""
    high -= low
    high *= fraction
    high += low
    return high


def bspline(t: Floats, knot: Callable[[int], Floats]) -> Floats:
    """A uniform cubic B-spline at the fraction ``t`` in [0, 1) of a cell, whose four knots are
    ``knot(0)`` to ``knot(3)``."""
    t2 = t * t
    t3 = t2 * t
    value = knot(0) * ((1 - 3 * t + 3 * t2 - t3) / np.float32(6))
    value += knot(1) * ((4 - 6 * t2 + 3 * t3) / np.float32(6))
    value += knot(2) * ((1 + 3 * t + 3 * t2 - 3 * t3) / np.float32(6))
    value += knot(3) * (t3 / np.float32(6))
    return value


def bspline_along(knots: Floats, axis: int, count: int, samples_per_knot: float) -> Floats:
    """Evaluate a cubic B-spline along ``axis`` at ``count`` samples, the first at knot 0."""
    position = (np.arange(count) / samples_per_knot).astype(np.float32)
    cell = np.floor(position).astype(np.int64)
    shape = [count if k == axis % knots.ndim else 1 for k in range(knots.ndim)]
    fraction = (position - cell.astype(np.float32)).reshape(shape)
    return bspline(fraction, lambda offset: np.take(knots, cell + offset, axis=axis))
