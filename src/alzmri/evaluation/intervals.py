"""95 % intervals over subjects: slices of one brain are not independent, and subjects are few.

Each resample gives every subject a random weight, with all their slices, within their class: the
Bayesian bootstrap (Rubin, 1981) of a stratified test. Reweighting cannot show outcomes that do not
occur among the subjects: if all are right, they are right with any weights. So each class gets half
an imagined subject, wrong for the lower bound and right for the upper one, similar to the bounds of
Clopper and Pearson (1934) with one more subject. ``bench/coverage.py`` measures how often the
intervals contain the truth.

The intervals hold the fitted models fixed: other training seeds or folds are not in them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from alzmri.evaluation import metrics
from alzmri.models.validation import Floats, Ints

RESAMPLES = 2000
IMAGINED = 0.5  # subjects added to each class: with 0.25, some coverage falls below 0.93
_LEVELS = 1000  # distinct scores at most for areas under a curve; more are rounded
_ROC_RESAMPLES = 400

Interval = list[float]
"""``[low, high]``."""


class Classified(NamedTuple):
    """Predictions of one model for one test part: class indices int64 ``[n]``, their subjects."""

    truth: Ints
    predicted: Ints
    subjects: Sequence[str]


class Resampled(NamedTuple):
    """A score, or the difference of two, on all subjects, and in each resample for either bound."""

    value: float
    low: Floats  # [RESAMPLES]
    high: Floats  # [RESAMPLES]

    @property
    def interval(self) -> Interval:
        """The 95 % interval."""
        return [float(np.quantile(self.low, 0.025)), float(np.quantile(self.high, 0.975))]

    @property
    def ahead(self) -> float:
        """The fraction of resamples in which a difference is above 0; ties count half."""
        return float(np.mean(np.sign((self.low, self.high)) + 1) / 2)

    def minus(self, other: "Resampled") -> "Resampled":
        """The difference of two scores in the same resamples, in pairs.

        Subjects that are easy or hard for both models cancel, so that the difference is more
        precise than either score. For an imagined subject, one model is right and the other wrong.
        """
        return Resampled(self.value - other.value, self.low - other.high, self.high - other.low)


class Sample(NamedTuple):
    """A test with its imagined subjects; ``member`` is the column of ``weights`` of each slice."""

    truth: Ints
    probabilities: Floats
    member: Ints
    weights: Floats  # [RESAMPLES, subjects]


def intervals(
    truth: Ints, probabilities: Floats, subjects: Sequence[str], seed: int
) -> dict[str, Interval | None]:
    """95 % intervals of ``macro_f1``, ``accuracy``, ``loss``, ``brier``, ``ece``, ``macro_auc``.

    Arguments are named as in :mod:`alzmri.evaluation.metrics`; ``seed`` is for the weights. The
    calibration error of a sample is biased upward, and that of a resample again: its interval is
    therefore symmetric, and begins at 0 if chance alone explains it. If only one class occurs,
    there is no area under a curve: None.
    """
    test = Classified(truth, probabilities.argmax(axis=1), subjects)
    macro_f1 = mean_macro_f1([test], probabilities.shape[1], seed).interval
    found: dict[str, Interval | None] = {"macro_f1": macro_f1}
    wrong, right = map(_weighted, samples(truth, probabilities, subjects, seed))
    for name in wrong:
        ends = np.quantile([wrong[name], right[name]], (0.025, 0.975), axis=1)
        found[name] = [float(ends[0].min()), float(ends[1].max())]
    _, high = found["ece"] or (0.0, 0.0)
    ece = metrics.expected_calibration_error(truth, probabilities)
    most = metrics.calibrated(probabilities, subjects, seed)["range"][1]
    found["ece"] = [max(2 * ece - high, 0.0) if ece > most else 0.0, high]
    return found | ({"macro_auc": None} if len(np.unique(truth)) < 2 else {})


def samples(truth: Ints, probabilities: Floats, subjects: Sequence[str], seed: int) -> list[Sample]:
    """The samples for the lower and the upper bound: all imagined subjects are wrong, or right.

    The prediction for an imagined subject has the mean confidence of all slices.
    """
    classes = probabilities.shape[1]
    test = Classified(truth, probabilities.argmax(axis=1), subjects)
    draws = _draw([test], classes, np.random.default_rng(seed))
    _, member = np.unique(np.asarray(subjects), return_inverse=True)
    confidence = float(probabilities.max(axis=1).mean())
    found = []
    for (confusion,) in draws.of_imagined:
        # One row for each actual and predicted class, weighted by its number of slices.
        actual, said = np.nonzero(confusion.sum(axis=0))
        rows = np.full((len(said), classes), (1 - confidence) / (classes - 1))
        rows[np.arange(len(said)), said] = confidence
        found.append(
            Sample(
                np.concatenate((truth, actual)),
                np.concatenate((probabilities, rows)),
                np.concatenate((member, draws.real.shape[1] + np.arange(len(said)))),
                np.concatenate((draws.real, draws.imagined @ confusion[:, actual, said]), axis=1),
            )
        )
    return found


def _weighted(sample: Sample) -> dict[str, Floats]:
    """The scores of ``intervals``, except macro F1, in each resample."""
    truth, probabilities, member, weights = sample
    right = probabilities.argmax(axis=1) == truth
    gaps = np.eye(metrics.CALIBRATION_BINS)[metrics.bins(probabilities)]
    gaps *= (probabilities.max(axis=1) - right)[:, np.newaxis]
    losses, squares = (of(truth, probabilities) for of in (metrics.losses, metrics.brier_scores))
    columns = np.column_stack((np.ones(len(truth)), right, losses, squares, gaps))
    sums = np.zeros((weights.shape[1], columns.shape[1]))
    np.add.at(sums, member, columns)
    total, accuracy, loss, brier, gaps = np.split(weights @ sums, (1, 2, 3, 4), axis=1)
    areas = [_auc(truth == k, probabilities[:, k], member, weights) for k in np.unique(truth)]
    return {
        "accuracy": (accuracy / total)[:, 0],
        "loss": (loss / total)[:, 0],
        "brier": (brier / total)[:, 0],
        "ece": np.abs(gaps / total).sum(axis=1),
        "macro_auc": np.mean(areas, axis=0),
    }


def _auc(positive: NDArray[np.bool_], score: Floats, member: Ints, weights: Floats) -> Floats:
    """The area under the ROC curve in each resample, from at most ``_LEVELS`` distinct scores."""
    values = np.unique(score)
    values = values[:: -(-len(values) // _LEVELS)]
    level = np.searchsorted(values, score, side="right") - 1
    ones, others = np.zeros((2, weights.shape[1], len(values)))
    for counts, kind in ((ones, positive), (others, ~positive)):
        np.add.at(counts, (member[kind], level[kind]), 1)
    # The fraction of positive-negative pairs in the right order; ties count half.
    own, rest = ones.any(axis=1), others.any(axis=1)
    ones, others, mine, theirs = ones[own], others[rest], weights[:, own], weights[:, rest]
    ahead = ones @ (np.cumsum(others, axis=1) - others / 2).T
    pairs = (mine @ ones.sum(axis=1)) * (theirs @ others.sum(axis=1))
    return (mine @ ahead * theirs).sum(axis=1) / np.maximum(pairs, 1e-300)


def roc_band(bounds: Sequence[Sample], label: int, grid: Floats) -> list[Floats]:
    """The true positive rate of class ``label`` at the false positive rates ``grid``, low and high.

    ``bounds`` are the result of :func:`samples`; all arrays are ``[points]``, in 0 to 1.
    """
    band = []
    for sample, quantile in zip(bounds, (0.025, 0.975), strict=True):
        order = np.argsort(-sample.probabilities[:, label], kind="stable")
        weights = sample.weights[:_ROC_RESAMPLES, sample.member[order]]
        positive = sample.truth[order] == label
        hits, alarms = (np.cumsum(weights * kind, axis=1) for kind in (positive, ~positive))
        curves = [
            np.interp(grid, wrong / wrong[-1], right / right[-1])
            for wrong, right in zip(alarms, hits, strict=True)
        ]
        band.append(np.quantile(curves, quantile, axis=0))
    return band


def of_new_subjects(test: Classified, classes: int, seed: int, subjects: int) -> Interval:
    """The 95 % prediction interval of macro F1 of ``subjects`` new subjects.

    Each resample draws new subjects with its weights of the subjects of ``test`` and the imagined
    ones, so that the interval includes the uncertainty about the model. It draws from all classes
    together; the average runs over the classes in the draw.
    """
    rng = np.random.default_rng(seed)
    draws, bounds = _draw([test], classes, rng), []
    chances = np.concatenate((draws.real, draws.imagined), axis=1)
    chances /= chances.sum(axis=1, keepdims=True)
    for (imagined,), quantile in zip(draws.of_imagined, (0.025, 0.975), strict=True):
        new = rng.multinomial(subjects, chances)
        kinds = np.concatenate((draws.confusion[0], imagined))
        bounds.append(float(np.quantile(_macro_f1(np.tensordot(new, kinds, axes=1)), quantile)))
    return bounds


def mean_macro_f1(tests: Sequence[Classified], classes: int, seed: int) -> Resampled:
    """The mean macro F1 of ``tests``, which are repetitions with other seeds, or folds, or both.

    A subject has one weight in all tests. Weights of subjects are drawn within their fold; folds
    share the imagined subjects of a class. The weights depend only on truth, subjects and seed, so
    that two models tested on the same slices have the same resamples.
    """
    draws = _draw(tests, classes, np.random.default_rng(seed))
    real = np.tensordot(draws.real, draws.confusion.astype(np.float64), axes=(1, 1))
    low, high = (
        _macro_f1(real + np.tensordot(draws.imagined, confusion, axes=(1, 1))).mean(axis=1)
        for confusion in draws.of_imagined
    )
    return Resampled(float(_macro_f1(draws.confusion.sum(axis=1)).mean()), low, high)


def difference(
    first: Sequence[Classified], second: Sequence[Classified], classes: int, seed: int
) -> Resampled:
    """Macro F1 of ``first`` minus that of ``second``, tested on the same slices."""
    ours, theirs = (mean_macro_f1(tests, classes, seed) for tests in (first, second))
    return ours.minus(theirs)


class _Draws(NamedTuple):
    """Confusion matrices ``[tests, .., actual, predicted]``; weights in each resample.

    Strata are the subjects of one class that the same tests have; each has an imagined subject, who
    is wrong in the first of ``of_imagined``, right in the second. The weights of a stratum add up
    to its number of subjects.
    """

    confusion: Ints  # [tests, subjects, classes, classes]
    of_imagined: tuple[Floats, Floats]  # [tests, strata, classes, classes] each
    real: Floats  # [RESAMPLES, subjects]
    imagined: Floats  # [RESAMPLES, strata]


def _draw(tests: Sequence[Classified], classes: int, rng: np.random.Generator) -> _Draws:
    names, member = np.unique(
        np.concatenate([np.asarray(test.subjects) for test in tests]), return_inverse=True
    )
    members = np.split(member, np.cumsum([len(test.truth) for test in tests])[:-1])
    confusion = np.zeros((len(tests), len(names), classes, classes), dtype=np.int64)
    for matrix, rows, test in zip(confusion, members, tests, strict=True):
        np.add.at(matrix, (rows, test.truth, test.predicted), 1)
    of_class = confusion.sum(axis=3)
    usual = of_class.sum(axis=0).argmax(axis=1)
    strata, stratum = np.unique(
        np.column_stack((usual, of_class.sum(axis=2).T > 0)), axis=0, return_inverse=True
    )
    label, sizes, belongs = strata[:, 0], np.bincount(stratum), np.eye(len(strata))[stratum]
    shares = sizes / np.bincount(label, sizes)[label]
    real = rng.standard_exponential((RESAMPLES, len(names)))
    imagined = rng.standard_gamma(IMAGINED * shares, (RESAMPLES, len(strata)))
    scale = sizes / (real @ belongs + imagined)
    # An imagined subject has the mean number of slices; mistakes are spread over other classes.
    own, present = np.eye(classes), of_class.sum(axis=(0, 1)) > 0
    others = (1 - own) * (present if present.sum() > 1 else 1)
    others /= np.maximum(others.sum(axis=1, keepdims=True), 1)
    slices = (confusion.sum(axis=(2, 3)) @ belongs / sizes)[:, :, np.newaxis, np.newaxis]
    wrong, right = (
        slices * own[label][:, :, np.newaxis] * said[label][:, np.newaxis] for said in (others, own)
    )
    return _Draws(confusion, (wrong, right), real * scale[:, stratum], imagined * scale)


def _macro_f1(confusion: Ints | Floats) -> Floats:
    """Macro F1 of each matrix ``[..., actual, predicted]``, over the classes that occur in it."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    actual, guessed = confusion.sum(axis=-1), confusion.sum(axis=-2)
    occurs = actual > 0
    f1 = 2 * hits / np.where(occurs, actual + guessed, 1)
    return (f1 * occurs).sum(axis=-1) / occurs.sum(axis=-1)
