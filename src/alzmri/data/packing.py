"""From a collection of files to ``data/prepared``: validated, resized, assigned, packed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import write_array_header_1_0
from numpy.typing import NDArray

from alzmri import terminal
from alzmri.classes import merged
from alzmri.data import collection, images, similarity, splits, subjects
from alzmri.data.collection import Collection
from alzmri.data.counts import count
from alzmri.data.label_permutation import permuted
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
        classes: names after ``data.merge``, least to most severe.
        collection: the files used, and those rejected.
        people: who is on each image, in the order of ``rows``.
        links: how similar the images are.
        near_duplicates: test images that have a near-duplicate among the training images.
        across: images that have a near-duplicate in another part of a subject split; 0 of others.
    """

    rows: list[Row]
    classes: tuple[str, ...]
    collection: Collection
    people: People
    links: Forest
    near_duplicates: int
    across: int


def pack(source: Path, directory: Path, params: Params) -> Packed:
    """Write ``images.npy``, ``manifest.csv``, ``rejected.csv``, ``params.json``, ``summary.json``.

    Raises:
        subjects.Unclear: when the pixels are to tell who is who, and do not.
        UserError: when the collection cannot be used, or cannot be split as ``params`` say.
    """
    with terminal.progress("reading") as progress:
        found, thumbnails = _pack_images(source, directory, params.data, progress)
    collection.write_rejected(directory / "rejected.csv", found.rejected)
    paths = [entry.path for entry in found.entries]
    hashes = [entry.sha256 for entry in found.entries]
    called = merged(params.data.merge, found.classes)
    labels = [called[entry.label] for entry in found.entries]

    with terminal.progress("comparing images") as progress:
        codes = similarity.encode(thumbnails)
        links = similarity.forest(codes, progress)
    people = subjects.find(source, params.split.subjects, found.entries, lambda: links)
    if params.data.permute_labels:
        labels = permuted(labels, people.names, params.split.seed)
    groups = people.names if params.split.unit == "subject" else hashes
    parts = splits.assign(labels, groups, params.split)

    columns = (range(len(paths)), paths, labels, people.names, parts, hashes)
    rows = [Row(*row) for row in zip(*columns, strict=True)]
    write_manifest(directory / "manifest.csv", rows)
    write_json(directory / "params.json", relevant(params))
    which = np.array(parts)
    train, val, test = (which == part for part in PARTS)
    near_duplicates, across = subjects.near_duplicates(codes, train, test), 0
    if params.split.unit == "subject":
        across = subjects.near_duplicates(codes, train | val, test) + subjects.near_duplicates(
            codes, train, val
        )
    classes = tuple(dict.fromkeys(called.values()))
    packed = Packed(rows, classes, found, people, links, near_duplicates, across)
    write_json(directory / "summary.json", summary(packed))
    return packed


def _pack_images(
    source: Path, directory: Path, data: Data, progress: Update
) -> tuple[Collection, NDArray[np.uint8]]:
    """Write ``images.npy`` (uint8 ``[n, side, side]``); return the files and their thumbnails."""
    side, thumbnails = data.image_size, []

    def keep(pixels: images.Pixels) -> tuple[bytes, images.Pixels]:
        fitted = images.fit(pixels, side, data.fit)
        return fitted.tobytes(), images.thumbnail(pixels)

    # Written, not mapped: on a full disk a write fails with a message, a mapped page with SIGBUS.
    with (directory / "images.npy").open("wb") as packed:

        def write_header(number: int) -> None:
            shape = (number, side, side)
            write_array_header_1_0(packed, {"descr": "|u1", "fortran_order": False, "shape": shape})

        def append(kept: tuple[bytes, images.Pixels]) -> None:
            packed.write(kept[0])
            thumbnails.append(kept[1])

        write_header(0)  # NumPy leaves room in it for the number, which is known at the end
        found = collection.read(source, keep, append, progress)
        collection.require(found, data.max_rejected)
        packed.seek(0)
        write_header(len(thumbnails))
    return found, np.stack(thumbnails)


def summary(packed: Packed) -> dict[str, Any]:
    """The content of ``data/prepared/summary.json``: all counts."""
    rows, rejected = packed.rows, packed.collection.rejected
    gap, cut = packed.people.gap, packed.people.cut
    counts = count(rows, packed.classes)
    return {
        "classes": packed.classes,
        "images": len(rows),
        "subjects": len({row.subject for row in rows}) if packed.people.known else None,
        "people": {
            "from": "pixels" if cut else "file" if packed.people.known else "unknown",
            "cut": round(cut, 3) if cut else None,
            "gap": [round(gap.low, 3), round(gap.high, 3)] if gap else None,
        },
        "rejected": len(rejected),
        "duplicates": sum(item.duplicate for item in rejected),
        "converted": sum(entry.converted is not None for entry in packed.collection.entries),
        "split": {
            part: {label: counts[label, part]._asdict() for label in packed.classes}
            for part in PARTS
        },
        "leak": {
            "test_images_with_training_near_duplicate": packed.near_duplicates,
            "near_duplicates_across_subject_split": packed.across,
        },
    }
