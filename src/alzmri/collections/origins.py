"""Where each image of a collection was published: an import merges what its source kept apart."""

import csv
import io
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from alzmri.data import images, similarity, subjects
from alzmri.errors import UserError

ORIGIN_FILE = "origin.csv"
"""In a collection's folder: columns ``path`` (relative to it), ``origin`` (in the source) and
``copy_of``, the path of the image that it is a turned, mirrored or brightened copy of."""

_COMPLETE = 0.9
"""Of the other images, at least so many have a near-duplicate among originals: on the public
collection 0.97, among half of it 0.86, among the 601 upright copies of 3,738 turned ones 0.65."""
_CLOSE = 0.9
"""Similarity that half of the copies or more have to an original: 0.95 on the public collection,
whose neighbouring slices have 0.88."""
_SAME = 0.95
"""Similarity from which on two images show one slice, not its neighbour."""
_REPEATED = 0.05
"""Of originals, at most so many show the slice of another: none does on the public collection, 0.75
of turned copies do."""
_COMMON = 0.01
"""Of all images: fewer are neither the originals nor the copies of the others."""
_TRIED = 500
"""Images that say how many of thousands do."""

_PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def find(directory: Path) -> dict[str, list[str]]:
    """The origins of each path of the collection in ``directory``; empty where none are kept.

    There are several where the source had several copies of an image.

    Raises:
        UserError: what is there cannot be read, or is no such table.
    """
    file = directory / ORIGIN_FILE
    if not os.path.lexists(file):
        return {}
    try:
        return parse(images.read(file), str(file))
    except images.Unreadable as error:
        raise UserError(f"{file}: {error}; remove it, or import the collection again") from None


def turned(codes: similarity.Codes, sizes: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """Which image each is a turned, mirrored, brightened or resized copy of.

    Originals have a size of their own, show each slice once, and nearly all images of other sizes
    have a near-duplicate among them, most of them a close one. Where no size is like that, nothing
    is said: part of an augmented release has too few originals, or none.

    Args:
        codes: of ``n`` images, see :func:`similarity.encode`.
        sizes: of each image in pixels.

    Returns:
        int64 ``[n]``; -1 for originals, images without one, and where nothing is said.
    """
    original = np.full(len(codes), -1, np.int64)
    kinds, kind = np.unique(np.array(sizes).reshape(-1, 2), axis=0, return_inverse=True)
    # Largest first: copies of the whole collection may be as complete, but have no more detail.
    for number in np.argsort(-kinds.prod(axis=1), kind="stable"):
        mine = kind.ravel() == number
        ours, others = codes[mine], codes[~mine]
        if not len(others) or min(len(ours), len(others)) < _COMMON * len(codes):
            continue
        _, _, same = similarity.nearest(_some(ours), ours, _SAME)
        _, best, alike = similarity.nearest(_some(others), ours, subjects.NEAR_DUPLICATE)
        repeated, complete = (same > 1).mean(), (alike > 0).mean()
        if repeated <= _REPEATED and complete >= _COMPLETE and np.median(best) >= _CLOSE:
            found, _, alike = similarity.nearest(others, ours, subjects.NEAR_DUPLICATE)
            original[~mine] = np.where(alike > 0, np.flatnonzero(mine)[found], -1)
            break
    return original


def _some(codes: similarity.Codes) -> similarity.Codes:
    """``_TRIED`` of them, evenly spread."""
    count = len(codes)
    return codes[np.linspace(0, count - 1, min(count, _TRIED)).astype(np.int64)]


def copies(directory: Path) -> dict[str, str]:
    """The original of each turned copy in ``directory``, by path, as its import noted them."""
    file = directory / ORIGIN_FILE
    if not os.path.lexists(file):
        return {}
    rows = csv.DictReader(io.StringIO(images.read(file).decode("utf-8-sig"), newline=""))
    return {row["path"]: row["copy_of"] for row in rows if row.get("copy_of")}


def parse(table: bytes, name: str) -> dict[str, list[str]]:
    """:func:`find` for a table in memory; ``name`` is what messages call it."""
    try:
        reader = csv.DictReader(io.StringIO(table.decode("utf-8-sig"), newline=""), strict=True)
        if not {"path", "origin"} <= set(reader.fieldnames or ()):
            raise UserError(
                f"{name}: the first line must name the columns path,origin; rename the file if it "
                "is no table of where images come from"
            )
        origins: defaultdict[str, list[str]] = defaultdict(list)
        for row in reader:
            origins[row["path"] or ""].append(row["origin"] or "")
        return dict(origins)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{name} is not a UTF-8 CSV table: {error}") from None


def part(origin: str) -> str | None:
    """The part that an image was published in: ``train``, ``val``, ``test``, or None.

    The nearest folder above it whose name says so, in any case, decides; so does a parquet file's
    name, such as ``train-00000-of-00001.parquet``.
    """
    for folder in reversed(PurePosixPath(origin).parts[:-1]):
        name = re.sub(r"(-\d+-of-\d+\S*)?\.parquet$", "", folder.lower())
        if name in _PARTS:
            return _PARTS[name]
    return None
