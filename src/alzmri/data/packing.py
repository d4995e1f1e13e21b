"""From a collection of files to ``data/prepared``: judged, resized, assigned, packed."""

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import write_array_header_1_0
from numpy.typing import NDArray

from alzmri.classes import MERGES, merged
from alzmri.data import collection, images, similarity, splits, subjects
from alzmri.data.canary import shuffled
from alzmri.data.collection import Collection
from alzmri.data.prepared import PARTS, Row, relevant, write_manifest
from alzmri.data.similarity import Forest
from alzmri.data.subjects import People
from alzmri.files import write_json
from alzmri.params import Data, Params
from alzmri.terminal import Update


@dataclass(frozen=True)
class Packed:
    """What became of a collection.

    Attributes:
        rows: the manifest.
        collection: the files used, and those rejected.
        people: who is on each image, in the order of ``rows``.
        links: how similar the images are.
        twins: test images that have a near-identical slice among the training images.
    """

    rows: list[Row]
    collection: Collection
    people: People
    links: Forest
    twins: int


def pack(source: Path, directory: Path, params: Params, progress: Update) -> Packed:
    """Write ``images.npy``, ``manifest.csv``, ``rejected.csv``, ``params.json``, ``summary.json``.

    Raises:
        subjects.Unclear: when the pixels are to tell who is who, and do not.
        UserError: when the collection cannot be used, or cannot be split as ``params`` say.
    """
    found, thumbnails = _pack_images(source, directory, params.data, progress)
    collection.write_rejected(directory / "rejected.csv", found.rejected)
    paths = [entry.path for entry in found.entries]
    hashes = [entry.sha256 for entry in found.entries]
    labels = [MERGES[params.data.merge].get(entry.label, entry.label) for entry in found.entries]

    codes = similarity.encode(thumbnails)
    links = similarity.forest(codes)
    people = subjects.find(source, params.split.subjects, paths, hashes, lambda: links)
    if params.data.shuffle_labels:
        labels = shuffled(labels, people.names, params.split.seed)
    groups = people.names if params.split.unit == "subject" else hashes
    parts = splits.assign(labels, groups, params.split)

    columns = (range(len(paths)), paths, labels, people.names, parts, hashes)
    rows = [Row(*row) for row in zip(*columns, strict=True)]
    write_manifest(directory / "manifest.csv", rows)
    write_json(directory / "params.json", relevant(params))
    which = np.array(parts)
    twins = subjects.twins(codes, which == "train", which == "test")
    packed = Packed(rows, found, people, links, twins)
    write_json(directory / "summary.json", summary(packed, params.data.merge))
    return packed


def _pack_images(
    source: Path, directory: Path, data: Data, progress: Update
) -> tuple[Collection, NDArray[np.uint8]]:
    """Write ``images.npy`` (uint8 ``[n, side, side]``); return the files and their thumbnails."""
    size = data.image_size**2
    thumbnails: dict[int, NDArray[np.uint8]] = {}
    # How many files are images is known only at the end, so each goes to its own place in a
    # sparse file, from whichever thread decoded it; the good ones are then moved together.
    unsorted = directory / "images.raw"
    file = os.open(unsorted, os.O_RDWR | os.O_CREAT, 0o600)

    def keep(position: int, pixels: NDArray[np.uint8]) -> None:
        fitted = images.fit(pixels, data.image_size, data.fit)
        if os.pwrite(file, fitted.tobytes(), position * size) < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(unsorted))
        thumbnails[position] = images.thumbnail(pixels)

    try:
        found = collection.read(source, consume=keep, progress=progress)
        collection.require(found, data.max_rejected)
        _write_images(directory / "images.npy", file, found, data.image_size)
    finally:
        os.close(file)
        unsorted.unlink()
    return found, np.stack([thumbnails[entry.index] for entry in found.entries])


def _write_images(path: Path, file: int, found: Collection, side: int) -> None:
    """Copy the images of ``found`` from their places in ``file``, in the order of the manifest."""
    # Written, not mapped: on a full disk a write fails with a message, a mapped page with SIGBUS.
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(found.entries), side, side)}
    with path.open("wb") as packed:
        write_array_header_1_0(packed, header)
        for entry in found.entries:
            packed.write(os.pread(file, side * side, entry.index * side * side))


def summary(packed: Packed, merge: str) -> dict[str, Any]:
    """The content of ``data/prepared/summary.json``."""
    rows, rejected, gap = packed.rows, packed.collection.rejected, packed.people.gap
    return {
        "classes": merged(merge),
        "images": len(rows),
        "subjects": len({row.subject for row in rows}),
        "people": {
            "from": "pixels" if gap else "file",
            "cut": round(gap.cut, 3) if gap else None,
            "gap": [round(gap.low, 3), round(gap.high, 3)] if gap else None,
        },
        "rejected": len(rejected),
        "duplicates": sum(item.duplicate for item in rejected),
        "converted": sum(entry.converted is not None for entry in packed.collection.entries),
        "split": {
            part: {
                label: {
                    "images": sum(1 for row in rows if (row.split, row.label) == (part, label)),
                    "subjects": len(
                        {row.subject for row in rows if (row.split, row.label) == (part, label)}
                    ),
                }
                for label in merged(merge)
            }
            for part in PARTS
        },
        "leak": {"test_images_with_training_twin": packed.twins},
    }
