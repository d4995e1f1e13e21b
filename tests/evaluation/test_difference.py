"""The paired bootstrap over people: right on average, and narrower than two intervals."""

import numpy as np
import pytest

from alzmri.evaluation.intervals import Classified, bootstrap, difference, mean_macro_f1, quantiles
from alzmri.models.scores import macro_f1

CLASSES = 4


def _test(right, slices=3, prefix="P"):
    """A test in which person ``n`` of class ``n % 4`` is told right where ``right[n]``."""
    truth = np.repeat(np.arange(len(right)) % CLASSES, slices)
    predicted = np.where(np.repeat(right, slices), truth, (truth + 1) % CLASSES)
    return Classified(
        truth, predicted, [f"{prefix}{n}" for n in np.repeat(range(len(right)), slices)]
    )


def test_one_test_is_resampled_as_its_own_interval_is():
    test = _test(np.random.default_rng(0).random(60) < 0.7)
    value, samples = mean_macro_f1([test], CLASSES, seed=4)
    assert value == pytest.approx(macro_f1(test.truth, test.predicted))
    assert quantiles(samples) == bootstrap(*test, CLASSES, seed=4)["macro_f1"]


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
    mended = hard & (rng.random(80) < 0.3)
    first = _test(~hard | mended)
    found = difference([first], [second], CLASSES, seed=0)
    assert found.interval[0] > 0
    assert found.ahead == 1
    alone = bootstrap(*second, CLASSES, seed=0)["macro_f1"]
    assert found.interval[1] - found.interval[0] < alone[1] - alone[0]
    assert found.value < alone[1] - alone[0]  # which the two intervals alone would not have shown


def test_the_same_predictions_do_not_differ():
    test = _test(np.arange(40) % 3 > 0)
    found = difference([test], [test], CLASSES, seed=0)
    assert (found.value, found.interval, found.ahead) == (0, [0, 0], 0.5)


def test_seeds_are_averaged_and_folds_have_their_own_people():
    rng = np.random.default_rng(3)
    seeds = [_test(rng.random(40) < 0.7) for _ in range(3)]
    others = [_test(rng.random(40) < 0.5) for _ in range(3)]
    single = [difference([a], [b], CLASSES, 0) for a, b in zip(seeds, others, strict=True)]
    together = difference(seeds, others, CLASSES, 0)
    assert together.value == pytest.approx(np.mean([found.value for found in single]))
    widths = [found.interval[1] - found.interval[0] for found in single]
    assert together.interval[1] - together.interval[0] < np.mean(widths)
    # As many folds of other people are as many more people: each fold is resampled by itself.
    folds = [_test(rng.random(40) < 0.7, prefix=f"F{fold}-") for fold in range(4)]
    value, samples = mean_macro_f1(folds, CLASSES, seed=0)
    assert value == pytest.approx(np.mean([macro_f1(t.truth, t.predicted) for t in folds]))
    one = mean_macro_f1(folds[:1], CLASSES, seed=0)[1]
    assert samples.std() == pytest.approx(one.std() / 2, rel=0.25)


def test_tests_of_other_slices_are_refused():
    test = _test(np.ones(8, dtype=bool))
    for other in (_test(np.ones(8, dtype=bool), prefix="Q"), _test(np.ones(12, dtype=bool))):
        with pytest.raises(ValueError, match="not tested on the same slices"):
            difference([test], [other], CLASSES, 0)


def test_models_that_are_equally_good_are_told_apart_as_seldom_as_promised():
    rng = np.random.default_rng(7)
    told_apart = 0
    for _ in range(300):
        found = difference(
            [_test(rng.random(60) < 0.7, slices=1)],
            [_test(rng.random(60) < 0.7, slices=1)],
            CLASSES,
            0,
        )
        told_apart += not found.interval[0] <= 0 <= found.interval[1]
    # Binomial(300, 0.05) within four standard deviations; the percentile method is a little narrow.
    assert told_apart / 300 < 0.05 + 4 * np.sqrt(0.05 * 0.95 / 300) + 0.02
