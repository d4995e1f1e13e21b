"""Paired differences over subjects: right on average, and narrower than two intervals."""

import numpy as np
import pytest

from alzmri.evaluation.intervals import Classified, difference, mean_macro_f1
from alzmri.models.scores import macro_f1

CLASSES = 4


def _test(right, slices=3, prefix="P"):
    """A test in which subject ``n`` of class ``n % 4`` is told right where ``right[n]``."""
    truth = np.repeat(np.arange(len(right)) % CLASSES, slices)
    predicted = np.where(np.repeat(right, slices), truth, (truth + 1) % CLASSES)
    return Classified(
        truth, predicted, [f"{prefix}{n}" for n in np.repeat(range(len(right)), slices)]
    )


def test_the_difference_is_that_of_the_scores_and_turns_with_them():
    rng = np.random.default_rng(1)
    first, second = (_test(rng.random(60) < share) for share in (0.8, 0.6))
    found = difference([first], [second], CLASSES, seed=0)
    scores = [macro_f1(test.truth, test.predicted) for test in (first, second)]
    assert found.value == pytest.approx(scores[0] - scores[1])
    turned = difference([second], [first], CLASSES, seed=0)
    assert turned.value == -found.value
    assert turned.interval == pytest.approx([-found.interval[1], -found.interval[0]])
    assert turned.ahead == pytest.approx(1 - found.ahead)
    assert found == difference([first], [second], CLASSES, seed=0)


def test_people_who_are_hard_for_both_fall_out():
    rng = np.random.default_rng(2)
    hard = rng.random(80) < 0.4
    second = _test(~hard)
    corrected = hard & (rng.random(80) < 0.3)
    first = _test(~hard | corrected)
    found = difference([first], [second], CLASSES, seed=0)
    assert found.interval[0] > 0
    assert found.ahead > 0.99
    alone = mean_macro_f1([second], CLASSES, seed=0).interval
    assert found.interval[1] - found.interval[0] < alone[1] - alone[0]
    assert found.value < alone[1] - alone[0]  # which the two intervals alone would not have shown


def test_the_same_predictions_do_not_differ():
    test = _test(np.arange(40) % 3 > 0)
    found = difference([test], [test], CLASSES, seed=0)
    low, high = found.interval
    assert (found.value, found.ahead) == (0, 0.5)
    # On subjects who were not tested they may.
    assert -0.15 < low < 0 < high < 0.15


def test_seeds_are_averaged_and_folds_have_their_own_people():
    rng = np.random.default_rng(3)
    seeds = [_test(rng.random(40) < 0.7) for _ in range(3)]
    others = [_test(rng.random(40) < 0.5) for _ in range(3)]
    single = [difference([a], [b], CLASSES, 0) for a, b in zip(seeds, others, strict=True)]
    together = difference(seeds, others, CLASSES, 0)
    assert together.value == pytest.approx(np.mean([found.value for found in single]))
    widths = [found.interval[1] - found.interval[0] for found in single]
    assert together.interval[1] - together.interval[0] < np.mean(widths)
    # As many folds of other subjects are as many more subjects: each fold is resampled by itself.
    folds = [_test(rng.random(40) < 0.7, prefix=f"F{fold}-") for fold in range(4)]
    found = mean_macro_f1(folds, CLASSES, seed=0)
    assert found.value == pytest.approx(np.mean([macro_f1(t.truth, t.predicted) for t in folds]))
    one = mean_macro_f1(folds[:1], CLASSES, seed=0)
    assert found.low.std() == pytest.approx(one.low.std() / 2, rel=0.25)


def test_the_subjects_of_a_fold_are_weighted_within_that_fold():
    """With one of each class in each fold nobody can take another's place."""
    folds = [
        _test(np.array(right), prefix=f"F{fold}-")
        for fold, right in enumerate([[True] * 4, [False] * 4])
    ]
    found = mean_macro_f1(folds, CLASSES, seed=0)
    # All that moves is the half of an imagined subject, a quarter in each fold.
    assert np.median(found.high) == pytest.approx(found.value, abs=0.1)
    assert (found.high >= found.value - 1e-9).all()
    assert (found.low <= found.value + 1e-9).all()


def test_tests_of_other_slices_are_refused():
    test = _test(np.ones(8, dtype=bool))
    for other in (_test(np.ones(8, dtype=bool), prefix="Q"), _test(np.ones(12, dtype=bool))):
        with pytest.raises(ValueError, match="not tested on the same slices"):
            difference([test], [other], CLASSES, 0)


def test_models_that_are_equally_good_are_told_apart_as_seldom_as_promised():
    rng = np.random.default_rng(7)
    told_apart = 0
    for _ in range(150):
        found = difference(
            [_test(rng.random(60) < 0.7, slices=1)],
            [_test(rng.random(60) < 0.7, slices=1)],
            CLASSES,
            0,
        )
        told_apart += not found.interval[0] <= 0 <= found.interval[1]
    assert told_apart / 150 <= 0.07
