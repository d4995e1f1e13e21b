"""How the classes are spread over the parts of the split: a table and a figure."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from alzmri.data.classes import numbered
from alzmri.data.prepared import Row
from alzmri.data.splits import PARTS
from alzmri.figure import drawing
from alzmri.files import write_csv

PART_COLOURS = ("#bdbdbd", "#56b4e9", "#e69f00")
"""Of training, validation and test: black figures stay readable on each."""


def write_table(path: Path, rows: Sequence[Row], classes: tuple[str, ...]) -> None:
    """CSV of ``class,split,images,subjects``, classes numbered so that letters keep the order."""
    counts = []
    for label, name in zip(numbered(classes), classes, strict=True):
        for part in PARTS:
            mine = [row for row in rows if (row.label, row.split) == (name, part)]
            counts.append((label, part, len(mine), len({row.subject for row in mine})))
    write_csv(path, ("class", "split", "images", "subjects"), counts)


def draw(path: Path, rows: Sequence[Row], classes: tuple[str, ...], note: str) -> None:
    """Bars of images and of people, per class, stacked by part of the split."""
    people = {(row.subject, row.label, row.split) for row in rows}
    counted = {
        "images": Counter((row.label, row.split) for row in rows),
        "people": Counter((label, part) for _, label, part in people),
    }
    with drawing(path, 8.0, 2.9) as figure:
        left, right = figure.subplots(1, 2, sharey=True)
        figure.suptitle(note, fontsize=9, x=0.01, ha="left")
        for axes, (what, counts) in zip((left, right), counted.items(), strict=True):
            start = [0] * len(classes)
            for part, colour in zip(PARTS, PART_COLOURS, strict=True):
                widths = [counts[name, part] for name in classes]
                bars = axes.barh(range(len(classes)), widths, left=start, color=colour, label=part)
                axes.bar_label(bars, [str(w or "") for w in widths], label_type="center", size=8)
                start = [a + b for a, b in zip(start, widths, strict=True)]
            axes.set(xlabel=what)
        left.set_yticks(range(len(classes)), classes)
        left.invert_yaxis()
        right.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=9)


def problems(rows: Sequence[Row], classes: tuple[str, ...]) -> list[str]:
    """One sentence for each class that does not occur in every part of the split."""
    found = []
    for name in classes:
        people = {row.subject for row in rows if row.label == name}
        missing = [
            part for part in PARTS if not any((r.label, r.split) == (name, part) for r in rows)
        ]
        if missing:
            found.append(
                f"{name} has {len(people)} people and does not occur in {' and '.join(missing)}:"
                " its scores there say nothing; data.merge joins it with its neighbour"
            )
    return found
