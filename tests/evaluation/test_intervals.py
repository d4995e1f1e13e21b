"""Intervals over subjects: of what they are, and that they never claim certainty.

How often they hold the truth, in many cells, is measured by bench/coverage.py; some are here.
"""

import numpy as np
import pytest

from alzmri.evaluation import metrics
from alzmri.evaluation.intervals import Classified, intervals, mean_macro_f1, of_new_subjects


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
        "macro_f1": metrics.macro_f1(truth, chances.argmax(axis=1)),
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


def test_a_class_that_does_not_occur_leaves_the_interval_alone():
    truth = np.arange(100) % 2
    predicted = np.where(np.arange(100) % 5, truth, 1 - truth)
    two, four = (
        mean_macro_f1([Classified(truth, predicted, _names(100))], classes, seed=0).interval
        for classes in (2, 4)
    )
    assert two == pytest.approx(four)


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
