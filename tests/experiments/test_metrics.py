"""Experiments are ranked by the right number of the right file, in the right direction."""

import math

from alzmri.experiments.metrics import LESS_IS_BETTER, METRICS

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
