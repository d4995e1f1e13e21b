"""Folds are pooled into one test, and only folds of one split can be."""

from dataclasses import replace

import numpy as np
import pytest

from alzmri.classes import CLASSES
from alzmri.errors import LeakError
from alzmri.experiments.crossvalidation import Predictions


def _fold(people: range, rng: np.random.Generator) -> Predictions:
    truth = np.repeat([person % 4 for person in people], 3)
    probabilities = rng.dirichlet(np.ones(4), len(truth)) + 0.2 * np.eye(4)[truth]
    return Predictions(
        truth,
        probabilities / probabilities.sum(axis=1, keepdims=True),
        tuple(f"P{person}" for person in people for _ in range(3)),
        CLASSES,
        tuple(f"P{person}_{slice_}.png" for person in people for slice_ in range(3)),
    )


def test_pooled_scores_are_those_of_all_people_at_once():
    rng = np.random.default_rng(0)
    folds = [_fold(range(start, start + 8), rng) for start in (0, 8, 16)]
    pooled = Predictions.pooled(folds)
    assert pooled.scores["subject"]["n"] == 24
    weighted = np.mean([fold.scores["accuracy"] for fold in folds])
    assert pooled.scores["accuracy"] == pytest.approx(weighted)
    low, high = pooled.scores["subject"]["ci95"]["macro_f1"]
    assert low < pooled.scores["subject"]["macro_f1"] < high
    few = pooled.of_new_people(5)["macro_f1"]
    assert few[1] - few[0] > high - low


def test_predictions_are_read_from_the_table_of_an_experiment():
    rows = [
        {"path": "b.png", "subject": "P1", "actual": "Mild", "predicted": "Non"},
        {"path": "a.png", "subject": "P0", "actual": "Non", "predicted": "Non"},
    ]
    chances = [("0.600000", "0.400001"), ("0.900000", "0.100000")]
    table = [
        {**row, "Non": non, "Mild": mild} for row, (non, mild) in zip(rows, chances, strict=True)
    ]
    found = Predictions.of(table)
    assert found.classes == ("Non", "Mild")
    assert found.truth.tolist() == [0, 1]  # in the order of the paths
    assert found.predicted.tolist() == [0, 0]
    assert (found.subjects, found.paths) == (("P0", "P1"), ("a.png", "b.png"))
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(found.probabilities, [[0.9, 0.1], [0.6, 0.4]], atol=1e-5)


def test_new_people_are_scored_by_the_mean_of_their_slices():
    """A wrong slice of three, of which the mean is right, is no wrong person."""
    truth = np.repeat(np.arange(40) % 4, 3)
    guess = np.where(np.arange(120) % 3, truth, (truth + 1) % 4)
    fold = _fold(range(40), np.random.default_rng(0))
    predictions = replace(fold, truth=truth, probabilities=0.6 * np.eye(4)[guess] + 0.1)
    assert np.mean(predictions.predicted == truth) == pytest.approx(2 / 3)
    assert predictions.of_new_people(5) == {"accuracy": [1, 1], "macro_f1": [1, 1]}


def test_a_subject_in_two_folds_is_a_leak():
    rng = np.random.default_rng(0)
    with pytest.raises(LeakError, match="2 subjects are tested in several folds"):
        Predictions.pooled([_fold(range(8), rng), _fold(range(6, 14), rng)])
