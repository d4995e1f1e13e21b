"""Experiments are ranked by the right number of the right file; predictions are read as written."""

import math

import numpy as np

from alzmri.experiments.scores import LESS_IS_BETTER, METRICS, SlicePredictions

TRAIN = {"val_macro_f1": 0.1, "val_accuracy": 0.2, "val_loss": 0.3}
TEST = {
    "macro_f1": 0.4,
    "accuracy": 0.5,
    "balanced_accuracy": 0.6,
    "macro_auc": None,
    "loss": 0.7,
    "ece": 0.8,
    "brier": 0.9,
    "subject": {"macro_f1": 0.41, "accuracy": 0.51},
}


def test_each_metric_is_read_from_its_own_place(make_run):
    run = make_run("a", 0.5)
    run.training.update(TRAIN)
    run.evaluation.update(TEST)
    found = {key: run.score(key) for key in METRICS}
    assert math.isnan(found.pop("macro_auc"))
    flat = {**TEST, **TRAIN, "subject.macro_f1": 0.41, "subject.accuracy": 0.51}
    assert found == {key: flat[key] for key in found}


def test_losses_and_calibration_errors_are_better_when_they_are_less():
    assert {"loss", "ece", "brier", "val_loss"} == LESS_IS_BETTER
    assert set(METRICS) >= LESS_IS_BETTER


def test_predictions_of_several_experiments_are_in_the_order_of_their_paths():
    header = "path,subject,actual,predicted,Non,Mild\n"
    found = SlicePredictions.of(
        header + "c.png,P2,Non,Non,0.700000,0.300000\nb.png,P1,Mild,Non,0.600000,0.400001\n",
        header + "a.png,P0,Non,Non,0.900000,0.100000\n",
    )
    assert found.classes == ("Non", "Mild")
    assert found.truth.tolist() == [0, 1, 0]
    assert found.predicted.tolist() == [0, 0, 0]
    assert found.subjects == ("P0", "P1", "P2")
    assert found.paths == ("a.png", "b.png", "c.png")
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1, rtol=1e-12)
    expected = [[0.9, 0.1], [0.6, 0.4], [0.7, 0.3]]
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-5)
