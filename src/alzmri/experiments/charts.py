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
from alzmri.experiments.document import Page, folder_name
from alzmri.experiments.groups import Group
from alzmri.experiments.scores import LESS_IS_BETTER, METRICS
from alzmri.figure import SEVERITY, drawing

Role = Literal["best", "new", "baseline", "other"]
_ORDER: Sequence[Role] = ("other", "baseline", "new", "best")
"""The order of drawing: the last is on top."""

_NAMED = 4
"""Grey lines up to this many have their own dashes and names; more are a crowd."""
_DASHES = ("-", "--", ":", "-.")


class Curve(NamedTuple):
    """One group in a diagram by epoch, and its role in the report."""

    group: Group
    role: Role

    @property
    def label(self) -> str:
        """Its name, its role if it has one, and whether it leaks."""
        role = "" if self.role in ("other", self.group.name) else f" ({self.role})"
        return f"{self.group.name}{role}{' LEAKS' if self.group.leaks else ''}"


def add(page: Page, curves: Sequence[Curve], matrices: Sequence[Group]) -> None:
    """Add the ``curves`` and the confusion ``matrices`` to ``page``."""
    epochs, confusions = [], []
    for name, key in (("macro-f1", "val_macro_f1"), ("loss", "val_loss")):
        draw = partial(_epochs, curves, key)
        epochs.append(page.picture(f"{name}.png", f"{METRICS[key]} by epoch", draw))
    for group in matrices:
        path, alt = f"{folder_name(group.name)}/confusion.png", f"confusion of {group.name}"
        confusions.append(page.picture(path, alt, partial(_confusion, group)))
    page.add("Validation, epoch by epoch", "\n".join(epochs))
    page.add("Confusion on the test subjects", "\n".join(confusions))


def _confusion(group: Group, path: Path) -> None:
    """The confusion matrix of all runs of ``group`` together."""
    tests = [run.predictions for run in group.runs]
    truth = np.concatenate([test.truth for test in tests])
    predicted = np.concatenate([test.predicted for test in tests])
    tested = "LEAKS: test subjects in training" if group.leaks else f"{len(truth)} test slices"
    title = f"{textwrap.fill(group.name, 36)}\n{tested}"
    figures.confusion(path, truth, predicted, tests[0].classes, title, small=True)


def _epochs(curves: Sequence[Curve], column: str, path: Path) -> None:
    with drawing(path, 4.3, 3.3) as figure:
        plot(figure, curves, column)


def plot(figure: Figure, curves: Sequence[Curve], column: str) -> None:
    """The mean over the runs of each group by epoch; around groups with a role, their range.

    The highest ranked of ``curves`` is first; ``column`` is of plots/history.csv.
    """
    others = [curve for curve in curves if curve.role == "other"]
    leaking = sum(curve.group.leaks for curve in others)
    crowd = f"{len(others)} others" + (f", {leaking} of them LEAK" if leaking else "")
    blue = SEVERITY[0 if mpl.rcParams["figure.facecolor"] == "white" else 1]
    axes = figure.add_subplot()
    lowest_first = [curve for role in _ORDER for curve in curves[::-1] if curve.role == role]
    for number, curve in enumerate(lowest_first):
        scores = curve.group.history(column)
        epochs = np.arange(1, scores.shape[1] + 1)
        style: dict[str, Any] = {"lw": 2.2, "label": curve.label, "color": blue}
        if curve.role == "baseline":
            style["color"] = SEVERITY[3]
        elif curve.role == "other":
            style |= {"lw": 1.1, "color": "#8a9199", "ls": _DASHES[number % len(_DASHES)]}
            if len(others) > _NAMED:
                style |= {"ls": "-", "label": None if number else crowd}
        axes.plot(epochs, scores.mean(axis=0), marker="o" if len(epochs) == 1 else None, **style)
        if curve.role != "other" and len(scores) > 1:
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
    """Draw a score of ``groups`` over two parameters, the first in rows; the best is framed.

    A cell that did not run stays empty.
    """
    known = [[group.settings.get(key) for group in groups] for key in keys]
    ticks = [sorted({str(one): one for one in side}.values(), key=_numbers_first) for side in known]
    values = np.full([len(side) for side in ticks], np.nan)
    texts = np.full(values.shape, "", dtype=object)
    for group, row, column in zip(groups, *known, strict=True):
        cell = ticks[0].index(row), ticks[1].index(column)
        values[cell], texts[cell] = group.mean(metric), group.shown(metric).replace(" ±", "\n±")
    less_is_better = metric in LESS_IS_BETTER
    best = np.nanargmin(values) if less_is_better else np.nanargmax(values)
    row, column = np.unravel_index(best, values.shape)
    names = (list(map(str, ticks[0])), list(map(str, ticks[1])))
    with drawing(path, 1.6 + 0.95 * values.shape[1], 1.3 + 0.62 * values.shape[0]) as figure:
        axes = figure.add_subplot()
        axes_of = (keys[0], keys[1])
        figures.matrix(axes, values, texts, names, axes_of, less_is_better=less_is_better)
        frame: Any = {"fill": False, "lw": 2.2, "edgecolor": SEVERITY[2]}
        axes.add_patch(Rectangle((column - 0.48, row - 0.47), 0.96, 0.94, **frame))
        axes.set_title(METRICS[metric], fontsize=9.5)


def _numbers_first(value: object) -> tuple[bool, float, str]:
    return (False, value, "") if isinstance(value, int | float) else (True, 0, str(value))
