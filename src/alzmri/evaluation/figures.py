"""The figures of a test set, as a person would put them in a paper.

Arguments are named as in ``alzmri.evaluation.metrics``; ``note`` is the title, one line
that says what was tested, and whether the split leaks.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, roc_auc_score, roc_curve

from alzmri.evaluation.metrics import (
    CALIBRATION_BINS,
    Floats,
    Ints,
    expected_calibration_error,
    reliability,
)
from alzmri.figure import SEVERITY, drawing

GREY = "#767676"
MISTAKES_SHOWN = 24


def _wrapped(classes: Sequence[str]) -> list[str]:
    return [name.replace(" Demented", "\nDemented") for name in classes]


def confusion(path: Path, truth: Ints, predicted: Ints, classes: Sequence[str], note: str) -> None:
    """Counts and percentages of each true class, true classes in rows."""
    counts = confusion_matrix(truth, predicted, labels=range(len(classes)))
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    with drawing(path, 5.6, 4.5) as figure:
        axes = figure.add_subplot()
        image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for row, column in np.ndindex(*counts.shape):
            axes.text(
                column,
                row,
                f"{counts[row, column]}\n{share[row, column]:.0%}",
                ha="center",
                va="center",
                color="white" if share[row, column] > 0.6 else "black",
            )
        axes.set_xticks(range(len(classes)), _wrapped(classes), fontsize=8.5)
        axes.set_yticks(range(len(classes)), _wrapped(classes), fontsize=8.5)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set(xlabel="predicted", ylabel="actual")
        axes.set_title(note, fontsize=9)
        bar = figure.colorbar(image, ax=axes, shrink=0.75, format=lambda x, _: f"{x:.0%}")
        bar.set_label("share of the actual class")
        bar.outline.set_visible(False)


def roc(path: Path, truth: Ints, probabilities: Floats, classes: Sequence[str], note: str) -> None:
    """One curve per class against the rest, with its area."""
    with drawing(path, 5.2, 4.6) as figure:
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":")
        for index, name in enumerate(classes):
            positive = truth == index
            if not positive.any() or positive.all():
                continue
            false_positive, true_positive, _ = roc_curve(positive, probabilities[:, index])
            area = roc_auc_score(positive, probabilities[:, index])
            axes.plot(
                false_positive, true_positive, color=SEVERITY[index], label=f"{name}  {area:.2f}"
            )
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
    with drawing(path, columns * 1.45, rows * 1.78 + 0.5) as figure:
        figure.suptitle(note, fontsize=9, x=0.01, ha="left")
        if not len(worst):
            figure.text(0.5, 0.4, "no mistakes", ha="center", color=GREY)
            return
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat:
            axes.axis("off")
        for axes, index in zip(grid.flat, worst, strict=False):
            axes.imshow(images[index], cmap="gray", vmin=0, vmax=255)
            axes.set_title(
                f"is {short[truth[index]]}\nsaid {short[predicted[index]]} {confidence[index]:.0%}",
                fontsize=7.5,
            )
