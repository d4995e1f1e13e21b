"""The figures of a test set, ready for a paper.

``note`` is the title, one line about the tested slices and whether the split leaks.
"""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import MaxNLocator

from alzmri.data.prepared import short
from alzmri.evaluation import intervals, metrics
from alzmri.figure import SEVERITY, drawing, severity
from alzmri.models.validation import Ints

if TYPE_CHECKING:  # compare and review draw without torch
    from alzmri.evaluation.assessment import Predictions

GREY = "#767676"
MISTAKES_OF_A_CLASS = 6


def confusion(
    path: Path,
    truth: Ints,
    predicted: Ints,
    classes: Sequence[str],
    note: str,
    *,
    small: bool = False,
) -> None:
    """Draw shares of each actual class in rows; a class that is never predicted has a column too.

    ``truth`` and ``predicted`` are class indices ``[n]``. ``small`` leaves out counts and scale.
    """
    counts = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(counts, (truth, predicted), 1)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    if small:
        names = [textwrap.fill(short(name), 8) for name in classes]
    else:
        names = [textwrap.fill(name, 10) for name in classes]
    scale = max(1.0, len(classes) / 5)
    with drawing(path, *(2.9, 2.8) if small else (5.6 * scale, 4.5 * scale)) as figure:
        axes = figure.add_subplot()
        shades = LinearSegmentedColormap.from_list("blues", ("#eef4fa", "#08467e"))
        image = axes.imshow(share, cmap=shades, vmin=0, vmax=1)
        for (row, column), value in np.ndenumerate(share):
            text = f"{value:.0%}" if small else f"{counts[row, column]}\n{value:.0%}"
            style: Any = {"ha": "center", "va": "center", "fontsize": 9}
            ink = "white" if value > 0.55 else "black"  # legible on the shade
            axes.text(column, row, text, color=ink, **style)
        axes.set_yticks(range(len(names)), names)
        axes.set_xticks(range(len(names)), names)
        axes.set_ylabel("actual", fontsize=9)
        axes.set_xlabel("predicted", fontsize=9)
        axes.tick_params(length=0, labelsize=8 if small else 8.5)
        axes.spines[:].set_visible(False)
        axes.set_title(note, fontsize=8.5 if small else 9)
        if not small:
            bar = figure.colorbar(image, ax=axes, shrink=0.75, format=lambda x, _: f"{x:.0%}")
            bar.set_label("share of the actual class")
            bar.outline.set_visible(False)


def roc(path: Path, test: "Predictions", note: str) -> None:
    """Draw a ROC curve per class against the rest, with area and 95 % band over subjects."""
    grid, chances, colours = np.linspace(0, 1, 101), test.probabilities, severity(len(test.classes))
    bounds = intervals.samples(test.truth, chances, test.subjects, seed=0)
    with drawing(path, 5.2, 4.6) as figure:
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":")
        for index, (name, colour) in enumerate(zip(test.classes, colours, strict=True)):
            positive = test.truth == index
            if not positive.any() or positive.all():
                continue
            false_positive, true_positive = metrics.roc(positive, chances[:, index])
            area = np.trapezoid(true_positive, false_positive)
            axes.plot(false_positive, true_positive, color=colour, label=f"{name}  {area:.2f}")
            low, high = intervals.roc_band(bounds, index, grid)
            axes.fill_between(grid, low, high, color=colour, alpha=0.12, linewidth=0)
        axes.set(xlabel="false positive rate", ylabel="true positive rate", aspect="equal")
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
        axes.set_title(f"{note}\nbands: 95 % over subjects", fontsize=9)
        axes.legend(title="area under the curve", loc="lower right", fontsize=9)


def reliability(path: Path, test: "Predictions", note: str) -> None:
    """Draw accuracy against confidence with 95 % intervals over subjects, and a histogram.

    Both are shown before and after division of the logits by the temperature.
    """
    from alzmri.ood.detector import share_interval  # imports torch

    edges = np.linspace(0, 1, metrics.CALIBRATION_BINS + 1)
    with drawing(path, 5.0, 5.2) as figure:
        axes, histogram = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [3, 1]})
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":", label="calibrated")
        for name, temperature, colour, aside in (
            ("as trained", 1, SEVERITY[0], -0.004),
            (f"at temperature {test.temperature:.2f}", test.temperature, SEVERITY[2], 0.004),
        ):
            chances = test.at(temperature)
            confidence, accuracy, _ = metrics.reliability(test.truth, chances)
            whose = set(zip(metrics.bins(chances).tolist(), test.subjects, strict=True))
            tested = np.bincount([place for place, _ in whose])
            pairs = zip(accuracy, tested[tested > 0], strict=True)
            away = np.abs(np.transpose([share_interval(*pair) for pair in pairs]) - accuracy)
            error = metrics.expected_calibration_error(test.truth, chances)
            label = f"{name}: error {error:.3f}"
            style: dict[str, Any] = {"color": colour, "linewidth": 1, "elinewidth": 0.8}
            axes.errorbar(confidence + aside, accuracy, away, fmt=".-", label=label, **style)
            histogram.hist(chances.max(axis=1), edges, color=colour, histtype="step", linewidth=1.5)
        axes.set(ylabel="accuracy", ylim=(0, 1.02))
        axes.set_title(f"{note}\nbars: 95 % over subjects", fontsize=9)
        axes.legend(loc="lower right", fontsize=8.5)
        histogram.set(xlabel="confidence (probability of the predicted class)", xlim=(0, 1.02))
        histogram.set_ylabel("slices")


def mistakes(path: Path, test: "Predictions", note: str) -> None:
    """Draw a row for each class, with its most confidently misclassified slices."""
    predicted, confidence = test.predicted, test.probabilities.max(axis=1)
    wrong = predicted != test.truth
    rows = np.unique(test.truth[wrong])
    height, width, head, gap = max(1, len(rows)) * 1.72 + 0.3, 9.6, 0.52, 0.3  # inches
    with drawing(path, width, height) as figure:
        figure.set_layout_engine("none")  # which would take a second for so many axes
        title = f"The surest mistakes in each class: prediction and its probability ({note})"
        figure.suptitle(title, fontsize=9, x=0.01, ha="left")
        if not len(rows):
            figure.text(0.5, 0.4, "no mistakes", ha="center", color=GREY)
            return
        side = (height - head - (len(rows) - 1) * gap) / len(rows)
        places = {"left": 0.13, "right": 0.99, "bottom": 0.01, "top": 1 - head / height}
        places |= {"wspace": 0.05, "hspace": gap / side}
        grid = figure.subplots(len(rows), MISTAKES_OF_A_CLASS, squeeze=False, gridspec_kw=places)
        for line, row in zip(grid, rows, strict=True):
            mine = np.flatnonzero(wrong & (test.truth == row))
            worst = mine[np.argsort(-confidence[mine], kind="stable")]
            name = textwrap.fill(test.classes[row], 14)
            shown = f"{name}\n{len(mine)} of {(test.truth == row).sum()} wrong"
            place: Any = {"transform": line[0].transAxes, "ha": "right", "va": "center"}
            line[0].text(-0.08, 0.5, shown, fontsize=8, **place)
            for axes in line:
                axes.axis("off")
            for axes, index in zip(line, worst, strict=False):
                axes.imshow(test.images[index], cmap="gray", vmin=0, vmax=255)
                said = short(test.classes[predicted[index]])
                # Without `y`, matplotlib would measure the hidden ticks.
                axes.set_title(f"{said} {confidence[index]:.0%}", fontsize=7.5, pad=3, y=1)


def history(path: Path, table: Path) -> None:
    """Draw the learning curves of ``plots/history.csv``, and mark the kept epoch."""
    rows = np.atleast_1d(np.genfromtxt(table, delimiter=",", names=True))
    best = rows["epoch"][np.lexsort((rows["val_loss"], -rows["val_macro_f1"]))[0]]
    with drawing(path, 8.0, 3.0) as figure:
        left, right = figure.subplots(1, 2)
        for axes, column, label, colour in (
            (left, "train_loss", "training loss", SEVERITY[0]),
            (left, "val_loss", "validation loss", SEVERITY[3]),
            (right, "val_accuracy", "validation accuracy", SEVERITY[0]),
            (right, "val_macro_f1", "validation macro F1", SEVERITY[3]),
        ):
            axes.plot(rows["epoch"], rows[column], ".-", color=colour, label=label)
        for axes in (left, right):
            axes.axvline(best, color=GREY, linewidth=0.8, linestyle=":")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.set(xlabel=f"epoch (the model is of epoch {best:.0f})")
            axes.legend(fontsize=9)
