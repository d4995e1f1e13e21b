"""Pack a collection of files into ``data/prepared``, and draw the stage's figures."""

import hashlib
import textwrap
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import write_array_header_1_0

from alzmri.classes import CLASSES, merged
from alzmri.data import class_folders, images, splits, subjects
from alzmri.data.class_folders import Entry
from alzmri.data.prepared import COPY, PARTS, Row, numbered, relevant, write_manifest
from alzmri.data.similarity import FLOOR, Forest
from alzmri.data.subjects import SubjectNames
from alzmri.errors import UserError
from alzmri.figure import drawing
from alzmri.files import write_csv, write_json
from alzmri.parallel import in_order
from alzmri.params import Params

_PART_COLOURS = ("#bdbdbd", "#56b4e9", "#e69f00")
"""Colours of training, validation and test."""

_ONE, _TWO, _UNKNOWN = "#0072b2", "#d55e00", "#7f7f7f"
"""Colours of links within a subject, between subjects, and of unknown subjects."""
_BINS = 80


Summary = dict[str, Any]
"""``summary.json``; ``split`` has the numbers of ``images`` and ``subjects`` by part and class."""


def pack(
    source: Path, directory: Path, params: Params, figure: Path
) -> tuple[Summary, SubjectNames]:
    """Write ``images.npy``, ``manifest.csv``, ``rejected.csv``, ``params.json``, ``summary.json``.

    It draws the similarities of images in ``figure``, also if they do not separate subjects.

    Raises:
        UserError: the collection is unusable, or changes meanwhile; the split of ``params`` is
            impossible; or the pixels do not separate subjects, and nothing else does.
    """
    found = class_folders.read(source)
    class_folders.require(found, params.data.max_rejected)
    entries, rejected = found.entries, found.rejected
    reasons = ((item.path, item.reason) for item in rejected)
    write_csv(directory / "rejected.csv", ("path", "reason"), reasons)
    called = merged(params.data.merge, found.classes)
    labels = [called[entry.label] for entry in entries]

    identified = subjects.find(found, params.split.subjects)
    draw_links(figure, found.links, identified, params.data.source)
    if identified.doubt and not identified.known:
        raise UserError(f"{source}: {identified.doubt}. {figure} shows the similarities")
    if params.data.permute_labels:
        labels = splits.permuted(labels, identified.names, params.split.seed)
    parts = splits.parts(entries, labels, identified.names, params.split)
    side = params.data.image_size

    def fit(entry: Entry) -> images.Pixels:
        with suppress(images.Unreadable):
            content = images.read(source / entry.path)
            if hashlib.sha256(content).hexdigest() == entry.sha256:
                return images.fit(images.decode_bytes(content).pixels, side, params.data.fit)
        raise UserError(
            f"{source / entry.path} changed or vanished while {source} was read: run this again"
            " when no other program writes there"
        )

    # A second pass decodes again, because all pixels together may be larger than the memory.
    # Not memory-mapped: on a full disk, a write fails with a message, a mapped page with SIGBUS.
    with (directory / "images.npy").open("wb") as packed:
        header = {"descr": "|u1", "fortran_order": False, "shape": (len(entries), side, side)}
        write_array_header_1_0(packed, header)
        for pixels in in_order(fit, entries):
            packed.write(pixels.tobytes())
    rows = [
        Row(index, entry.path, label, subject, part, entry.sha256)
        for index, (entry, label, subject, part) in enumerate(
            zip(entries, labels, identified.names, parts, strict=True)
        )
    ]
    write_manifest(directory / "manifest.csv", rows)
    write_json(directory / "params.json", relevant(params))

    train, val, test = (np.array(parts) == part for part in PARTS)
    near_duplicates, across = subjects.near_duplicates(found.codes, train, test), 0
    if params.split.unit == "subject":
        across = subjects.near_duplicates(found.codes, train | val, test)
        across += subjects.near_duplicates(found.codes, train, val)
    classes = tuple(dict.fromkeys(called.values()))
    pictured = Counter((row.split, row.label) for row in rows)
    # A subject with images in two parts counts in both, unknown subjects do not count.
    named = {(row.split, row.label, row.subject) for row in rows if identified.known}
    counted = Counter((part, label) for part, label, _ in named)
    cut, gap = identified.cut, identified.gap
    summary: Summary = {
        "classes": classes,
        "images": len(rows),
        "subjects": len(set(identified.names)) if identified.known else None,
        "people": {
            "from": "pixels" if cut else "file" if identified.known else "unknown",
            "cut": round(cut, 3) if cut else None,
            "gap": [round(end, 3) for end in gap] if gap else None,
        },
        "rejected": len(rejected),
        "duplicates": sum(item.duplicate_of is not None for item in rejected),
        "converted": sum(entry.converted for entry in entries),
        "split": {
            part: {
                label: {"images": pictured[part, label], "subjects": counted[part, label]}
                for label in classes
            }
            for part in PARTS
        },
        "leak": {
            "test_images_with_training_near_duplicate": near_duplicates,
            "near_duplicates_across_subject_split": across,
        },
    }
    if COPY in parts:
        summary["copies_not_scored"] = parts.count(COPY)
    write_json(directory / "summary.json", summary)
    return summary, identified


def show_classes(folder: Path, found: Summary, note: str) -> None:
    """Write ``classes.csv`` (``class,split,images,subjects``; numbers sort the classes), and draw
    bars of images and of subjects, per class, stacked by part of the split."""
    classes, counts = found["classes"], found["split"]
    rows = (
        (label, part, *counts[part][name].values())
        for label, name in zip(numbered(classes), classes, strict=True)
        for part in PARTS
    )
    write_csv(folder / "classes.csv", ("class", "split", "images", "subjects"), rows)
    with drawing(folder / "classes.png", 8.0, 1.3 + 0.4 * len(classes)) as figure:
        left, right = figure.subplots(1, 2, sharey=True)
        figure.suptitle(note, fontsize=9, x=0.01, ha="left")
        for axes, what in ((left, "images"), (right, "subjects")):
            numbers = [[counts[part][name][what] for part in PARTS] for name in classes]
            start = np.zeros(len(classes))
            parts = zip(PARTS, _PART_COLOURS, np.transpose(numbers), strict=True)
            for part, colour, widths in parts:
                axes.barh(range(len(classes)), widths, left=start, color=colour, label=part)
                start += widths
            # Write numbers behind the bars, because many parts are narrower than their number.
            for place, row in enumerate(numbers):
                text = "  " + " + ".join(f"{number:,}" for number in row)
                axes.text(start[place], place, text, va="center", size=8)
            axes.set(xlabel=what, xlim=(0, 1.8 * max(start.max(), 1)))
        left.set_yticks(range(len(classes)), [textwrap.fill(name, 24) for name in classes])
        left.invert_yaxis()
        right.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=9)


def draw_links(path: Path, links: Forest, found: SubjectNames, note: str) -> None:
    """Draw a histogram of the links' similarities, within a subject and between subjects."""
    if found.known:
        names = np.array(found.names)
        same = names[links.first] == names[links.second]
        between, within = links.correlations[~same], links.correlations[same]
        groups = [("between subjects", _TWO, between), ("within a subject", _ONE, within)]
        how = "found from their pixels" if found.cut else "as in subjects.csv"
        who = f"{'at most ' * bool(found.doubt)}{len(set(found.names)):,} subjects {how}"
    else:
        groups, who = [("in all", _UNKNOWN, links.correlations)], "subjects unknown"
    edges = np.linspace(FLOOR, 1, _BINS + 1)
    counts = [np.histogram(values, edges)[0] for _, _, values in groups]
    top = max(1, *(int(count.max()) for count in counts))
    with drawing(path, 8.0, 3.2) as figure:
        axes = figure.subplots()
        title = f"{note}: {len(found.names):,} images, {who}"
        axes.set(title=title, xlim=(FLOOR, 1), yscale="log", ylim=(0.7, 10 * top))
        axes.set(xlabel="similarity of the linked slices (1: the same anatomy)", ylabel="links")
        axes.yaxis.set_major_formatter("{x:,.0f}")
        above = ""
        if gap := found.gap:
            axes.axvspan(*gap, color="#eeeeee", lw=0)
            above = f" no link from\n {gap[0]:.2f} to {gap[1]:.2f}:\n"
        if found.cut:
            axes.axvline(found.cut, color="black", lw=1, ls="--")
            text = f"{above} cut at {found.cut:.2f}"
            axes.text(found.cut, np.sqrt(top), text, va="center", size=9)
        for (label, colour, values), count in zip(groups, counts, strict=True):
            axes.stairs(count, edges, fill=True, color=colour)
            if len(values):
                # At the ends of the axis, where labels never overlap.
                at, side = ((0.99, 0.99), "right") if colour == _ONE else ((0.01, 0.99), "left")
                text = f"{len(values):,} links\n{label}"
                axes.annotate(text, at, xycoords="axes fraction", ha=side, va="top", color=colour)


def problems(found: Summary, unit: str) -> list[str]:
    """One sentence for each class that does not occur in every part of the split.

    ``unit`` is ``split.unit``: the parts of a slice split share subjects, so it counts images.
    """
    counted = "subjects" if unit == "subject" else "images"
    sentences = []
    for name in found["classes"]:
        counts = {part: found["split"][part][name] for part in PARTS}
        if missing := [part for part in PARTS if not counts[part]["images"]]:
            number = sum(count[counted] for count in counts.values())
            remedy = "; data.merge joins it with its neighbour" if name in CLASSES else ""
            sentences.append(
                f"{name} has {number} {counted} and does not occur in {' and '.join(missing)}:"
                f" its scores there say nothing{remedy}"
            )
    return sentences
