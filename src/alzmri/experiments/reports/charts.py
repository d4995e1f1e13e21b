"""The figures of a comparison. Narrow, so that a phone shows them readable; on light or dark paper.

Ink and paper come from matplotlib's settings at the time of drawing.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from alzmri.evaluation.metrics import Floats
from alzmri.experiments.reports.groups import Group
from alzmri.figure import SEVERITY, drawing

Role = Literal["best", "baseline", "other"]
_ORDER: Sequence[Role] = ("other", "baseline", "best")
"""Of drawing, the last on top."""

_NAMED = 4
"""Grey lines up to this many are told apart and named; more are a crowd."""
_DASHES = ("-", "--", ":", "-.")
_GREY = "#8a9199"


@dataclass(frozen=True)
class Line:
    """One group in a diagram of curves; ``said`` is whether the legend names its role."""

    group: Group
    role: Role
    said: bool = True

    @property
    def colour(self) -> str:
        """Blue, orange or grey; legible on both papers."""
        blue = SEVERITY[1] if _dark() else SEVERITY[0]
        return {"best": blue, "baseline": SEVERITY[3], "other": _GREY}[self.role]

    @property
    def label(self) -> str:
        """Its name, and its role if it has one."""
        words = [self.group.name]
        if self.said and self.role not in ("other", self.group.name):
            words.append(f"({self.role})")
        if self.group.leaks:
            words.append("LEAKS")
        return " ".join(words)


def confusion(path: Path, group: Group) -> None:
    """Shares of each actual class, rows summing to one; all runs of the group together."""
    counts = group.confusion
    classes = [
        name.removesuffix(" Demented").replace("Very Mild", "Very\nMild")
        for name in group.runs[0].predictions.classes
    ]
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    with drawing(path, 2.9, 2.8) as figure:
        axes = figure.add_subplot()
        image = axes.imshow(share, cmap=_shades(), vmin=0, vmax=1)
        for (row, column), value in np.ndenumerate(share):
            _annotate(image, row, column, value, f"{value:.0%}")
        axes.set_xticks(range(len(classes)), classes, fontsize=8)
        axes.set_yticks(range(len(classes)), classes, fontsize=8)
        axes.set_xlabel("predicted", fontsize=8)
        axes.set_ylabel("actual", fontsize=8)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        name = textwrap.fill(group.name, 36)
        tested = "LEAKS: test people in training" if group.leaks else f"{counts.sum()} test slices"
        axes.set_title(f"{name}\n{tested}", fontsize=8.5)


def curves(path: Path, lines: Sequence[Line], column: str, title: str) -> None:
    """:func:`plot_curves` as the PNG at ``path``."""
    with drawing(path, 4.3, 3.3) as figure:
        plot_curves(figure, lines, column, title)


def plot_curves(figure: Figure, lines: Sequence[Line], column: str, title: str) -> None:
    """The mean over the runs of each group by epoch; around best and baseline a band of all runs.

    Args:
        figure: an empty one.
        lines: the highest ranked first; best and baseline are drawn over the others.
        column: of plots/history.csv.
        title: what is drawn.
    """
    others = [line for line in lines if line.role == "other"]
    crowd = len(others) > _NAMED
    axes = figure.add_subplot()
    lowest_first = list(reversed(lines))
    lowest_first.sort(key=lambda line: _ORDER.index(line.role))
    for number, line in enumerate(lowest_first):
        scores = _history(line.group, column)
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
    axes.set_title(title, fontsize=9.5)
    # Below the axes: names of experiments are longer than the gaps between curves.
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles[::-1],
        labels[::-1],
        loc="outside lower left",
        fontsize=8.5,
        labelcolor="linecolor",
    )


def heat_map(
    path: Path,
    values: Floats,
    spread: Floats,
    ticks: tuple[Sequence[object], Sequence[object]],
    keys: tuple[str, str],
    title: str,
    *,
    less_is_better: bool,
) -> None:
    """A score over two parameters, annotated; the best framed, what did not run left empty.

    Args:
        path: of the PNG.
        values: ``[rows, columns]``, NaN where nothing ran.
        spread: the standard deviation over seeds and folds, NaN for single runs.
        ticks: the values of the parameter in rows, and of that in columns.
        keys: the names of both.
        title: the score.
        less_is_better: whether the lowest is the best.
    """
    rows, columns = values.shape
    with drawing(path, 1.6 + 0.95 * columns, 1.3 + 0.62 * rows) as figure:
        axes = figure.add_subplot()
        # Faint for bad, strong for good, whichever way the score runs.
        shades = _shades().reversed() if less_is_better else _shades()
        image = axes.imshow(values, cmap=shades, aspect="auto")
        for (row, column), value in np.ndenumerate(values):
            if not np.isnan(value):
                known = spread[row, column]
                text = f"{value:.3f}" + ("" if np.isnan(known) else f"\n± {known:.3f}")
                _annotate(image, row, column, value, text)
        place = np.nanargmin(values) if less_is_better else np.nanargmax(values)
        row, column = np.unravel_index(place, values.shape)
        frame = Rectangle((column - 0.48, row - 0.47), 0.96, 0.94, fill=False, lw=2.2)
        frame.set_edgecolor(SEVERITY[2])
        axes.add_patch(frame)
        axes.set_xticks(range(columns), [str(tick) for tick in ticks[1]], fontsize=8.5)
        axes.set_yticks(range(rows), [str(tick) for tick in ticks[0]], fontsize=8.5)
        axes.set_xlabel(keys[1], fontsize=9)
        axes.set_ylabel(keys[0], fontsize=9)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_title(title, fontsize=9.5)


def _history(group: Group, column: str) -> Floats:
    """``[runs, epochs]``, up to the last epoch that all runs have."""
    scores = [[float(row[column]) for row in run.history] for run in group.runs]
    shortest = min(map(len, scores))
    return np.array([run[:shortest] for run in scores])


def _crowd(lines: Sequence[Line]) -> str:
    leaking = sum(line.group.leaks for line in lines)
    return f"{len(lines)} others" + (f", {leaking} of them LEAK" if leaking else "")


def _shades() -> Colormap:
    """From almost paper to a strong blue."""
    faint, strong = ("#20272e", "#a6d4fa") if _dark() else ("#eef4fa", "#08467e")
    return LinearSegmentedColormap.from_list("shades", (faint, strong))


def _annotate(image: AxesImage, row: int, column: int, value: float, text: str) -> None:
    """``text`` in a cell of ``image``, in ink that its shade leaves legible."""
    shade = image.to_rgba(np.array([value]))[0, :3]
    luminance = np.dot(shade, (0.299, 0.587, 0.114))
    image.axes.text(
        column,
        row,
        text,
        ha="center",
        va="center",
        color="white" if luminance < 0.55 else "black",
        fontsize=9,
    )


def _dark() -> bool:
    return bool(mpl.rcParams["figure.facecolor"] != "white")
