"""Scores of a test set, per slice and per person.

Arrays named ``truth`` and ``predicted`` are int64 ``[n]``, class indices in severity order;
``probabilities`` is float64 ``[n, classes]``, rows summing to 1; ``subjects`` names the person of
each of the ``n`` slices. Macro averages run over the classes that occur in ``truth``.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.metrics import (
    accuracy_score,
    log_loss,
    precision_recall_fscore_support,
    recall_score,
    roc_auc_score,
)

from alzmri.models.scores import Floats as Floats
from alzmri.models.scores import Ints as Ints
from alzmri.models.scores import macro_f1

CALIBRATION_BINS = 15
"""Of equal width over the confidence; the number of Guo et al. (2017)."""


def scores(truth: Ints, probabilities: Floats, classes: Sequence[str]) -> dict[str, Any]:
    """The slice-level part of ``models/evaluation.json``."""
    predicted = probabilities.argmax(axis=1)
    every = range(len(classes))
    present = np.unique(truth)
    precision, recall, f1, support = precision_recall_fscore_support(
        truth, predicted, labels=every, zero_division=0
    )
    return {
        "accuracy": float(accuracy_score(truth, predicted)),
        "macro_f1": macro_f1(truth, predicted),
        "balanced_accuracy": float(
            recall_score(truth, predicted, labels=present, average="macro", zero_division=0)
        ),
        "macro_auc": macro_auc(truth, probabilities),
        **confidence_scores(truth, probabilities),
        "per_class": {
            name: {
                "precision": float(precision[index]),
                "recall": float(recall[index]),
                "f1": float(f1[index]),
                "support": int(support[index]),
            }
            for index, name in enumerate(classes)
        },
    }


def macro_auc(truth: Ints, probabilities: Floats) -> float | None:
    """The mean one-versus-rest area under the ROC curve; None when only one class occurs."""
    present = np.unique(truth)
    if len(present) < 2:
        return None
    return float(
        np.mean([roc_auc_score(truth == index, probabilities[:, index]) for index in present])
    )


def reliability(truth: Ints, probabilities: Floats) -> tuple[Floats, Floats, Ints]:
    """Mean confidence, accuracy and number of slices in each non-empty bin of confidence."""
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == truth
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    counts = np.bincount(bins, minlength=CALIBRATION_BINS)
    used = counts > 0
    mean_confidence = np.bincount(bins, confidence, CALIBRATION_BINS)[used] / counts[used]
    accuracy = np.bincount(bins, correct, CALIBRATION_BINS)[used] / counts[used]
    return mean_confidence, accuracy, counts[used]


def expected_calibration_error(truth: Ints, probabilities: Floats) -> float:
    """Mean gap between confidence and accuracy, weighted by bin size; 0 to 1.

    Guo et al., "On calibration of modern neural networks" (2017), equation 3.
    """
    confidence, accuracy, counts = reliability(truth, probabilities)
    return float(np.sum(np.abs(confidence - accuracy) * counts) / counts.sum())


def brier(truth: Ints, probabilities: Floats) -> float:
    """Mean squared distance of the probabilities from the truth; 0 to 2 (Brier, 1950)."""
    target = np.eye(probabilities.shape[1])[truth]
    return float(np.mean(np.sum((probabilities - target) ** 2, axis=1)))


def by_distance(truth: Ints, predicted: Ints, classes: int) -> list[int]:
    """How many are right, in a neighbouring stage, two stages off, ...; ``classes`` counts."""
    counts: list[int] = np.bincount(np.abs(truth - predicted), minlength=classes).tolist()
    return counts


def by_subject(
    truth: Ints, probabilities: Floats, subjects: Sequence[str]
) -> tuple[Ints, Floats, list[str]]:
    """One row per person: most frequent class, mean of the slice probabilities, name."""
    names, member = np.unique(np.asarray(subjects), return_inverse=True)
    votes = np.zeros((len(names), probabilities.shape[1]), dtype=np.int64)
    np.add.at(votes, (member, truth), 1)
    mean = np.zeros_like(votes, dtype=np.float64)
    np.add.at(mean, member, probabilities)
    return votes.argmax(axis=1), mean / votes.sum(axis=1, keepdims=True), [str(n) for n in names]


def confidence_scores(truth: Ints, probabilities: Floats) -> dict[str, float]:
    """What temperature scaling changes: loss, calibration error, Brier score."""
    return {
        "loss": float(log_loss(truth, probabilities, labels=range(probabilities.shape[1]))),
        "ece": expected_calibration_error(truth, probabilities),
        "brier": brier(truth, probabilities),
    }
