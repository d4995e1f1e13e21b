"""Macro F1 is scikit-learn's; the temperature that was lost is found, and nothing else changes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from alzmri.evaluation.metrics import expected_calibration_error
from alzmri.models.forward import probabilities
from alzmri.models.validation import COLDEST, HOTTEST, fit_temperature, macro_f1

CLASS = st.integers(0, 3)


@given(st.lists(st.tuples(CLASS, CLASS), min_size=1, max_size=20))
def test_macro_f1_is_that_of_scikit_learn_over_the_classes_that_occur(pairs):
    truth, predicted = np.array(pairs, dtype=np.int64).T
    expected = f1_score(truth, predicted, labels=np.unique(truth), average="macro", zero_division=0)
    assert macro_f1(truth, predicted) == pytest.approx(expected)


def test_the_temperature_that_was_lost_is_found_and_confidence_means_accuracy_again():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (20_000, 4))
    draws = rng.random((len(logits), 1))
    truth = (probabilities(logits).cumsum(axis=1) < draws).sum(axis=1).clip(max=3)
    for lost in (0.3, 1.0, 4.0):
        # The standard error of the estimate is about 1 % with so many slices.
        assert fit_temperature(truth, logits * lost) == pytest.approx(lost, rel=0.05)
    boasting = logits * 5
    after = probabilities(boasting / fit_temperature(truth, boasting))
    assert expected_calibration_error(truth, probabilities(boasting)) > 0.1
    assert expected_calibration_error(truth, after) < 0.02


def test_the_temperature_stays_within_bounds_where_the_best_would_be_infinite():
    truth = np.array([0, 1, 2])
    right, wrong = np.eye(3), np.eye(3)[[1, 2, 0]] * 50
    assert fit_temperature(truth, right) == pytest.approx(COLDEST, rel=0.01)
    assert fit_temperature(truth, wrong) == pytest.approx(HOTTEST, rel=0.01)
