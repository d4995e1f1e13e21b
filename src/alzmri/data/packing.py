"""From a collection of files to ``data/prepared``: validated, resized, assigned, packed."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.format import write_array_header_1_0
from numpy.typing import NDArray

from alzmri import terminal
from alzmri.classes import merged
from alzmri.data import class_folders, images, similarity, splits, subjects
from alzmri.data.class_folders import Collection
from alzmri.data.prepared import COPY, PARTS, UNKNOWN, Row, relevant, write_manifest
from alzmri.data.similarity import Forest
from alzmri.data.subjects import People
from alzmri.files import write_csv, write_json
from alzmri.params import Data, Params
from alzmri.terminal import Update


class Count(NamedTuple):
    """Of one class in one part."""

    images: int
    subjects: int


Counts = Mapping[tuple[str, str], Count]
"""By class and part: parts, then classes in order."""


class Packed(NamedTuple):
    """What became of a collection: the manifest; class names after ``data.merge``, least to most
    severe; who is on each image, and how similar they are; images that have a near-duplicate in
    another part of a subject split; all counts, as ``data/prepared/summary.json`` has them."""

    rows: list[Row]
    classes: tuple[str, ...]
    people: People
    links: Forest
    counts: Counts
    across: int
    summary: Mapping[str, Any]


def pack(source: Path, directory: Path, params: Params) -> Packed:
    """Write ``images.npy``, ``manifest.csv``, ``rejected.csv``, ``params.json``, ``summary.json``.

    Raises:
        subjects.Unclear: when the pixels are to tell who is who, and do not.
        UserError: when the collection cannot be used, or cannot be split as ``params`` say.
    """
    with terminal.progress("reading") as progress:
        found, thumbnails = _pack_images(source, directory, params.data, progress)
    entries, rejected = found.entries, found.rejected
    reasons = ((item.path, item.reason) for item in rejected)
    write_csv(directory / "rejected.csv", ("path", "reason"), reasons)
    called = merged(params.data.merge, found.classes)
    labels = [called[entry.label] for entry in entries]

    with terminal.progress("comparing images") as progress:
        codes = similarity.encode(thumbnails)
        links = similarity.forest(codes, progress)
    people = subjects.find(source, params.split.subjects, entries, lambda: links)
    if params.data.permute_labels:
        labels = splits.permuted(labels, people.names, params.split.seed)
    copy_of = class_folders.copies(source)
    parts = splits.parts(entries, labels, people.names, params.split, copy_of)
    rows = [
        Row(index, entry.path, label, subject, part, entry.sha256)
        for index, (entry, label, subject, part) in enumerate(
            zip(entries, labels, people.names, parts, strict=True)
        )
    ]
    write_manifest(directory / "manifest.csv", rows)
    write_json(directory / "params.json", relevant(params))

    train, val, test = (np.array(parts) == part for part in PARTS)
    near_duplicates, across = subjects.near_duplicates(codes, train, test), 0
    if params.split.unit == "subject":
        across = subjects.near_duplicates(codes, train | val, test)
        across += subjects.near_duplicates(codes, train, val)
    classes = tuple(dict.fromkeys(called.values()))
    counts = count(rows, classes)
    cut, gap = people.cut, people.gap
    summary = {
        "classes": classes,
        "images": len(rows),
        "subjects": len(set(people.names)) if people.known else None,
        "people": {
            "from": "pixels" if cut else "file" if people.known else "unknown",
            "cut": round(cut, 3) if cut else None,
            "gap": [round(gap.low, 3), round(gap.high, 3)] if gap else None,
        },
        "rejected": len(rejected),
        "duplicates": sum(item.duplicate_of is not None for item in rejected),
        "converted": sum(entry.converted is not None for entry in entries),
        "split": {
            part: {label: counts[label, part]._asdict() for label in classes} for part in PARTS
        },
        "leak": {
            "test_images_with_training_near_duplicate": near_duplicates,
            "near_duplicates_across_subject_split": across,
        },
    }
    if COPY in parts:
        summary["copies_not_scored"] = parts.count(COPY)
    write_json(directory / "summary.json", summary)
    return Packed(rows, classes, people, links, counts, across, summary)


def _pack_images(
    source: Path, directory: Path, data: Data, progress: Update
) -> tuple[Collection, NDArray[np.uint8]]:
    """Write ``images.npy`` (uint8 ``[n, side, side]``); return the files and their thumbnails."""
    side, thumbnails = data.image_size, []

    def keep(pixels: images.Pixels) -> tuple[bytes, images.Pixels]:
        return images.fit(pixels, side, data.fit).tobytes(), images.thumbnail(pixels)

    # Written, not mapped: on a full disk a write fails with a message, a mapped page with SIGBUS.
    with (directory / "images.npy").open("wb") as packed:

        def write_header(number: int) -> None:
            shape = (number, side, side)
            write_array_header_1_0(packed, {"descr": "|u1", "fortran_order": False, "shape": shape})

        def append(kept: tuple[bytes, images.Pixels]) -> None:
            packed.write(kept[0])
            thumbnails.append(kept[1])

        write_header(0)  # NumPy leaves room in it for the number, which is known at the end
        found = class_folders.read(source, keep, append, progress)
        class_folders.require(found, data.max_rejected)
        packed.seek(0)
        write_header(len(thumbnails))
    return found, np.stack(thumbnails)


def count(rows: Sequence[Row], classes: Sequence[str]) -> Counts:
    """How many images and subjects each class has in each part, also where it has none; a subject
    with images in two counts in both, unknown ones do not count."""
    pictured = Counter((row.label, row.split) for row in rows)
    known = {(row.label, row.split, row.subject) for row in rows if row.subject[:1] != UNKNOWN}
    people = Counter((label, part) for label, part, _ in known)
    keys = [(label, part) for part in PARTS for label in classes]
    return {key: Count(pictured[key], people[key]) for key in keys}
