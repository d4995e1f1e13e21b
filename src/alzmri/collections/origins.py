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

_UPRIGHT = 3.0
"""Degrees: originals stand within 2.8 on the public collection, its copies within 15."""
_SOME_UPRIGHT, _ALL_UPRIGHT = 0.3, 0.95
"""Of the images of one size: from there on some, and all, are originals. Copies turned by up to 15
degrees stand upright by chance in one of five cases."""

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


def turned(
    codes: similarity.Codes, tilts: NDArray[np.float64], sizes: Sequence[tuple[int, int]]
) -> NDArray[np.int64]:
    """Which image each is a turned copy of; -1 for originals and where nothing tells.

    The originals of a release have one size, or a few, and their heads stand alike; copies are
    turned by degrees. So the images of a size in which all heads stand alike are no copies, those
    of other sizes are. Where there is no such size, those whose heads are turned by more than
    ``_UPRIGHT`` are. Copies that are not turned, or hardly, may be taken for originals.

    Args:
        codes: of ``n`` images, see :func:`similarity.encode`.
        tilts: ``[n]``, degrees.
        sizes: of each image in pixels.

    Returns:
        int64 ``[n]``.
    """
    original = np.full(len(codes), -1, np.int64)
    whole, some = np.zeros((2, len(codes)), bool)
    for size in set(sizes):
        mine = np.array([other == size for other in sizes])
        upright = mine & (np.abs(tilts - np.median(tilts[mine])) <= _UPRIGHT)
        if (share := upright.sum() / mine.sum()) >= _ALL_UPRIGHT:
            whole |= mine
        elif share >= _SOME_UPRIGHT:
            some |= upright
    known = whole if whole.any() else some
    found, alike, _ = similarity.nearest(codes[~known], codes[known], subjects.TWIN)
    if known.any():
        original[~known] = np.where(alike >= subjects.TWIN, np.flatnonzero(known)[found], -1)
    return original


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
