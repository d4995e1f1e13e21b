"""The figures of a test set, ready for a paper.

Arguments are named as in ``alzmri.evaluation.metrics``; ``note`` is the title, one line about the
tested slices and whether the split leaks.
"""

import csv
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from alzmri.evaluation import intervals, metrics
from alzmri.figure import SEVERITY, drawing, severity
from alzmri.models.validation import Floats, Ints

GREY = "#767676"
MISTAKES_OF_A_CLASS = 6


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
        axes: empty axes; light or dark, by matplotlib's settings.
        values: ``[rows, columns]``; NaN leaves a cell empty.
        texts: str ``[rows, columns]``.
        ticks: names of the rows, and of the columns.
        labels: of the vertical and of the horizontal axis.
        limits: values of the faintest and of the strongest blue; None for the range of ``values``.
        less_is_better: whether the lowest value is the strongest blue.
    """
    light = mpl.rcParams["figure.facecolor"] == "white"
    blues = ("#eef4fa", "#08467e") if light else ("#20272e", "#a6d4fa")
    shades = LinearSegmentedColormap.from_list("blues", blues[::-1] if less_is_better else blues)
    low, high = limits or (None, None)
    image = axes.imshow(values, cmap=shades, vmin=low, vmax=high, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        if not np.isnan(value):
            # Choose ink that is legible on the shade.
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
    """Draw shares of each actual class in rows; a class that is never predicted has a column too.

    A ``small`` matrix, for a row of several, has percentages without counts and scale.
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


def roc(
    path: Path,
    truth: Ints,
    probabilities: Floats,
    subjects: Sequence[str],
    classes: Sequence[str],
    note: str,
) -> None:
    """Draw a ROC curve per class against the rest, with area and 95 % band over subjects."""
    grid = np.linspace(0, 1, 101)
    bounds = intervals.samples(truth, probabilities, subjects, seed=0)
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
            low, high = intervals.roc_band(bounds, index, grid)
            axes.fill_between(grid, low, high, color=colour, alpha=0.12, linewidth=0)
        axes.set(xlabel="false positive rate", ylabel="true positive rate", aspect="equal")
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
        axes.set_title(f"{note}\nbands: 95 % over subjects", fontsize=9)
        axes.legend(title="area under the curve", loc="lower right", fontsize=9)


def reliability_diagram(
    path: Path, truth: Ints, probabilities: Mapping[str, Floats], subjects: Sequence[str], note: str
) -> None:
    """Draw accuracy against confidence with 95 % intervals over subjects, and a histogram.

    ``probabilities`` are two sets by their names in the legend: before and after calibration.
    """
    # Imported here, because compare and review draw without torch.
    from alzmri.ood.detector import share_interval

    edges = np.linspace(0, 1, metrics.CALIBRATION_BINS + 1)
    with drawing(path, 5.0, 5.2) as figure:
        axes, histogram = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [3, 1]})
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":", label="calibrated")
        for (name, chances), colour, aside in zip(
            probabilities.items(), (SEVERITY[0], SEVERITY[2]), (-0.004, 0.004), strict=True
        ):
            confidence, accuracy, _ = metrics.reliability(truth, chances)
            whose = zip(metrics.bins(chances).tolist(), subjects, strict=True)
            places = [place for place, _ in set(whose)]
            tested = np.bincount(places, minlength=metrics.CALIBRATION_BINS)
            bounds = [
                share_interval(share, number)
                for share, number in zip(accuracy, tested[tested > 0], strict=True)
            ]
            away = np.abs(np.transpose(bounds) - accuracy)
            error = metrics.expected_calibration_error(truth, chances)
            label = f"{name}: error {error:.3f}"
            style: dict[str, Any] = {"color": colour, "linewidth": 1, "elinewidth": 0.8}
            axes.errorbar(confidence + aside, accuracy, away, fmt=".-", label=label, **style)
            histogram.hist(chances.max(axis=1), edges, color=colour, histtype="step", linewidth=1.5)
        axes.set(ylabel="accuracy", ylim=(0, 1.02))
        axes.set_title(f"{note}\nbars: 95 % over subjects", fontsize=9)
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
    """Draw a row for each class, with its most confidently misclassified slices.

    ``images`` are uint8 ``[n, side, side]``.
    """
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = predicted != truth
    rows = np.unique(truth[wrong])
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
        spaces = {"wspace": 0.05, "hspace": gap / side}
        grid = figure.subplots(
            len(rows), MISTAKES_OF_A_CLASS, squeeze=False, gridspec_kw={**places, **spaces}
        )
        for line, row in zip(grid, rows, strict=True):
            mine = np.flatnonzero(wrong & (truth == row))
            worst = mine[np.argsort(-confidence[mine], kind="stable")]
            name = textwrap.fill(classes[row], 14)
            shown = f"{name}\n{len(mine)} of {(truth == row).sum()} wrong"
            line[0].text(-0.08, 0.5, shown, ha="right", va="center", fontsize=8)
            line[0].texts[0].set_transform(line[0].transAxes)
            for axes in line:
                axes.axis("off")
            for axes, index in zip(line, worst, strict=False):
                axes.imshow(images[index], cmap="gray", vmin=0, vmax=255)
                said = classes[predicted[index]].removesuffix(" Demented")
                axes.set_title(f"{said} {confidence[index]:.0%}", fontsize=7.5, pad=3)


def history(path: Path, table: Path) -> None:
    """Draw the learning curves of ``plots/history.csv``, and mark the kept epoch."""
    with table.open(newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    columns = {name: [float(row[name]) for row in rows] for name in rows[0]}
    best = max(rows, key=lambda row: (float(row["val_macro_f1"]), -float(row["val_loss"])))
    with drawing(path, 8.0, 3.0) as figure:
        pairs = (("train_loss", "val_loss"), ("val_accuracy", "val_macro_f1"))
        for axes, names in zip(figure.subplots(1, 2), pairs, strict=True):
            for name, colour in zip(names, (SEVERITY[0], SEVERITY[3]), strict=True):
                label = name.replace("val_", "validation ").replace("train_", "training ")
                label = label.replace("macro_f1", "macro F1")
                axes.plot(columns["epoch"], columns[name], ".-", color=colour, label=label)
            axes.axvline(int(best["epoch"]), color=GREY, linewidth=0.8, linestyle=":")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.set(xlabel=f"epoch (the model is of epoch {best['epoch']})")
            axes.legend(fontsize=9)
