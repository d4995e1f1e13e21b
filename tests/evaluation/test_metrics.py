"""Scores against values worked out by hand or by another library."""

import numpy as np
import pytest
from sklearn import metrics as sklearn

from alzmri.classes import CLASSES
from alzmri.evaluation import metrics

TRUTH = np.array([0, 0, 1, 1, 2, 3])
PROBABILITIES = np.array(
    [
        [0.7, 0.1, 0.1, 0.1],
        [0.2, 0.6, 0.1, 0.1],
        [0.1, 0.8, 0.05, 0.05],
        [0.1, 0.6, 0.2, 0.1],
        [0.1, 0.1, 0.6, 0.2],
        [0.1, 0.1, 0.5, 0.3],
    ]
)


def test_scores_by_hand():
    scores = metrics.scores(TRUTH, PROBABILITIES, CLASSES)
    assert scores["accuracy"] == pytest.approx(4 / 6)
    f1 = [2 / 3, 4 / 5, 2 / 3, 0]
    assert scores["macro_f1"] == pytest.approx(np.mean(f1))
    assert [scores["per_class"][name]["f1"] for name in CLASSES] == pytest.approx(f1)
    assert scores["balanced_accuracy"] == pytest.approx((0.5 + 1 + 1 + 0) / 4)
    assert scores["loss"] == pytest.approx(-np.log([0.7, 0.2, 0.8, 0.6, 0.6, 0.3]).mean())
    assert scores["per_class"]["Non Demented"]["support"] == 2
    first = 0.3**2 + 3 * 0.1**2
    assert metrics.brier_scores(TRUTH[:1], PROBABILITIES[:1]) == pytest.approx([first])
    # Of the four slices of other classes one is taken for class 1.
    assert scores["per_class"][CLASSES[1]]["specificity"] == 0.75
    assert scores["counts"][CLASSES[0]] == dict(zip(CLASSES, [1, 1, 0, 0], strict=True))
    assert scores["counts"][CLASSES[3]] == dict(zip(CLASSES, [0, 0, 1, 0], strict=True))


def test_auc_is_the_mean_over_all_classes_that_occur():
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(4), [40, 20, 10, 5])
    probabilities = rng.dirichlet(np.ones(4), len(truth)) + np.eye(4)[truth] * [0.1, 0.3, 0.6, 1]
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    theirs = sklearn.roc_auc_score(truth, probabilities, multi_class="ovr", average="macro")
    assert metrics.macro_auc(truth, probabilities) == pytest.approx(theirs)
    some = truth != 2
    each = [sklearn.roc_auc_score(truth[some] == k, probabilities[some, k]) for k in (0, 1, 3)]
    assert metrics.macro_auc(truth[some], probabilities[some]) == pytest.approx(np.mean(each))
    assert metrics.macro_auc(np.array([1, 1]), probabilities[:2]) is None


def test_every_score_is_scikit_learns():
    """With equal probabilities, and with a class that does not occur."""
    rng = np.random.default_rng(0)
    truth = rng.choice([0, 1, 3], 200)
    probabilities = rng.dirichlet(np.ones(4), len(truth)).round(1) + 0.01
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    predicted, every = probabilities.argmax(axis=1), range(4)
    scores = metrics.scores(truth, probabilities, CLASSES)
    assert scores["accuracy"] == pytest.approx(sklearn.accuracy_score(truth, predicted))
    recall = sklearn.recall_score(truth, predicted, labels=[0, 1, 3], average="macro")
    assert scores["balanced_accuracy"] == pytest.approx(recall)
    loss = sklearn.log_loss(truth, probabilities, labels=every)
    assert scores["loss"] == pytest.approx(loss)
    theirs = sklearn.precision_recall_fscore_support(
        truth, predicted, labels=every, zero_division=0
    )
    keys = ("precision", "recall", "f1", "support")
    ours = [[values[key] for key in keys] for values in scores["per_class"].values()]
    np.testing.assert_allclose(np.transpose(ours), theirs)
    wrong, right = metrics.roc(truth == 1, probabilities[:, 1])
    expected = sklearn.roc_curve(truth == 1, probabilities[:, 1], drop_intermediate=False)
    np.testing.assert_allclose((wrong, right), expected[:2])


def test_calibration_error_weights_bins_by_their_slices():
    # Nine slices at 0.6, all right: a gap of 0.4. One at 0.9, wrong: a gap of 0.9.
    truth = np.array([0] * 9 + [1])
    probabilities = np.array([[0.6, 0.4]] * 9 + [[0.9, 0.1]])
    assert metrics.expected_calibration_error(truth, probabilities) == pytest.approx(
        0.9 * 0.4 + 0.1 * 0.9
    )
    confidence, accuracy, counts = metrics.reliability(truth, probabilities)
    assert confidence.tolist() == pytest.approx([0.6, 0.9])
    assert accuracy.tolist() == [1, 0]
    assert counts.tolist() == [9, 1]
    certain = np.tile([1.0, 0.0], (10, 1))
    assert metrics.expected_calibration_error(1 - truth, certain) == pytest.approx(0.9)
    # There are fifteen bins: from 9/15 to 10/15, and beyond.
    confidence = np.array([0.61, 0.66, 0.67])
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    _, _, counts = metrics.reliability(np.zeros(3, np.int64), probabilities)
    assert counts.tolist() == [2, 1]


def test_a_subject_is_the_mean_of_the_slices_that_count():
    truth, subjects = np.array([1, 1, 0, 0]), ["b", "b", "a", "a"]
    probabilities = np.array([[0.5, 0.5], [0.3, 0.7], [1.0, 0], [0, 1.0]])
    everything = np.ones(4, bool)
    actual, mean, names = metrics.by_subject(truth, probabilities, subjects, everything)
    assert names == ["a", "b"]
    assert actual.tolist() == [0, 1]
    np.testing.assert_allclose(mean, [[0.5, 0.5], [0.4, 0.6]])
    counted = np.array([False, False, True, False])
    _, mean, _ = metrics.by_subject(truth, probabilities, subjects, counted)
    # Of b none counts: all do.
    np.testing.assert_allclose(mean, [[1, 0], [0.4, 0.6]])


def test_chance_alone_shows_an_error_that_shrinks_with_subjects_not_slices():
    rng = np.random.default_rng(0)
    chances = np.repeat(rng.dirichlet(np.ones(4), 50), 20, axis=0)
    few = metrics.calibrated(chances, [f"P{n // 20}" for n in range(1000)], seed=0)
    many = metrics.calibrated(chances, [str(n) for n in range(1000)], seed=0)
    assert few["range"][0] < few["mean"] < few["range"][1]
    assert many["mean"] < few["mean"] / 3
    # Labels that are drawn from the probabilities have such an error.
    truth = (rng.random((1000, 1)) > np.cumsum(chances, axis=1)[:, :-1]).sum(axis=1)
    error = metrics.expected_calibration_error(truth, chances)
    assert many["range"][0] < error < many["range"][1]
