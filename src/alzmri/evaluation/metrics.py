"""Scores of a test set, per slice and per subject.

Arrays named ``truth`` and ``predicted`` are int64 ``[n]``, class indices in severity order;
``probabilities`` is float64 ``[n, classes]``, rows summing to 1; ``subjects`` names the subject of
each of the ``n`` slices. Macro averages run over the classes that occur in ``truth``.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alzmri.models.validation import Floats, Ints, macro_f1

CALIBRATION_BINS = 15  # equal-width bins of confidence (Guo et al., 2017)


def scores(truth: Ints, probabilities: Floats, classes: Sequence[str]) -> dict[str, Any]:
    """The slice-level part of ``models/evaluation.json``."""
    # Importing scikit-learn takes longer than scoring a small collection.
    predicted = probabilities.argmax(axis=1)
    confusion = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(confusion, (truth, predicted), 1)
    hits, support, said = np.diagonal(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    others = len(truth) - support
    rates = {
        "precision": hits / np.maximum(said, 1),
        "recall": hits / np.maximum(support, 1),
        "specificity": (others - (said - hits)) / np.maximum(others, 1),
        "f1": 2 * hits / np.maximum(support + said, 1),
    }
    per_class, counts = {}, {}
    for index, name in enumerate(classes):
        per_class[name] = {key: float(values[index]) for key, values in rates.items()}
        per_class[name]["support"] = int(support[index])
        counts[name] = dict(zip(classes, confusion[index].tolist(), strict=True))
    return {
        "accuracy": float(np.mean(truth == predicted)),
        "macro_f1": macro_f1(truth, predicted),
        "balanced_accuracy": float(rates["recall"][support > 0].mean()),
        "macro_auc": macro_auc(truth, probabilities),
        **confidence_scores(truth, probabilities),
        "per_class": per_class,
        "counts": counts,
    }


def macro_auc(truth: Ints, probabilities: Floats) -> float | None:
    """The mean one-versus-rest area under the ROC curve, 0 to 1; None for a single class."""
    present = np.unique(truth)
    if len(present) < 2:
        return None
    curves = (roc(truth == index, probabilities[:, index]) for index in present)
    return float(np.mean([np.trapezoid(*curve[::-1]) for curve in curves]))


def roc(positive: NDArray[np.bool_], score: Floats) -> tuple[Floats, Floats]:
    """The ROC curve: false and true positive rates, from 0 to 1, as the threshold falls.

    ``positive`` is ``[n]``, with both values; ``score`` ``[n]``, higher where positive is likelier.
    """
    order = np.argsort(-score, kind="stable")
    last = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)  # last of equal scores
    right = np.cumsum(positive[order])[last]
    wrong = last + 1 - right
    return np.append(0, wrong) / wrong[-1], np.append(0, right) / right[-1]


def bins(probabilities: Floats) -> Ints:
    """The bin of each slice's confidence, int64 ``[n]``, 0 to ``CALIBRATION_BINS`` - 1."""
    places = (probabilities.max(axis=1) * CALIBRATION_BINS).astype(np.int64)
    return np.minimum(places, CALIBRATION_BINS - 1)


def reliability(truth: Ints, probabilities: Floats) -> tuple[Floats, Floats, Ints]:
    """Mean confidence, accuracy and number of slices of non-empty bins, ``[bins]`` each."""
    places, correct = bins(probabilities), probabilities.argmax(axis=1) == truth
    counts = np.bincount(places)
    used = counts > 0
    confidence = np.bincount(places, probabilities.max(axis=1))[used] / counts[used]
    return confidence, np.bincount(places, correct)[used] / counts[used], counts[used]


def expected_calibration_error(truth: Ints, probabilities: Floats) -> float:
    """Mean gap between confidence and accuracy, weighted by bin size; 0 to 1.

    Guo et al., "On calibration of modern neural networks" (2017), equation 3.
    """
    confidence, accuracy, counts = reliability(truth, probabilities)
    return float(np.sum(np.abs(confidence - accuracy) * counts) / counts.sum())


def calibrated(probabilities: Floats, subjects: Sequence[str], seed: int) -> dict[str, Any]:
    """The calibration error by chance alone: its ``mean`` and ``range`` of 95 in 100 tests.

    It draws labels 1000 times from the probabilities of each slice, by one random number for all
    slices of a subject, because they share their label.
    """
    rng = np.random.default_rng(seed)
    names, member = np.unique(np.asarray(subjects), return_inverse=True)
    said = probabilities.argmax(axis=1)[:, np.newaxis]
    high = np.take_along_axis(np.cumsum(probabilities, axis=1), said, axis=1)[:, 0]
    confidence, places = probabilities.max(axis=1), bins(probabilities)
    errors = []
    for chance in rng.random((1000, len(names))):
        drawn = chance[member]
        gaps = confidence - ((high - confidence < drawn) & (drawn <= high))
        errors.append(np.abs(np.bincount(places, gaps)).sum() / len(places))
    low, most = np.quantile(errors, (0.025, 0.975))
    return {"mean": float(np.mean(errors)), "range": [float(low), float(most)]}


def brier_scores(truth: Ints, probabilities: Floats) -> Floats:
    """Squared distance of the probabilities from the class, ``[n]``; 0 to 2 (Brier, 1950)."""
    return np.sum((probabilities - np.eye(probabilities.shape[1])[truth]) ** 2, axis=1)


def losses(truth: Ints, probabilities: Floats) -> Floats:
    """The cross-entropy of each slice, ``[n]``."""
    own = probabilities[np.arange(len(truth)), truth]
    return -np.log(np.maximum(own, np.finfo(np.float64).eps))


def confidence_scores(truth: Ints, probabilities: Floats) -> dict[str, float]:
    """The scores that temperature scaling changes: loss, calibration error, Brier score."""
    return {
        "loss": float(losses(truth, probabilities).mean()),
        "ece": expected_calibration_error(truth, probabilities),
        "brier": float(brier_scores(truth, probabilities).mean()),
    }


def by_subject(
    truth: Ints, probabilities: Floats, subjects: Sequence[str], counted: NDArray[np.bool_]
) -> tuple[Ints, Floats, list[str]]:
    """One row per subject: most frequent class, mean of the slice probabilities, name.

    The mean is over ``counted`` slices, bool ``[n]``, or over all slices of a subject if none is
    counted.
    """
    names, member = np.unique(np.asarray(subjects), return_inverse=True)
    votes, sums = np.zeros((2, len(names), probabilities.shape[1]))
    np.add.at(votes, (member, truth), 1)
    counted = counted | (np.bincount(member, counted) == 0)[member]
    np.add.at(sums, member[counted], probabilities[counted])
    mean = sums / np.bincount(member, counted)[:, np.newaxis]
    return votes.argmax(axis=1), mean, names.tolist()
