"""Confidence intervals by resampling people: slices of one brain are not independent."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000


def bootstrap(
    truth: NDArray[np.int64],
    predicted: NDArray[np.int64],
    subjects: Sequence[str],
    classes: int,
    seed: int,
) -> dict[str, list[float]]:
    """95 % percentile intervals of accuracy and macro F1, each ``[low, high]``.

    People are drawn with replacement, each with all their slices (the cluster bootstrap of Field
    and Welsh, 2007), and within their class, so that every resample has the classes that the
    macro average runs over. A class with a single person adds no spread: the interval is then
    narrower than the truth. ``truth`` and ``predicted`` are class indices of the slices.
    """
    names, member = np.unique(np.asarray(subjects), return_inverse=True)
    confusion = np.zeros((len(names), classes, classes), dtype=np.int64)
    np.add.at(confusion, (member, truth, predicted), 1)
    rng = np.random.default_rng(seed)
    draws = np.zeros((RESAMPLES, len(names)), dtype=np.int64)
    usual = confusion.sum(axis=2).argmax(axis=1)
    for label in np.unique(usual):
        members = np.flatnonzero(usual == label)
        share = np.full(len(members), 1 / len(members))
        draws[:, members] = rng.multinomial(len(members), share, size=RESAMPLES)
    resampled = np.tensordot(draws, confusion, axes=1)

    hits = np.diagonal(resampled, axis1=1, axis2=2)
    actual, guessed = resampled.sum(axis=2), resampled.sum(axis=1)
    accuracy = hits.sum(axis=1) / resampled.sum(axis=(1, 2))
    f1 = 2 * hits / np.maximum(actual + guessed, 1)
    occurs = actual > 0
    macro_f1 = (f1 * occurs).sum(axis=1) / occurs.sum(axis=1)
    return {
        name: [float(bound) for bound in np.quantile(values, (0.025, 0.975))]
        for name, values in (("accuracy", accuracy), ("macro_f1", macro_f1))
    }
