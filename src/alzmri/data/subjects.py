"""Who is on each image: as a table says, or as the pixels show.

Labels take no part in it: a person must be neither split nor kept together because of a class.
"""

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from alzmri.data import images
from alzmri.data.collection import printable
from alzmri.errors import UserError

SUBJECTS_FILE = "subjects.csv"
"""In a collection's folder: columns ``path`` (relative to it) and ``subject``."""

CUT = 0.985
"""Correlation of 32x32 thumbnails from which on two slices are of one person.

Measured on the public collection: adjacent slices of a person reach 0.989, slices of different
people almost always stay below 0.97, and every cut from 0.98 to 0.988 finds its people exactly.
"""

_BLOCK = 2048
"""Thumbnails compared at once: a block of correlations takes 32 MB, however many images."""

_FAULTS_SHOWN = 20

Thumbnails = NDArray[np.uint8]


def find(
    directory: Path,
    how: Literal["auto", "file", "pixels"],
    paths: Sequence[str],
    thumbnails: Thumbnails,
    sha256s: Sequence[str],
) -> list[str]:
    """The subject of each image of the collection in ``directory``.

    ``how`` is ``split.subjects``: from the table, from the pixels, or the table if there is one.
    Raises what :func:`from_file` raises.
    """
    if how == "pixels" or (how == "auto" and not has_table(directory)):
        return from_pixels(thumbnails, sha256s)
    return from_file(directory / SUBJECTS_FILE, paths)


def has_table(directory: Path) -> bool:
    """Whether ``directory`` says who is who; also if what it has there cannot be read."""
    return os.path.lexists(directory / SUBJECTS_FILE)


def from_file(file: Path, paths: Sequence[str]) -> list[str]:
    """The subject of each of ``paths``, as ``file`` lists them.

    Rows about other paths are allowed: an image may have been rejected since.

    Raises:
        UserError: no regular file, or one message with all faults and their lines: not a UTF-8
            CSV table with the columns, a path listed twice, an empty cell, an image that is not
            listed.
    """
    remedy = "(columns path,subject), or set split.subjects to pixels"
    if not os.path.lexists(file):
        raise UserError(f"{file} not found: add it {remedy}")
    try:
        table = images.read(file)
    except images.Unreadable as error:
        raise UserError(f"{file}: {error}; put a CSV file in its place {remedy}") from None
    return parse(table, str(file), paths)


def parse(table: bytes, name: str, paths: Sequence[str]) -> list[str]:
    """:func:`from_file` for a table in memory; ``name`` is what messages call it."""
    wanted = set(paths)
    subjects: dict[str, str] = {}
    lines: dict[str, int] = {}
    faults: list[str] = []
    try:
        # Spreadsheets begin UTF-8 with a byte order mark.
        reader = csv.DictReader(io.StringIO(table.decode("utf-8-sig"), newline=""), strict=True)
        if not {"path", "subject"} <= set(reader.fieldnames or ()):
            raise UserError(f"{name}: the first line must name the columns path,subject")
        for row in reader:
            path, subject = _listed_path(row["path"] or "", wanted), (row["subject"] or "").strip()
            if not (path and subject):
                faults.append(f"line {reader.line_num}: empty {'subject' if path else 'path'}")
            elif path in subjects:
                first = f"{printable(path)} is listed on line {lines[path]} too"
                faults.append(f"line {reader.line_num}: {first}")
            subjects.setdefault(path, subject)
            lines.setdefault(path, reader.line_num)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{name} is not a UTF-8 CSV table: {error}") from None
    faults += [f"{printable(path)} is not listed" for path in paths if path not in subjects]
    if faults:
        shown = [f"  {fault}" for fault in faults[:_FAULTS_SHOWN]]
        if len(faults) > len(shown):
            shown.append(f"  and {len(faults) - len(shown)} more")
        raise UserError("\n".join([f"{name} has {len(faults)} fault(s):", *shown]))
    return [subjects[path] for path in paths]


def _listed_path(cell: str, wanted: set[str]) -> str:
    """The one of ``wanted`` that ``cell`` means, else the cell in its plainest form."""
    tidy = str(PurePosixPath(cell.strip())) if cell.strip() else ""
    # A name may end in a space, and a hand may type one.
    return next((path for path in (cell, str(PurePosixPath(cell))) if path in wanted), tidy)


def from_pixels(thumbnails: Thumbnails, sha256s: Sequence[str], *, cut: float = CUT) -> list[str]:
    """The subject of each image, recognised by its anatomy.

    Two images whose thumbnails (uint8 ``[n, 32, 32]``, see :func:`images.thumbnail`) correlate
    at ``cut`` or more are linked; a subject is a connected component. It is called ``P`` and the
    first hexadecimal digits, 8 or as many as it takes, of the smallest ``sha256s`` among its
    images: neither names nor the order of files matter.
    """
    if not len(thumbnails):
        return []
    component = np.arange(len(thumbnails))
    for first in range(0, len(thumbnails), _BLOCK):
        rows = thumbnails[first : first + _BLOCK]
        for second in range(first, len(thumbnails), _BLOCK):
            linked = _correlated(rows, thumbnails[second : second + _BLOCK], cut)
            component = _joined(component, *(np.nonzero(linked) + np.array([[first], [second]])))
    smallest: dict[int, str] = {}
    for number, digest in zip(component.tolist(), sha256s, strict=True):
        smallest[number] = min(digest, smallest.get(number, digest))
    digits = 8
    while len({digest[:digits] for digest in smallest.values()}) < len(set(smallest.values())):
        digits += 1
    return [f"P{smallest[number][:digits]}" for number in component.tolist()]


def twins(
    thumbnails: Thumbnails,
    train: NDArray[np.bool_],
    test: NDArray[np.bool_],
    *,
    cut: float = CUT,
) -> int:
    """How many of the ``test`` images correlate with a ``train`` image at ``cut`` or more.

    Args:
        thumbnails: uint8 ``[n, 32, 32]``.
        train: ``[n]``, true for the training images.
        test: ``[n]``, true for the test images.
    """
    tested, trained = thumbnails[test], thumbnails[train]
    found = np.zeros(len(tested), bool)
    for first in range(0, len(tested), _BLOCK):
        rows = slice(first, first + _BLOCK)
        for second in range(0, len(trained), _BLOCK):
            linked = _correlated(tested[rows], trained[second : second + _BLOCK], cut)
            found[rows] |= linked.any(axis=1)
    return int(found.sum())


def _correlated(left: Thumbnails, right: Thumbnails, cut: float) -> NDArray[np.bool_]:
    """``[left, right]``: which pairs correlate at ``cut`` or more.

    Sums of products of the centred thumbnails are integers below 2**53, hence exact in float64
    in whatever order a machine adds them: a pair is linked everywhere or nowhere.
    """
    (rows, row_norms), (columns, column_norms) = _centred(left), _centred(right)
    return np.asarray(rows @ columns.T >= cut * np.outer(row_norms, column_norms))


def _centred(thumbnails: Thumbnails) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """float64 ``[n, pixels]``, each with its mean removed, times the number of pixels; norms."""
    flat = thumbnails.reshape(len(thumbnails), -1).astype(np.float64)
    centred = flat * flat.shape[1] - flat.sum(axis=1, keepdims=True)
    norms = np.sqrt((centred * centred).sum(axis=1))
    # A flat thumbnail correlates with nothing.
    return centred, np.where(norms == 0, np.inf, norms)


def _joined(
    component: NDArray[np.int64], rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> NDArray[np.int64]:
    """``component`` of each image after joining those of the images ``rows`` and ``columns``."""
    links = (np.ones(len(rows), bool), (component[rows], component[columns]))
    graph = coo_array(links, shape=(len(component), len(component)))
    _, merged = connected_components(graph, directed=False)
    return np.asarray(merged, np.int64)[component]
