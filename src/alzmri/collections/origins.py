"""Where each image of a collection was published: an import merges what its source kept apart."""

import csv
import io
import os
import re
from collections import defaultdict
from pathlib import Path, PurePosixPath

from alzmri.data import images
from alzmri.errors import UserError

ORIGIN_FILE = "origin.csv"
"""In a collection's folder: columns ``path`` (relative to it) and ``origin`` (in the source)."""

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
