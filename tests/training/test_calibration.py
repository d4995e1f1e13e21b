"""Temperature scaling finds the temperature that was lost, and changes nothing else."""

import numpy as np
import pytest

from alzmri.evaluation.metrics import expected_calibration_error
from alzmri.models.forward import probabilities
from alzmri.training.calibration import COLDEST, HOTTEST, fit_temperature


@pytest.fixture
def calibrated():
    """Logits, and classes drawn with exactly the probabilities that they claim."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (20_000, 4))
    draws = rng.random((len(logits), 1))
    truth = (probabilities(logits).cumsum(axis=1) < draws).sum(axis=1).clip(max=3)
    return truth, logits


@pytest.mark.parametrize("lost", [0.3, 1.0, 4.0])
def test_the_temperature_that_was_lost_is_found(calibrated, lost):
    truth, logits = calibrated
    # The standard error of the estimate is about 1 % with so many slices.
    assert fit_temperature(truth, logits * lost) == pytest.approx(lost, rel=0.05)


def test_confidence_means_accuracy_afterwards(calibrated):
    truth, logits = calibrated
    boasting = logits * 5
    after = probabilities(boasting / fit_temperature(truth, boasting))
    assert expected_calibration_error(truth, probabilities(boasting)) > 0.1
    assert expected_calibration_error(truth, after) < 0.02


def test_it_stays_within_bounds_where_the_best_would_be_infinite():
    truth = np.array([0, 1, 2])
    right, wrong = np.eye(3), np.eye(3)[[1, 2, 0]] * 50
    assert fit_temperature(truth, right) == pytest.approx(COLDEST, rel=0.01)
    assert fit_temperature(truth, wrong) == pytest.approx(HOTTEST, rel=0.01)
