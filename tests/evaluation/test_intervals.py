"""Intervals over subjects: of what they are, and that they never claim certainty.

How often they hold the truth, in many cells, is measured by bench/coverage.py; some are here.
"""

import numpy as np
import pytest

from alzmri.evaluation import metrics
from alzmri.evaluation.intervals import (
    Classified,
    difference,
    intervals,
    mean_macro_f1,
    of_new_subjects,
    roc_band,
    samples,
)
from alzmri.models.validation import macro_f1


def _chances(predicted, classes):
    return 0.4 * np.eye(classes)[predicted] + 0.6 / classes


def _names(subjects, slices=1):
    return [f"P{n:04}" for n in np.repeat(np.arange(subjects), slices)]


@pytest.fixture(scope="module")
def tested():
    """Truth, probabilities and subjects: 30 subjects of 4 slices, three classes."""
    rng = np.random.default_rng(1)
    truth = np.repeat(np.arange(30) % 3, 4)
    chances = rng.dirichlet(np.ones(3), len(truth)) + 0.6 * np.eye(3)[truth]
    return truth, chances / chances.sum(axis=1, keepdims=True), _names(30, 4)


def test_each_holds_the_score_and_repeats_itself(tested):
    truth, chances, _ = tested
    found = intervals(*tested, seed=3)
    scores = metrics.confidence_scores(truth, chances) | {
        "macro_f1": macro_f1(truth, chances.argmax(axis=1)),
        "accuracy": float(np.mean(truth == chances.argmax(axis=1))),
        "macro_auc": metrics.macro_auc(truth, chances),
    }
    assert set(found) == set(scores)
    for name, (low, high) in found.items():
        assert low < scores[name] < high, name
    assert found == intervals(*tested, seed=3)
    test = Classified(truth, chances.argmax(axis=1), tested[2])
    assert mean_macro_f1([test], 3, seed=3).interval == found["macro_f1"]


def test_it_is_subjects_that_are_weighted_not_slices():
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(40) % 2, 25)
    predicted = np.where(np.repeat(rng.random(40) < 0.7, 25), truth, 1 - truth)
    few, many = (
        intervals(truth, _chances(predicted, 2), names, seed=0)["accuracy"]
        for names in (_names(40, 25), _names(1000))
    )
    assert few[1] - few[0] > 4 * (many[1] - many[0])


@pytest.mark.parametrize("right", [True, False])
def test_a_test_without_a_mistake_or_a_hit_is_not_certain(right):
    truth = np.arange(48) % 2
    predicted = truth if right else 1 - truth
    found = intervals(truth, _chances(predicted, 2), _names(48), seed=0)
    for name in ("accuracy", "macro_f1", "macro_auc"):
        low, high = found[name] if right else [1 - end for end in found[name][::-1]]
        # Of 48 subjects none was wrong: up to 7.4 % may be (Clopper and Pearson).
        assert 0.85 < low < 0.95, name
        assert high == pytest.approx(1)


def test_one_class_or_one_subject_has_an_interval_and_no_area():
    found = intervals(np.zeros(6, np.int64), _chances(np.zeros(6, np.int64), 4), _names(1, 6), 0)
    assert found["macro_auc"] is None
    assert found["accuracy"][0] < 0.5
    assert found["accuracy"][1] == 1


def test_few_new_subjects_score_further_from_the_average_than_it_is_known():
    rng = np.random.default_rng(2)
    truth = np.arange(200) % 2
    test = Classified(truth, np.where(rng.random(200) < 0.7, truth, 1 - truth), _names(200))
    known = mean_macro_f1([test], 2, seed=0)
    low, high = of_new_subjects(test, 2, seed=0, subjects=20)
    assert low < known.interval[0] < known.value < known.interval[1] < high
    # Of as many as were tested, more widely than the average is known, since both are uncertain.
    wider = of_new_subjects(test, 2, seed=0, subjects=200)
    ratio = np.diff(wider)[0] / np.diff(known.interval)[0]
    assert ratio == pytest.approx(np.sqrt(2), rel=0.15)


@pytest.mark.parametrize(("subjects", "right"), [(8, 0.97), (48, 0.97), (24, 0.7)])
def test_it_holds_the_truth_as_often_as_it_says(subjects, right):
    rng = np.random.default_rng(5)
    truth, held = np.arange(subjects) % 2, 0
    for seed in range(100):
        predicted = np.where(rng.random(subjects) < right, truth, 1 - truth)
        test = Classified(truth, predicted, _names(subjects))
        low, high = mean_macro_f1([test], 2, seed).interval
        held += low <= right <= high
    assert held >= 93


def test_the_band_of_a_roc_curve_is_around_it_and_never_certain(tested):
    truth, chances, names = tested
    grid = np.linspace(0, 1, 21)
    low, high = roc_band(samples(truth, chances, names, 0), 1, grid)
    curve = np.interp(grid, *metrics.roc(truth == 1, chances[:, 1]))
    assert (low <= curve).all()
    assert (high - low)[1:4].min() > 0.3  # ten subjects of the class
    assert (curve[1:] <= high[1:] + 1e-9).all()
    perfect = np.eye(3)[truth] * 0.7 + 0.1
    low, _ = roc_band(samples(truth, perfect, names, 0), 1, grid)
    assert 0.5 < low[5] < 1


def _test(right, slices=3, prefix="P"):
    """A test in which subject ``n`` of class ``n % 4`` is told right where ``right[n]``."""
    truth = np.repeat(np.arange(len(right)) % 4, slices)
    predicted = np.where(np.repeat(right, slices), truth, (truth + 1) % 4)
    return Classified(
        truth, predicted, [f"{prefix}{n}" for n in np.repeat(range(len(right)), slices)]
    )


def test_the_difference_is_that_of_the_scores_and_turns_with_them():
    rng = np.random.default_rng(1)
    first, second = (_test(rng.random(60) < share) for share in (0.8, 0.6))
    found = difference([first], [second], 4, seed=0)
    scores = [macro_f1(test.truth, test.predicted) for test in (first, second)]
    assert found.value == pytest.approx(scores[0] - scores[1])
    turned = difference([second], [first], 4, seed=0)
    assert turned.value == -found.value
    assert turned.interval == pytest.approx([-found.interval[1], -found.interval[0]])
    assert turned.ahead == pytest.approx(1 - found.ahead)
    assert found.interval == difference([first], [second], 4, seed=0).interval


def test_seeds_are_averaged_and_folds_have_their_own_people():
    rng = np.random.default_rng(3)
    seeds = [_test(rng.random(40) < 0.7) for _ in range(3)]
    others = [_test(rng.random(40) < 0.5) for _ in range(3)]
    single = [difference([a], [b], 4, 0) for a, b in zip(seeds, others, strict=True)]
    together = difference(seeds, others, 4, 0)
    assert together.value == pytest.approx(np.mean([found.value for found in single]))
    widths = [found.interval[1] - found.interval[0] for found in single]
    assert together.interval[1] - together.interval[0] < np.mean(widths)
    # As many folds of other subjects are as many more subjects: each fold is resampled by itself.
    folds = [_test(rng.random(40) < 0.7, prefix=f"F{fold}-") for fold in range(4)]
    found = mean_macro_f1(folds, 4, seed=0)
    assert found.value == pytest.approx(np.mean([macro_f1(t.truth, t.predicted) for t in folds]))
    one = mean_macro_f1(folds[:1], 4, seed=0)
    assert found.low.std() == pytest.approx(one.low.std() / 2, rel=0.25)


def test_models_that_are_equally_good_are_told_apart_as_seldom_as_promised():
    rng = np.random.default_rng(7)
    told_apart = 0
    for _ in range(100):
        one, other = ([_test(rng.random(60) < 0.7, slices=1)] for _ in range(2))
        low, high = difference(one, other, 4, 0).interval
        told_apart += not low <= 0 <= high
    assert told_apart <= 7


def test_the_interval_of_the_calibration_error_begins_at_zero_if_chance_alone_explains_it():
    """And is symmetric, whatever the resamples say of its lower end, if chance does not."""
    truth = np.arange(200) % 2
    for wrong, explained in ((12, True), (80, False)):
        predicted = np.where(np.arange(200) < wrong, 1 - truth, truth)
        chances = 0.8 * np.eye(2)[predicted] + 0.1
        error = metrics.expected_calibration_error(truth, chances)
        low, high = intervals(truth, chances, _names(200), seed=0)["ece"]
        most = metrics.calibrated(chances, _names(200), seed=0)["range"][1]
        assert (error <= most) == explained
        assert 2 * error - high > 0
        assert low == (0 if explained else pytest.approx(2 * error - high))
