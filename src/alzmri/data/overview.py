"""What ``prepare`` made of a collection: classes over the parts of the split, and subjects."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from alzmri.classes import CLASSES
from alzmri.data.counts import Count
from alzmri.data.prepared import PARTS, UNKNOWN, Row, numbered
from alzmri.data.similarity import FLOOR, Forest
from alzmri.data.subjects import People
from alzmri.figure import drawing
from alzmri.files import write_csv

Counts = Mapping[tuple[str, str], Count]
"""See :func:`alzmri.data.counts.count`."""

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
    with drawing(path, 8.0, 1.3 + 0.4 * len(classes)) as figure:
        left, right = figure.subplots(1, 2, sharey=True)
        figure.suptitle(note, fontsize=9, x=0.01, ha="left")
        for column, (axes, what) in enumerate(((left, "images"), (right, "subjects"))):
            numbers = [[counts[name, part][column] for part in PARTS] for name in classes]
            start = np.zeros(len(classes))
            for part, colour, widths in zip(
                PARTS, PART_COLOURS, np.transpose(numbers), strict=True
            ):
                axes.barh(range(len(classes)), widths, left=start, color=colour, label=part)
                start += widths
            # Behind the bars: many parts are narrower than their number.
            for place, row in enumerate(numbers):
                text = "  " + " + ".join(f"{number:,}" for number in row)
                axes.text(start[place], place, text, va="center", size=8)
            axes.set(xlabel=what, xlim=(0, 1.8 * max(start.max(), 1)))
        left.set_yticks(range(len(classes)), [textwrap.fill(name, 24) for name in classes])
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
            axes.axvline(gap.cut, color="black", lw=1, ls="--")
            text = f" no link from\n {gap.low:.2f} to {gap.high:.2f}:\n cut at {gap.cut:.2f}"
            axes.text(gap.cut, np.sqrt(top), text, va="center", size=9)
        elif found and found.cut:
            axes.axvline(found.cut, color="black", lw=1, ls="--")
            axes.text(found.cut, np.sqrt(top), f" cut at {found.cut:.2f}", va="center", size=9)
        for (label, colour, values), count in zip(groups, counts, strict=True):
            axes.stairs(count, edges, fill=True, color=colour)
            if not len(values):
                continue
            # At the ends of the axis, where neighbours never meet.
            axes.annotate(
                f"{len(values):,} links\n{label}",
                (0.99 if colour == _ONE else 0.01, 0.99),
                xycoords="axes fraction",
                ha="right" if colour == _ONE else "left",
                va="top",
                color=colour,
            )


def problems(rows: Sequence[Row], counts: Counts, classes: tuple[str, ...]) -> list[str]:
    """One sentence for each class that does not occur in every part of the split."""
    found = []
    known = not rows[0].subject.startswith(UNKNOWN)
    for name in classes:
        if missing := [part for part in PARTS if not counts[name, part].images]:
            subjects = {row.subject for row in rows if row.label == name}
            who = f" has {len(subjects)} subjects and" if known else ""
            remedy = "; data.merge joins it with its neighbour" if name in CLASSES else ""
            found.append(
                f"{name}{who} does not occur in {' and '.join(missing)}: its scores there say"
                f" nothing{remedy}"
            )
    return found
