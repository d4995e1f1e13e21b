"""The similarity of two slices, which separates subjects and ignores rotation and mirroring.

Plain correlation says little: all brains are similar, and two slices mostly share the height at
which they were cut. Whitening reduces what varies much across the collection, and emphasises what
is specific to a subject (as in whitened eigenfaces: Turk and Pentland, 1991; Belhumeur et al.,
1997). Slices of unrelated subjects then correlate near 0.

Thumbnails are upright (:func:`alzmri.data.images.thumbnail`) or upside down, and may be mirrored.
"""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

from alzmri.terminal import Update

Thumbnails = NDArray[np.uint8]
"""``[n, side, side]``, see :func:`alzmri.data.images.thumbnail`; ``side`` is even."""

Codes = NDArray[np.float32]
"""``[n, 2, side**2 / 2]``: whitened thumbnails of length ``_LENGTH``, as the parts that are even
and odd when left and right are swapped. All are whole numbers, whose products and sums are exact in
single precision: similarities depend neither on the processor nor on the order of sums."""

_LENGTH = 4000
"""Below the root of 2**24, even when each of 1,024 numbers was rounded."""

FLOOR = 0.2
"""Least correlation that counts: unrelated subjects often reach it, and a subject's neighbouring
slices are far above."""

_RIDGE = 0.001
"""Fraction of the largest variance that is added to each variance before whitening, because
directions below it are noise; one fraction per slice is added too. A larger one raises correlations
between copies of two subjects: up to 0.33 in an augmented release at 0.001, 0.37 at 0.003."""

_DOUBT = 0.2
"""Least cosine with the pattern common to all heads that shows which way is up. In the public
collection 1 slice in 100 is below it, some on the wrong side of 0."""

_CLEARLY = 0.1
"""Margin by which a doubtful slice must be more similar to the others when turned over."""

_BLOCK = 2048
"""Slices compared at once: a block of correlations takes 16 MB for any number of images."""

_MAX_EDGES = 4_000_000
"""Maximum number of edges before a merge into the forest, which then takes about 200 MB."""


class Forest(NamedTuple):
    """The maximum spanning forest of a collection, which suffices for single linkage: the images of
    each edge, int64 ``[edges]``, and their correlation, float64 ``[edges]``, ``FLOOR`` to 1."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    correlations: NDArray[np.float64]

    def components(self, images: int, cut: float) -> NDArray[np.int64]:
        """The number of each image's group, int64 ``[images]``, with links of at least ``cut``."""
        keep = self.correlations >= cut
        links = (np.ones(keep.sum(), bool), (self.first[keep], self.second[keep]))
        graph = coo_array(links, shape=(images, images))
        return np.asarray(connected_components(graph, directed=False)[1], np.int64)


def encode(thumbnails: Thumbnails) -> Codes:
    """Whiten thumbnails, to keep what distinguishes each slice from the others.

    Only codes of one call are comparable: encode a whole collection. A slice that is flat, or
    exactly the average, has a code of zeros and correlates with nothing.
    """
    thumbnails, doubtful = _one_way_up(thumbnails)
    mean, whitening = _whitening(thumbnails)
    codes = _codes(thumbnails, mean, whitening)
    over = _codes(thumbnails[doubtful, ::-1], mean, whitening)
    standing, turned = (nearest(way, codes[~doubtful], 1)[1] for way in (codes[doubtful], over))
    better = turned > standing + _CLEARLY
    codes[doubtful] = np.where(better[:, None, None], over, codes[doubtful])
    return codes


def _codes(
    thumbnails: Thumbnails, mean: NDArray[np.float64], whitening: NDArray[np.float64]
) -> Codes:
    side = thumbnails.shape[-1]
    codes = np.zeros((len(thumbnails), 2, side * side // 2), np.float32)
    for part in _blocks(len(thumbnails)):
        own = (_normalised(thumbnails[part]) - mean) @ whitening
        norms = np.linalg.norm(own, axis=1, keepdims=True)
        flat = np.ptp(thumbnails[part].reshape(len(own), -1), axis=1, keepdims=True) == 0
        # The rest of an average slice is only rounding.
        own = np.where(flat | (norms < 1e-6), 0, own / np.maximum(norms, 1e-6))
        square = own.reshape(-1, side, side)
        left, right = square[..., : side // 2], square[..., : side // 2 - 1 : -1]
        parts = np.stack([left + right, left - right], axis=1) * (_LENGTH / np.sqrt(2))
        codes[part] = np.rint(parts).reshape(len(own), 2, -1)
    return codes


def forest(codes: Codes, progress: Update | None = None) -> Forest:
    """The maximum spanning forest of all pairs that correlate at ``FLOOR`` or more. Time grows with
    the square of the number of slices, which ``progress`` counts; memory with the number itself."""
    count = len(codes)
    found = [Forest(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))]
    for rows in _blocks(count):
        for columns in _blocks(count, rows.start):
            alike = _correlations(codes[rows], codes[columns])
            if rows == columns:
                alike[np.tril_indices(len(alike))] = 0
            first, second = np.nonzero(alike >= FLOOR)
            # Rounding may give values above 1.
            correlations = np.minimum(alike[first, second].astype(np.float64), 1)
            found.append(Forest(first + rows.start, second + columns.start, correlations))
            if sum(len(some.first) for some in found) > _MAX_EDGES:
                found = [_spanning(found, count)]
        if progress:
            progress(rows.stop, count)
    return _spanning(found, count)


def nearest(
    queries: Codes, references: Codes, alike: float
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """For each query the first most similar reference (int64), their correlation (float64), and how
    many references correlate at ``alike`` or more (int64); -1, 0 and 0 without references."""
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


def _spanning(parts: Sequence[Forest], count: int) -> Forest:
    """The maximum spanning forest of the edges of all ``parts``, between ``count`` slices. An edge
    outside a part's forest is outside the whole one, so that parts can be reduced step by step."""
    first, second, correlations = map(np.concatenate, zip(*parts, strict=True))
    # 2 minus keeps all values above 0, because 0 means no edge to SciPy.
    edges = (2 - correlations, (first, second))
    kept = minimum_spanning_tree(coo_array(edges, shape=(count, count)).tocsr()).tocoo()
    rows, columns = (np.asarray(axis, np.int64) for axis in kept.coords)
    return Forest(rows, columns, 2 - kept.data)


def _blocks(count: int, start: int = 0) -> Iterator[slice]:
    for first in range(start, count, _BLOCK):
        yield slice(first, min(first + _BLOCK, count))


def _normalised(thumbnails: Thumbnails) -> NDArray[np.float64]:
    """Remove brightness and contrast: float64 ``[n, pixels]`` with mean 0 and length 1."""
    flat = thumbnails.reshape(len(thumbnails), thumbnails.shape[-1] ** 2).astype(np.float64)
    flat -= flat.mean(axis=1, keepdims=True)
    return np.asarray(flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-9))


def _whitening(thumbnails: Thumbnails) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean ``[pixels]`` and symmetric whitening ``[pixels, pixels]`` of the slices and their flips,
    so that whitening a mirrored slice mirrors the whitened slice."""
    side = thumbnails.shape[-1]
    total = np.zeros(side * side)
    products = np.zeros((side * side, side * side))
    for part in _blocks(len(thumbnails)):
        normalised = _normalised(thumbnails[part])
        total += normalised.sum(axis=0)
        products += normalised.T @ normalised
    pixels = np.arange(side * side).reshape(side, side)
    views = (pixels, pixels[:, ::-1], pixels[::-1], pixels[::-1, ::-1])
    orders = [view.ravel() for view in views]
    count = max(1, len(thumbnails))
    mean = np.mean([total[order] for order in orders], axis=0) / count
    covariance = np.mean([products[np.ix_(order, order)] for order in orders], axis=0) / count
    variances, directions = np.linalg.eigh(covariance - np.outer(mean, mean))
    variances = np.maximum(variances, 0)
    ridge = (_RIDGE + 1 / count) * variances[-1]
    weights = 1 / np.sqrt(variances + max(ridge, 1e-12))
    return mean, np.asarray((directions * weights) @ directions.T)


def _one_way_up(thumbnails: Thumbnails) -> tuple[Thumbnails, NDArray[np.bool_]]:
    """Turn over the thumbnails that are upside down; also bool ``[n]``: which are doubtful.

    Front and back differ in the same way in all heads: the sign of the first principal component of
    the part that is odd when up and down are swapped gives the direction.
    """
    side = thumbnails.shape[-1]
    heads = _normalised(thumbnails).reshape(-1, side, side)
    heads = (heads + heads[..., ::-1])[..., : side // 2]
    below = heads[:, : side // 2 - 1 : -1]
    odd = (heads[:, : side // 2] - below).reshape(len(heads), (side // 2) ** 2)
    signs = odd @ np.linalg.eigh(odd.T @ odd)[1][:, -1]
    signs *= 1 if signs.sum() >= 0 else -1
    doubtful = np.abs(signs) < _DOUBT * np.linalg.norm(odd, axis=1)
    return np.where((signs < 0)[:, None, None], thumbnails[:, ::-1], thumbnails), doubtful


def _correlations(left: Codes, right: Codes) -> NDArray[np.float32]:
    """The higher correlation of each pair with and without mirroring, ``[left, right]``.
    Mirroring only changes the sign of the odd part."""
    even, odd = (left[:, part] @ right[:, part].T for part in range(2))
    np.abs(odd, out=odd)
    even += odd
    even /= np.float32(_LENGTH**2)
    return np.asarray(even)
