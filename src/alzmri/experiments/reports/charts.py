"""The pictures of a report. Narrow, so that a phone shows them readable; on light or dark paper.

Ink and paper come from matplotlib's settings at the time of drawing.
"""

import textwrap
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from alzmri.evaluation import figures
from alzmri.experiments.metrics import LESS_IS_BETTER, METRICS
from alzmri.experiments.reports.document import Page, folder_name
from alzmri.experiments.reports.groups import Group
from alzmri.figure import SEVERITY, drawing

Role = Literal["best", "new", "baseline", "other"]
_ORDER: Sequence[Role] = ("other", "baseline", "new", "best")
"""The order of drawing: the last is on top."""

_NAMED = 4
"""Grey lines up to this many have their own dashes and names; more are a crowd."""
_DASHES = ("-", "--", ":", "-.")


class Line(NamedTuple):
    """One group in a diagram of curves, and its role in the report."""

    group: Group
    role: Role

    @property
    def label(self) -> str:
        """Its name, its role if it has one, and whether it leaks."""
        role = "" if self.role in ("other", self.group.name) else f" ({self.role})"
        return f"{self.group.name}{role}{' LEAKS' if self.group.leaks else ''}"


def add(page: Page, lines: Sequence[Line], matrices: Sequence[Group]) -> None:
    """Add the curves of ``lines`` and the confusion ``matrices`` to ``page``."""
    pictures = [
        page.picture(f"{name}.png", f"{METRICS[key]} by epoch", partial(_curves, lines, key))
        for name, key in (("macro-f1", "val_macro_f1"), ("loss", "val_loss"))
    ]
    page.add("Validation, epoch by epoch", "\n".join(pictures))
    pictures = [
        page.picture(f"{folder_name(name)}/confusion.png", f"confusion of {name}", draw)
        for name, draw in ((group.name, partial(confusion, group)) for group in matrices)
    ]
    page.add("Confusion on the test subjects", "\n".join(pictures))


def confusion(group: Group, path: Path) -> None:
    """Draw the confusion matrix of all runs of ``group`` together."""
    tests = [run.predictions for run in group.runs]
    truth = np.concatenate([test.truth for test in tests])
    predicted = np.concatenate([test.predicted for test in tests])
    tested = "LEAKS: test subjects in training" if group.leaks else f"{len(truth)} test slices"
    title = f"{textwrap.fill(group.name, 36)}\n{tested}"
    figures.confusion(path, truth, predicted, tests[0].classes, title, small=True)


def _curves(lines: Sequence[Line], column: str, path: Path) -> None:
    with drawing(path, 4.3, 3.3) as figure:
        plot_curves(figure, lines, column)


def plot_curves(figure: Figure, lines: Sequence[Line], column: str) -> None:
    """The mean over the runs of each group by epoch; around groups with a role, their range.

    Args:
        figure: an empty one.
        lines: the highest ranked first; those with a role are drawn over the others.
        column: of plots/history.csv.
    """
    others = [line for line in lines if line.role == "other"]
    leaking = sum(line.group.leaks for line in others)
    crowd = f"{len(others)} others" + (f", {leaking} of them LEAK" if leaking else "")
    blue = SEVERITY[0 if mpl.rcParams["figure.facecolor"] == "white" else 1]
    axes = figure.add_subplot()
    lowest_first = [line for role in _ORDER for line in lines[::-1] if line.role == role]
    for number, line in enumerate(lowest_first):
        scores = line.group.history(column)
        epochs = np.arange(1, scores.shape[1] + 1)
        style: dict[str, Any] = {"lw": 2.2, "label": line.label, "color": blue}
        if line.role == "baseline":
            style["color"] = SEVERITY[3]
        elif line.role == "other":
            style |= {"lw": 1.1, "color": "#8a9199", "ls": _DASHES[number % len(_DASHES)]}
            if len(others) > _NAMED:
                style |= {"ls": "-", "label": None if number else crowd}
        axes.plot(epochs, scores.mean(axis=0), marker="o" if len(epochs) == 1 else None, **style)
        if line.role != "other" and len(scores) > 1:
            low, high = scores.min(axis=0), scores.max(axis=0)
            axes.fill_between(epochs, low, high, color=style["color"], alpha=0.15, lw=0)
    axes.set_xlabel("epoch", fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", alpha=0.25, lw=0.6)
    axes.set_title(METRICS[column], fontsize=9.5)
    # Below the axes: names of experiments are longer than the gaps between curves.
    handles, labels = axes.get_legend_handles_labels()
    below: Any = {"loc": "outside lower left", "fontsize": 8.5, "labelcolor": "linecolor"}
    figure.legend(handles[::-1], labels[::-1], **below)


def heat_map(groups: Sequence[Group], keys: Sequence[str], metric: str, path: Path) -> None:
    """Draw a score over two parameters; the best framed, what did not run left empty.

    Args:
        groups: one for each cell that ran.
        keys: the parameter in rows, and the one in columns.
        metric: of :data:`alzmri.experiments.metrics.METRICS`.
        path: of the PNG.
    """
    ticks = [
        sorted({str(known): known for known in column}.values(), key=_numbers_first)
        for column in ([group.settings.get(key) for group in groups] for key in keys)
    ]
    values = np.full((len(ticks[0]), len(ticks[1])), np.nan)
    texts = np.full(values.shape, "", dtype=object)
    for group in groups:
        row, column = (ticks[n].index(group.settings.get(keys[n])) for n in (0, 1))
        values[row, column] = group.mean(metric)
        texts[row, column] = group.shown(metric).replace(" ±", "\n±")
    less_is_better = metric in LESS_IS_BETTER
    best = np.nanargmin(values) if less_is_better else np.nanargmax(values)
    row, column = divmod(int(best), values.shape[1])
    with drawing(path, 1.6 + 0.95 * values.shape[1], 1.3 + 0.62 * values.shape[0]) as figure:
        axes = figure.add_subplot()
        names, labels = (list(map(str, ticks[0])), list(map(str, ticks[1]))), (keys[0], keys[1])
        figures.matrix(axes, values, texts, names, labels, less_is_better=less_is_better)
        frame = Rectangle((column - 0.48, row - 0.47), 0.96, 0.94, fill=False, lw=2.2)
        frame.set_edgecolor(SEVERITY[2])
        axes.add_patch(frame)
        axes.set_title(METRICS[metric], fontsize=9.5)


def _numbers_first(value: object) -> tuple[bool, float, str]:
    return (False, value, "") if isinstance(value, int | float) else (True, 0, str(value))
