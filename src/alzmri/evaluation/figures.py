"""The figures of a test set, as a user would put them in a paper.

Arguments are named as in ``alzmri.evaluation.metrics``; ``note`` is the title, one line
that says what was tested, and whether the split leaks.
"""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.image import AxesImage
from numpy.typing import NDArray

from alzmri.figure import SEVERITY, drawing, severity

GREY = "#767676"
MISTAKES_SHOWN = 24

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def matrix(
    axes: Axes,
    values: Floats,
    texts: NDArray[Any],
    ticks: tuple[Sequence[str], Sequence[str]],
    labels: tuple[str, str],
    *,
    limits: tuple[float, float] | None = None,
    less_is_better: bool = False,
) -> AxesImage:
    """Shade a matrix from faint to strong blue and write a text into each cell.

    Args:
        axes: empty ones; light or dark, as matplotlib's settings are.
        values: ``[rows, columns]``; NaN leaves a cell empty.
        texts: str ``[rows, columns]``.
        ticks: names of the rows, and of the columns.
        labels: what the rows are, and the columns.
        limits: the values of the faintest and of the strongest blue; None for those in ``values``.
        less_is_better: whether the lowest value is the strongest blue.
    """
    light = mpl.rcParams["figure.facecolor"] == "white"
    blues = ("#eef4fa", "#08467e") if light else ("#20272e", "#a6d4fa")
    shades = LinearSegmentedColormap.from_list("blues", blues[::-1] if less_is_better else blues)
    low, high = limits or (None, None)
    image = axes.imshow(values, cmap=shades, vmin=low, vmax=high, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        if not np.isnan(value):
            # Ink that the shade behind it leaves legible.
            luminance = np.dot(image.to_rgba(np.array([value]))[0, :3], (0.299, 0.587, 0.114))
            ink = "white" if luminance < 0.55 else "black"
            centred: Any = {"ha": "center", "va": "center"}
            axes.text(column, row, str(texts[row, column]), color=ink, fontsize=9, **centred)
    axes.set_yticks(range(len(ticks[0])), ticks[0], fontsize=8.5)
    axes.set_xticks(range(len(ticks[1])), ticks[1], fontsize=8.5)
    axes.set_ylabel(labels[0], fontsize=9)
    axes.set_xlabel(labels[1], fontsize=9)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return image


def confusion(
    path: Path,
    truth: Ints,
    predicted: Ints,
    classes: Sequence[str],
    note: str,
    *,
    small: bool = False,
) -> None:
    """Shares of each actual class, in rows; a class that is never predicted has its column too.

    A ``small`` one, to be set beside others, has percentages only, and neither counts nor a scale.
    """
    counts = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(counts, (truth, predicted), 1)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    texts = np.array([f"{value:.0%}" for value in share.flat], dtype=object).reshape(share.shape)
    if small:
        names = [textwrap.fill(name.removesuffix(" Demented"), 8) for name in classes]
    else:
        texts = counts.astype(str).astype(object) + "\n" + texts
        names = [textwrap.fill(name, 10) for name in classes]
    scale = max(1.0, len(classes) / 5)
    with drawing(path, *(2.9, 2.8) if small else (5.6 * scale, 4.5 * scale)) as figure:
        axes = figure.add_subplot()
        image = matrix(axes, share, texts, (names, names), ("actual", "predicted"), limits=(0, 1))
        axes.set_aspect("equal")
        axes.tick_params(labelsize=8 if small else 8.5)
        axes.set_title(note, fontsize=8.5 if small else 9)
        if not small:
            bar = figure.colorbar(image, ax=axes, shrink=0.75, format=lambda x, _: f"{x:.0%}")
            bar.set_label("share of the actual class")
            bar.outline.set_visible(False)


def roc(path: Path, truth: Ints, probabilities: Floats, classes: Sequence[str], note: str) -> None:
    """One curve per class against the rest, with its area."""
    # Not at the top: compare and review draw without torch.
    from alzmri.evaluation import metrics

    with drawing(path, 5.2, 4.6) as figure:
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":")
        for index, (name, colour) in enumerate(zip(classes, severity(len(classes)), strict=True)):
            positive = truth == index
            if not positive.any() or positive.all():
                continue
            false_positive, true_positive = metrics.roc(positive, probabilities[:, index])
            area = np.trapezoid(true_positive, false_positive)
            axes.plot(false_positive, true_positive, color=colour, label=f"{name}  {area:.2f}")
        axes.set(
            xlabel="false positive rate",
            ylabel="true positive rate",
            xlim=(-0.01, 1.01),
            ylim=(-0.01, 1.01),
            aspect="equal",
        )
        axes.set_title(note, fontsize=9)
        axes.legend(title="area under the curve", loc="lower right", fontsize=9)


def reliability_diagram(
    path: Path, truth: Ints, probabilities: Mapping[str, Floats], note: str
) -> None:
    """Accuracy against confidence, points as large as their share of slices, and how many.

    ``probabilities`` are two sets by their names in the legend: before and after calibration.
    """
    from alzmri.evaluation.metrics import (
        CALIBRATION_BINS,
        expected_calibration_error,
        reliability,
    )

    with drawing(path, 5.0, 5.2) as figure:
        axes, histogram = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [3, 1]})
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":", label="calibrated")
        for (name, chances), colour in zip(
            probabilities.items(), (SEVERITY[0], SEVERITY[2]), strict=True
        ):
            confidence, accuracy, counts = reliability(truth, chances)
            error = expected_calibration_error(truth, chances)
            label = f"{name}: error {error:.3f}"
            axes.plot(confidence, accuracy, "-", color=colour, linewidth=1, label=label)
            axes.scatter(confidence, accuracy, 3 + 300 * counts / counts.sum(), color=colour)
            edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
            histogram.hist(chances.max(axis=1), edges, color=colour, histtype="step", linewidth=1.5)
        axes.set(ylabel="accuracy", ylim=(0, 1.02))
        axes.set_title(note, fontsize=9)
        axes.legend(loc="lower right", fontsize=8.5)
        histogram.set(xlabel="confidence (probability of the predicted class)", xlim=(0, 1.02))
        histogram.set_ylabel("slices")


def mistakes(
    path: Path,
    images: NDArray[np.uint8],
    truth: Ints,
    probabilities: Floats,
    classes: Sequence[str],
    note: str,
) -> None:
    """The slices (uint8 ``[n, side, side]``) that the model got wrong with most confidence."""
    predicted = probabilities.argmax(axis=1)
    confidence = probabilities.max(axis=1)
    wrong = np.flatnonzero(predicted != truth)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:MISTAKES_SHOWN]
    short = [name.removesuffix(" Demented") for name in classes]
    columns = 6
    rows = max(1, -(-len(worst) // columns))
    height, head, gap = rows * 1.78 + 0.5, 0.72, 0.36  # inches; two lines stand above a slice
    with drawing(path, columns * 1.45, height) as figure:
        figure.set_layout_engine("none")  # which would take a second for so many axes
        figure.suptitle(note, fontsize=9, x=0.01, ha="left")
        if not len(worst):
            figure.text(0.5, 0.4, "no mistakes", ha="center", color=GREY)
            return
        side = (height - head - (rows - 1) * gap) / rows
        places = {"left": 0.01, "right": 0.99, "bottom": 0, "top": 1 - head / height}
        spaces = {"wspace": 0.05, "hspace": gap / side}
        grid = figure.subplots(rows, columns, squeeze=False, gridspec_kw={**places, **spaces})
        for axes in grid.flat:
            axes.axis("off")
        for axes, index in zip(grid.flat, worst, strict=False):
            axes.imshow(images[index], cmap="gray", vmin=0, vmax=255)
            axes.set_title(
                f"is {short[truth[index]]}\nsaid {short[predicted[index]]} {confidence[index]:.0%}",
                fontsize=7.5,
            )
