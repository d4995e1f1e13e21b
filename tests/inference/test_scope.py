"""The scope of a model: fitted, kept, and never another model's."""

import numpy as np
import pytest

from alzmri.errors import UserError
from alzmri.inference.scope import FILE, Scope


@pytest.fixture
def features():
    """200 training and 100 validation slices of 50 features with few directions of their own."""
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((5, 50))
    values = rng.standard_normal((300, 5)) @ mixing + 0.1 * rng.standard_normal((300, 50))
    return np.split(values.astype(np.float32), [200])


def test_one_in_a_hundred_of_validation_is_beyond_the_threshold(features):
    training, validation = features
    scores = Scope.fit(training, validation, "w").score(validation)
    assert scores.max() == pytest.approx(1)
    few = Scope.fit(training, np.concatenate([validation, training]), "w")
    flagged = few.score(np.concatenate([validation, training])) > 1
    assert flagged.sum() == 2


def test_it_sees_both_far_along_and_far_beside_the_known_directions(features):
    training, validation = features
    scope = Scope.fit(training, validation, "w")
    assert len(scope.directions) == 5
    along = scope.mean + 10 * np.sqrt(scope.variances[0]) * scope.directions[0]
    # As long as the noise of one feature, in a direction that no training slice has.
    rng = np.random.default_rng(1)
    beside = rng.standard_normal(50)
    beside -= scope.directions.T @ (scope.directions @ beside)
    beside = scope.mean + 2 * beside / np.linalg.norm(beside)
    assert (scope.score(np.stack([along, beside]).astype(np.float32)) > 1).all()
    assert scope.score(scope.mean[None]) == 0


def test_a_dead_layer_makes_everything_else_out_of_scope():
    scope = Scope.fit(np.zeros((20, 8), np.float32), np.zeros((5, 8), np.float32), "w")
    assert scope.score(np.zeros((1, 8), np.float32)) <= 1
    assert scope.score(np.ones((1, 8), np.float32)) > 1


def test_it_is_read_back_as_it_was_and_written_alike(features, tmp_path):
    scope = Scope.fit(*features, "w")
    scope.save(tmp_path)
    first = (tmp_path / FILE).read_bytes()
    again = Scope.load(tmp_path, "w")
    assert np.array_equal(again.score(features[1]), scope.score(features[1]))
    again.save(tmp_path)
    assert (tmp_path / FILE).read_bytes() == first


def test_a_missing_damaged_or_foreign_scope_is_refused_with_the_remedy(features, tmp_path):
    with pytest.raises(UserError, match="dvc repro scope"):
        Scope.load(tmp_path, "w")
    Scope.fit(*features, "w").save(tmp_path)
    with pytest.raises(UserError, match="other weights: run `dvc repro scope`"):
        Scope.load(tmp_path, "v")
    (tmp_path / FILE).write_bytes((tmp_path / FILE).read_bytes()[:100])
    with pytest.raises(UserError, match="damaged"):
        Scope.load(tmp_path, "w")
