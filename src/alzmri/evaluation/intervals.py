"""Confidence intervals by resampling people: slices of one brain are not independent."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000

Interval = list[float]
"""``[low, high]``, from the 2.5 % to the 97.5 % quantile."""


def bootstrap(
    truth: NDArray[np.int64],
    predicted: NDArray[np.int64],
    subjects: Sequence[str],
    classes: int,
    seed: int,
) -> dict[str, Interval]:
    """95 % percentile intervals of accuracy and macro F1: how well the score is known.

    People are drawn with replacement, each with all their slices (the cluster bootstrap of Field
    and Welsh, 2007), and within their class, so that every resample has the classes that the
    macro average runs over. A class with a single person adds no spread: the interval is then
    narrower than the truth. ``truth`` and ``predicted`` are class indices of the slices.
    """
    confusion = _confusion_of_each(truth, predicted, subjects, classes)
    rng = np.random.default_rng(seed)
    draws = np.zeros((RESAMPLES, len(confusion)), dtype=np.int64)
    usual = confusion.sum(axis=2).argmax(axis=1)
    for label in np.unique(usual):
        members = np.flatnonzero(usual == label)
        draws[:, members] = _draw(rng, len(members), len(members))
    return _quantiles(draws, confusion)


def of_new_people(
    truth: NDArray[np.int64],
    predicted: NDArray[np.int64],
    subjects: Sequence[str],
    classes: int,
    seed: int,
    people: int,
) -> dict[str, Interval]:
    """Where accuracy and macro F1 of ``people`` new people fall, 95 times out of 100.

    A prediction interval, not a confidence interval: few people score far from the average of
    many. Drawn with replacement from all ``subjects``, whatever their class; the macro average
    runs over the classes that a draw happens to have.
    """
    confusion = _confusion_of_each(truth, predicted, subjects, classes)
    draws = _draw(np.random.default_rng(seed), people, len(confusion))
    return _quantiles(draws, confusion)


def _confusion_of_each(
    truth: NDArray[np.int64], predicted: NDArray[np.int64], subjects: Sequence[str], classes: int
) -> NDArray[np.int64]:
    """The confusion matrix of each person, ``[people, classes, classes]``."""
    names, member = np.unique(np.asarray(subjects), return_inverse=True)
    confusion = np.zeros((len(names), classes, classes), dtype=np.int64)
    np.add.at(confusion, (member, truth, predicted), 1)
    return confusion


def _draw(rng: np.random.Generator, people: int, among: int) -> NDArray[np.int64]:
    """How often each is drawn in each resample, ``[RESAMPLES, among]``."""
    return rng.multinomial(people, np.full(among, 1 / among), size=RESAMPLES)


def _quantiles(draws: NDArray[np.int64], confusion: NDArray[np.int64]) -> dict[str, Interval]:
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
