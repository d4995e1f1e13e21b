"""What ``prepare`` made of a collection: classes over the parts of the split, and subjects."""

from pathlib import Path

import numpy as np

from alzmri.classes import CLASSES
from alzmri.data.packing import Counts, Packed
from alzmri.data.prepared import PARTS, numbered
from alzmri.data.similarity import FLOOR, Forest
from alzmri.data.subjects import People
from alzmri.figure import drawing
from alzmri.files import write_csv

PART_COLOURS = ("#bdbdbd", "#56b4e9", "#e69f00")
"""Of training, validation and test: black figures stay readable on each."""

_ONE, _TWO, _UNKNOWN = "#0072b2", "#d55e00", "#7f7f7f"
"""Links within a subject, between subjects, and of unknown subjects."""
_BINS = 80


def write_table(path: Path, counts: Counts, classes: tuple[str, ...]) -> None:
    """CSV of ``class,split,images,subjects``, classes numbered so that letters keep the order."""
    rows = (
        (label, part, *counts[name, part])
        for label, name in zip(numbered(classes), classes, strict=True)
        for part in PARTS
    )
    write_csv(path, ("class", "split", "images", "subjects"), rows)


def draw(path: Path, counts: Counts, classes: tuple[str, ...], note: str) -> None:
    """Bars of images and of subjects, per class, stacked by part of the split."""
    with drawing(path, 8.0, 2.9) as figure:
        left, right = figure.subplots(1, 2, sharey=True)
        figure.suptitle(note, fontsize=9, x=0.01, ha="left")
        for column, (axes, what) in enumerate(((left, "images"), (right, "subjects"))):
            start = [0] * len(classes)
            for part, colour in zip(PARTS, PART_COLOURS, strict=True):
                widths = [counts[name, part][column] for name in classes]
                bars = axes.barh(range(len(classes)), widths, left=start, color=colour, label=part)
                axes.bar_label(bars, [str(w or "") for w in widths], label_type="center", size=8)
                start = [a + b for a, b in zip(start, widths, strict=True)]
            axes.set(xlabel=what)
        left.set_yticks(range(len(classes)), classes)
        left.invert_yaxis()
        right.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=9)


def draw_links(path: Path, links: Forest, found: People | None, note: str) -> None:
    """Histogram of the links' similarities, within a subject and between subjects.

    ``found`` is the subject of each image, None if the pixels do not tell.
    """
    gap = found and found.gap
    if found is None or not found.known:
        groups = [("in all", _UNKNOWN, links.correlations)]
        title = f"{note}: {len(links.first) + 1:,} images, subjects unknown"
    else:
        names = np.array(found.names)
        same = names[links.first] == names[links.second]
        groups = [
            ("between subjects", _TWO, links.correlations[~same]),
            ("within a subject", _ONE, links.correlations[same]),
        ]
        how = "found from their pixels" if found.cut else "as in subjects.csv"
        most = "at most " * bool(found.doubt)
        title = f"{note}: {len(names):,} images, {most}{len(set(found.names)):,} subjects {how}"
    edges = np.linspace(FLOOR, 1, _BINS + 1)
    counts = [np.histogram(values, edges)[0] for _, _, values in groups]
    top = max(1, *(int(count.max()) for count in counts))
    with drawing(path, 8.0, 3.2) as figure:
        axes = figure.subplots()
        axes.set(title=title, xlim=(FLOOR, 1), yscale="log", ylim=(0.7, 10 * top))
        axes.set(xlabel="similarity of the linked slices (1: the same anatomy)", ylabel="links")
        axes.yaxis.set_major_formatter("{x:,.0f}")
        if gap:
            axes.axvspan(gap.low, gap.high, color="#eeeeee", lw=0)
        if found and found.cut:
            above = f" no link from\n {gap.low:.2f} to {gap.high:.2f}:\n" if gap else ""
            axes.axvline(found.cut, color="black", lw=1, ls="--")
            text = f"{above} cut at {found.cut:.2f}"
            axes.text(found.cut, np.sqrt(top), text, va="center", size=9)
        for (label, colour, values), count in zip(groups, counts, strict=True):
            axes.stairs(count, edges, fill=True, color=colour)
            if not len(values):
                continue
            # At the ends of the axis, where neighbours never meet.
            at, side = ((0.99, 0.99), "right") if colour == _ONE else ((0.01, 0.99), "left")
            text = f"{len(values):,} links\n{label}"
            axes.annotate(text, at, xycoords="axes fraction", ha=side, va="top", color=colour)


def problems(packed: Packed) -> list[str]:
    """One sentence for each class that does not occur in every part of the split."""
    found = []
    for name in packed.classes:
        if missing := [part for part in PARTS if not packed.counts[name, part].images]:
            subjects = {row.subject for row in packed.rows if row.label == name}
            who = f" has {len(subjects)} subjects and" if packed.people.known else ""
            remedy = "; data.merge joins it with its neighbour" if name in CLASSES else ""
            found.append(
                f"{name}{who} does not occur in {' and '.join(missing)}: its scores there say"
                f" nothing{remedy}"
            )
    return found
