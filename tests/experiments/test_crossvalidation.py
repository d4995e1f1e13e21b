"""Folds are pooled into one test, and only folds of one split can be."""

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


def test_a_subject_in_two_folds_is_a_leak():
    rng = np.random.default_rng(0)
    with pytest.raises(LeakError, match="2 subjects are tested in several folds"):
        Predictions.pooled([_fold(range(8), rng), _fold(range(6, 14), rng)])
