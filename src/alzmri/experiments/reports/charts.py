"""The figures of a report. Narrow, so that a phone shows them readable; on light or dark paper.

Ink and paper come from matplotlib's settings at the time of drawing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from alzmri.evaluation import figures
from alzmri.experiments.metrics import LESS_IS_BETTER, METRICS
from alzmri.experiments.reports.groups import Group
from alzmri.figure import SEVERITY, drawing

Role = Literal["best", "new", "baseline", "other"]
_ORDER: Sequence[Role] = ("other", "baseline", "new", "best")
"""Of drawing, the last on top."""

_NAMED = 4
"""Grey lines up to this many have their own dashes and names; more are a crowd."""
_DASHES = ("-", "--", ":", "-.")


@dataclass(frozen=True)
class Line:
    """One group in a diagram of curves, and the role that it has in the report."""

    group: Group
    role: Role

    @property
    def colour(self) -> str:
        """Blue, orange or grey; legible on both papers."""
        if self.role == "other":
            return "#8a9199"
        light = mpl.rcParams["figure.facecolor"] == "white"
        return SEVERITY[3] if self.role == "baseline" else SEVERITY[0 if light else 1]

    @property
    def label(self) -> str:
        """Its name, its role if it has one, and whether it leaks."""
        role = "" if self.role in ("other", self.group.name) else f" ({self.role})"
        return f"{self.group.name}{role}{' LEAKS' if self.group.leaks else ''}"


def confusion(path: Path, group: Group) -> None:
    """The confusion matrix of all runs of ``group`` together."""
    tests = [run.predictions for run in group.runs]
    truth, predicted = (
        np.concatenate([getattr(test, name) for test in tests]) for name in ("truth", "predicted")
    )
    tested = "LEAKS: test subjects in training" if group.leaks else f"{len(truth)} test slices"
    title = f"{group.wrapped}\n{tested}"
    figures.confusion(path, truth, predicted, tests[0].classes, title, small=True)


def curves(path: Path, lines: Sequence[Line], column: str) -> None:
    """:func:`plot_curves` as the PNG at ``path``."""
    with drawing(path, 4.3, 3.3) as figure:
        plot_curves(figure, lines, column)


def plot_curves(figure: Figure, lines: Sequence[Line], column: str) -> None:
    """The mean over the runs of each group by epoch; around the groups with a role, their range.

    Args:
        figure: an empty one.
        lines: the highest ranked first; those with a role are drawn over the others.
        column: of plots/history.csv.
    """
    others = [line for line in lines if line.role == "other"]
    crowd = len(others) > _NAMED
    axes = figure.add_subplot()
    lowest_first = sorted(reversed(lines), key=lambda line: _ORDER.index(line.role))
    for number, line in enumerate(lowest_first):
        scores = line.group.history(column)
        epochs = np.arange(1, scores.shape[1] + 1)
        style: dict[str, Any] = {"lw": 2.2, "label": line.label}
        if line.role == "other":
            style = {"lw": 1.1, "label": line.label, "ls": _DASHES[number % len(_DASHES)]}
            if crowd:
                style = {"lw": 1, "label": _crowd(others) if number == 0 else None}
        if len(epochs) == 1:
            style["marker"] = "o"
        axes.plot(epochs, scores.mean(axis=0), color=line.colour, **style)
        if line.role != "other" and len(scores) > 1:
            low, high = scores.min(axis=0), scores.max(axis=0)
            axes.fill_between(epochs, low, high, color=line.colour, alpha=0.15, lw=0)
    axes.set_xlabel("epoch", fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", alpha=0.25, lw=0.6)
    axes.set_title(METRICS[column], fontsize=9.5)
    # Below the axes: names of experiments are longer than the gaps between curves.
    handles, labels = (entries[::-1] for entries in axes.get_legend_handles_labels())
    below = {"loc": "outside lower left", "fontsize": 8.5, "labelcolor": "linecolor"}
    figure.legend(handles, labels, **below)


def _crowd(lines: Sequence[Line]) -> str:
    leaking = sum(line.group.leaks for line in lines)
    return f"{len(lines)} others" + (f", {leaking} of them LEAK" if leaking else "")


def heat_map(path: Path, groups: Sequence[Group], keys: Sequence[str], metric: str) -> None:
    """A score over two parameters; the best framed, what did not run left empty.

    Args:
        path: of the PNG.
        groups: one for each cell that ran.
        keys: the parameter in rows, and the one in columns.
        metric: of :data:`alzmri.experiments.metrics.METRICS`.
    """
    ticks = [_ordered([group.settings.get(key) for group in groups]) for key in keys]
    values: NDArray[np.float64] = np.full((len(ticks[0]), len(ticks[1])), np.nan)
    texts = np.full(values.shape, "", dtype=object)
    for group in groups:
        row, column = (tick.index(group.settings.get(key)) for tick, key in zip(ticks, keys))
        values[row, column] = group.mean(metric)
        texts[row, column] = group.shown(metric).replace(" ±", "\n±")
    less_is_better = metric in LESS_IS_BETTER
    best = int(np.nanargmin(values) if less_is_better else np.nanargmax(values))
    row, column = divmod(best, values.shape[1])
    names = ([str(value) for value in ticks[0]], [str(value) for value in ticks[1]])
    with drawing(path, 1.6 + 0.95 * values.shape[1], 1.3 + 0.62 * values.shape[0]) as figure:
        axes = figure.add_subplot()
        labels = (keys[0], keys[1])
        figures.matrix(axes, values, texts, names, labels, less_is_better=less_is_better)
        frame = Rectangle((column - 0.48, row - 0.47), 0.96, 0.94, fill=False, lw=2.2)
        frame.set_edgecolor(SEVERITY[2])
        axes.add_patch(frame)
        axes.set_title(METRICS[metric], fontsize=9.5)


def _ordered(values: Sequence[Any]) -> list[Any]:
    """Each once, numbers before words."""
    unique = [value for place, value in enumerate(values) if value not in values[:place]]
    return sorted(
        unique, key=lambda v: (0, v, "") if isinstance(v, int | float) else (1, 0, str(v))
    )
