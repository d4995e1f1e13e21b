"""Confidence intervals by resampling people: slices of one brain are not independent."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000

Interval = list[float]
"""``[low, high]``, from the 2.5 % to the 97.5 % quantile."""


class Classified(NamedTuple):
    """What one model said of one test part: class indices int64 ``[n]``, the person of each."""

    truth: NDArray[np.int64]
    predicted: NDArray[np.int64]
    subjects: Sequence[str]


@dataclass(frozen=True)
class Difference:
    """Macro F1 of one model less that of another, on the same people.

    Attributes:
        value: on all of them; -1 to 1.
        interval: 95 %, over people.
        ahead: the share of resamples in which the first scores higher; ties count half.
    """

    value: float
    interval: Interval
    ahead: float


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
    usual = confusion.sum(axis=2).argmax(axis=1)
    draws = _draw_within(np.random.default_rng(seed), usual[:, np.newaxis])
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


def mean_macro_f1(
    tests: Sequence[Classified], classes: int, seed: int
) -> tuple[float, NDArray[np.float64]]:
    """The mean macro F1 of ``tests``: on all people, and in each of ``RESAMPLES`` resamples.

    The tests are repetitions with other seeds, or folds, or both. People are drawn as in
    :func:`bootstrap`, once for all tests: whoever is in several is in all of them as often. People
    of one fold are drawn for that fold. The draws depend on truth, people and seed only: two
    models tested on the same slices are resampled alike.
    """
    names, member = np.unique(
        np.concatenate([np.asarray(test.subjects) for test in tests]), return_inverse=True
    )
    members = np.split(member, np.cumsum([len(test.truth) for test in tests])[:-1])
    confusion = np.zeros((len(tests), len(names), classes, classes), dtype=np.int64)
    for matrix, rows, test in zip(confusion, members, tests, strict=True):
        np.add.at(matrix, (rows, test.truth, test.predicted), 1)
    of_class = confusion.sum(axis=3)
    usual = of_class.sum(axis=0).argmax(axis=1)
    tested_in = of_class.sum(axis=2).T > 0
    draws = _draw_within(np.random.default_rng(seed), np.column_stack((usual, tested_in)))
    everyone = _macro_f1(confusion.sum(axis=1)).mean()
    resampled = np.stack([_macro_f1(np.tensordot(draws, matrix, axes=1)) for matrix in confusion])
    return float(everyone), resampled.mean(axis=0)


def difference(
    first: Sequence[Classified], second: Sequence[Classified], classes: int, seed: int
) -> Difference:
    """How far ``first`` is ahead of ``second``, which is tested on the same slices, test by test.

    The paired bootstrap (Efron and Tibshirani, 1993, chapter 16) over people: what makes a person
    easy or hard for both falls out of the difference, so that it is known better than either score.

    Raises:
        ValueError: when a pair of tests is not of the same slices of the same people.
    """
    for one, other in zip(first, second, strict=True):
        if list(one.subjects) != list(other.subjects) or not np.array_equal(one.truth, other.truth):
            raise ValueError("not tested on the same slices")
    (ours, samples), (theirs, other_samples) = (
        mean_macro_f1(tests, classes, seed) for tests in (first, second)
    )
    differences = samples - other_samples
    return Difference(
        value=ours - theirs,
        interval=quantiles(differences),
        ahead=float(np.mean(differences > 0) + np.mean(differences == 0) / 2),
    )


def quantiles(samples: NDArray[np.float64]) -> Interval:
    """The 95 % interval of ``samples``."""
    return [float(bound) for bound in np.quantile(samples, (0.025, 0.975))]


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


def _draw_within(rng: np.random.Generator, strata: NDArray[np.int64]) -> NDArray[np.int64]:
    """As often as there are people in each stratum; equal rows of ``strata`` are one."""
    draws = np.zeros((RESAMPLES, len(strata)), dtype=np.int64)
    _, member = np.unique(strata, axis=0, return_inverse=True)
    for stratum in range(member.max() + 1):
        members = np.flatnonzero(member == stratum)
        draws[:, members] = _draw(rng, len(members), len(members))
    return draws


def _quantiles(draws: NDArray[np.int64], confusion: NDArray[np.int64]) -> dict[str, Interval]:
    resampled = np.tensordot(draws, confusion, axes=1)
    hits = np.trace(resampled, axis1=1, axis2=2)
    return {
        "accuracy": quantiles(hits / resampled.sum(axis=(1, 2))),
        "macro_f1": quantiles(_macro_f1(resampled)),
    }


def _macro_f1(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Of each matrix of ``[..., actual, predicted]``, over the classes that occur in it."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    actual, guessed = confusion.sum(axis=-1), confusion.sum(axis=-2)
    occurs = actual > 0
    f1 = 2 * hits / np.maximum(actual + guessed, 1)
    mean: NDArray[np.float64] = (f1 * occurs).sum(axis=-1) / occurs.sum(axis=-1)
    return mean
