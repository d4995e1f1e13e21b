"""How alike two slices are, for telling people apart: the same for a flipped or turned copy.

Plain correlation says little: all brains look alike, and most of what two slices share is the
height at which they were cut. Here every thumbnail is whitened first: what varies much across the
collection counts less, what is a person's own counts more (as in whitened eigenfaces: Turk and
Pentland, 1991; Belhumeur et al., 1997). Slices of unrelated people then correlate near 0.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import minimum_spanning_tree

Thumbnails = NDArray[np.uint8]
"""``[n, side, side]``, see :func:`alzmri.data.images.thumbnail`; ``side`` is even."""

Codes = NDArray[np.float32]
"""``[n, 4, side**2 / 4]``: whitened thumbnails of length 1, as their parts that are even or odd
under a flip: (up-down, left-right) even-even, even-odd, odd-even, odd-odd."""

FLOOR = 0.2
"""Correlations below it are never looked at: unrelated people often reach it, a person's
neighbouring slices stay far above."""

_RIDGE = 0.003
"""Share of the largest variance that is added to each before whitening by it: the directions
below hold noise. From 0.001 to 0.01 the public collection's people are told apart alike. One share
per slice is added to that: a variance of few slices is not known any better."""

_BLOCK = 2048
"""Slices compared at once: a block of correlations takes 16 MB, however many images."""

_MAX_EDGES = 4_000_000
"""Found before they are merged into the forest: about 200 MB with what the merging takes."""


@dataclass(frozen=True)
class Forest:
    """The maximum spanning forest of a collection: what single linkage needs to know.

    Attributes:
        first, second: int64 ``[edges]``, the images of each edge; fewer edges than images.
        correlations: float64 ``[edges]``, ``FLOOR`` to 1.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    correlations: NDArray[np.float64]


def encode(thumbnails: Thumbnails) -> Codes:
    """What is each slice's own, compared with what all of them share.

    Only codes that were made together can be correlated: encode the whole collection to get
    numbers that do not depend on how it is split. A slice that is flat, or exactly the average,
    has a code of zeros and correlates with nothing.
    """
    side = thumbnails.shape[-1]
    codes = np.zeros((len(thumbnails), 4, side * side // 4), np.float32)
    mean, whitening = _whitening(thumbnails)
    for part in _blocks(len(thumbnails)):
        own = (_normalised(thumbnails[part]) - mean) @ whitening
        norms = np.linalg.norm(own, axis=1, keepdims=True)
        flat = np.ptp(thumbnails[part].reshape(len(own), -1), axis=1, keepdims=True) == 0
        # What remains of the average itself is rounding.
        own = np.where(flat | (norms < 1e-6), 0, own / np.maximum(norms, 1e-6))
        codes[part] = _parts(own.reshape(-1, side, side))
    return codes


def forest(codes: Codes) -> Forest:
    """The maximum spanning forest of all pairs that correlate at ``FLOOR`` or more.

    Time grows with the square of the number of slices; memory with the number itself.
    """
    count = len(codes)
    found: list[Forest] = []
    for rows in _blocks(count):
        for columns in _blocks(count, rows.start):
            alike = _correlations(codes[rows], codes[columns])
            if rows == columns:
                alike[np.tril_indices(len(alike))] = 0
            first, second = np.nonzero(alike >= FLOOR)
            # Rounding may reach above 1.
            correlations = np.minimum(alike[first, second].astype(np.float64), 1)
            found.append(Forest(first + rows.start, second + columns.start, correlations))
            if sum(len(some.first) for some in found) > _MAX_EDGES:
                found = [_spanning(found, count)]
    return _spanning(found, count)


def nearest(
    queries: Codes, references: Codes, alike: float
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """For each query the first most similar reference, their correlation, and how many are alike.

    From ``alike`` on a reference is counted.

    Returns:
        int64, float64 and int64 ``[queries]``; -1, 0 and 0 if there are no references.
    """
    indices = np.full(len(queries), -1, np.int64)
    best = np.full(len(queries), -np.inf)
    counts = np.zeros(len(queries), np.int64)
    for rows, columns in product(_blocks(len(queries)), _blocks(len(references))):
        correlations = _correlations(queries[rows], references[columns])
        counts[rows] += (correlations >= alike).sum(axis=1)
        where = correlations.argmax(axis=1)
        value = correlations[np.arange(len(where)), where]
        better = value > best[rows]
        indices[rows] = np.where(better, where + columns.start, indices[rows])
        best[rows] = np.where(better, value, best[rows])
    return indices, np.where(indices < 0, 0.0, np.minimum(best, 1)), counts


def _spanning(parts: list[Forest], count: int) -> Forest:
    """The maximum spanning forest of the edges of all ``parts``, between ``count`` slices.

    An edge that a part of all edges does without, all edges do without: parts may be reduced
    one after the other.
    """
    none = np.empty(0, np.int64)
    first = np.concatenate([none, *(part.first for part in parts)])
    second = np.concatenate([none, *(part.second for part in parts)])
    # Above 0 for every pair: to SciPy 0 is no edge.
    distances = 2 - np.concatenate([none, *(part.correlations for part in parts)])
    graph = coo_array((distances, (first, second)), shape=(count, count)).tocsr()
    kept = minimum_spanning_tree(graph).tocoo()
    rows, columns = (np.asarray(axis, np.int64) for axis in kept.coords)
    return Forest(rows, columns, 2 - kept.data)


def _blocks(count: int, start: int = 0) -> Iterator[slice]:
    for first in range(start, count, _BLOCK):
        yield slice(first, min(first + _BLOCK, count))


def _normalised(thumbnails: Thumbnails) -> NDArray[np.float64]:
    """float64 ``[n, pixels]`` of mean 0 and length 1: brightness and contrast are gone."""
    flat = thumbnails.reshape(len(thumbnails), -1).astype(np.float64)
    flat -= flat.mean(axis=1, keepdims=True)
    return np.asarray(flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-9))


def _whitening(thumbnails: Thumbnails) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean ``[pixels]`` and symmetric whitening ``[pixels, pixels]`` of the slices.

    Of the slices and all their flips and quarter turns: then whitening a flipped slice is
    flipping the whitened one.
    """
    side = thumbnails.shape[-1]
    total = np.zeros(side * side)
    products = np.zeros((side * side, side * side))
    for part in _blocks(len(thumbnails)):
        normalised = _normalised(thumbnails[part])
        total += normalised.sum(axis=0)
        products += normalised.T @ normalised
    orders = _symmetries(side)
    count = max(1, len(thumbnails))
    mean = np.mean([total[order] for order in orders], axis=0) / count
    covariance = np.mean([products[np.ix_(order, order)] for order in orders], axis=0) / count
    variances, directions = np.linalg.eigh(covariance - np.outer(mean, mean))
    variances = np.maximum(variances, 0)
    ridge = (_RIDGE + 1 / count) * variances[-1]
    weights = 1 / np.sqrt(variances + max(ridge, 1e-12))
    return mean, np.asarray((directions * weights) @ directions.T)


def _symmetries(side: int) -> list[NDArray[np.int64]]:
    """The orders of pixels that the eight flips and quarter turns of a square make."""
    square = np.arange(side * side).reshape(side, side)
    turned = [np.rot90(view, turns) for view in (square, square.T) for turns in range(4)]
    return [view.ravel() for view in turned]


def _parts(square: NDArray[np.float64]) -> Codes:
    """:data:`Codes` of float ``[n, side, side]``; products of codes are those of the squares."""
    half = square.shape[-1] // 2
    top, bottom = square[:, :half], square[:, : half - 1 : -1]
    parts = []
    for vertical in (top + bottom, top - bottom):
        left, right = vertical[..., :half], vertical[..., : half - 1 : -1]
        parts += [left + right, left - right]
    return (np.stack(parts, axis=1) / 2).reshape(len(square), 4, -1).astype(np.float32)


def _correlations(left: Codes, right: Codes) -> NDArray[np.float32]:
    """``[left, right]``: of each pair's eight flips and quarter turns the best correlation.

    A flip changes the sign of the odd parts alone, so four products of the parts give all flips;
    four more, with ``right`` transposed, the quarter turns. Single precision is off by 1e-6, and
    people are told apart by a gap of 0.1 or more.
    """
    count, _, size = right.shape
    half = int(np.sqrt(size))
    # Transposed, odd left-right becomes odd up-down.
    turned = right.reshape(count, 4, half, half).swapaxes(2, 3)[:, [0, 2, 1, 3]]
    return np.maximum(_flipped(left, right), _flipped(left, turned.reshape(right.shape)))


def _flipped(left: Codes, right: Codes) -> NDArray[np.float32]:
    """The best of the four flips: ``a+b+c+d``, ``a-b+c-d``, ``a+b-c-d``, ``a-b-c+d``."""
    a, b, c, d = (left[:, part] @ right[:, part].T for part in range(4))
    return np.asarray(a + np.maximum(c + np.abs(b + d), np.abs(b - d) - c))
