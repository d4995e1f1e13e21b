"""The OOD detector of a model: fitted, kept, and never another model's."""

import numpy as np
import pytest

from alzmri.errors import UserError
from alzmri.ood.detector import FILE, Detector


@pytest.fixture
def features():
    """200 training and 100 validation slices of 50 features with few directions of their own."""
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((5, 50))
    values = rng.standard_normal((300, 5)) @ mixing + 0.1 * rng.standard_normal((300, 50))
    return np.split(values.astype(np.float32), [200])


def test_one_in_a_hundred_of_validation_is_beyond_the_threshold(features):
    training, validation = features
    scores = Detector.fit(training, validation, "w").score(validation)
    assert scores.max() == pytest.approx(1)
    few = Detector.fit(training, np.concatenate([validation, training]), "w")
    flagged = few.score(np.concatenate([validation, training])) > 1
    assert flagged.sum() == 2


def test_it_sees_both_far_along_and_far_beside_the_known_directions(features):
    training, validation = features
    detector = Detector.fit(training, validation, "w")
    assert len(detector.directions) == 5
    along = detector.mean + 10 * np.sqrt(detector.variances[0]) * detector.directions[0]
    # As long as the noise of one feature, in a direction that no training slice has.
    rng = np.random.default_rng(1)
    beside = rng.standard_normal(50)
    beside -= detector.directions.T @ (detector.directions @ beside)
    beside = detector.mean + 2 * beside / np.linalg.norm(beside)
    assert (detector.score(np.stack([along, beside]).astype(np.float32)) > 1).all()
    assert detector.score(detector.mean[None]) == 0


def test_a_dead_layer_makes_everything_else_out_of_distribution():
    detector = Detector.fit(np.zeros((20, 8), np.float32), np.zeros((5, 8), np.float32), "w")
    assert detector.score(np.zeros((1, 8), np.float32)) <= 1
    assert detector.score(np.ones((1, 8), np.float32)) > 1


def test_it_is_read_back_as_it_was_and_written_alike(features, tmp_path):
    detector = Detector.fit(*features, "w")
    detector.save(tmp_path)
    first = (tmp_path / FILE).read_bytes()
    again = Detector.load(tmp_path, "w")
    assert np.array_equal(again.score(features[1]), detector.score(features[1]))
    again.save(tmp_path)
    assert (tmp_path / FILE).read_bytes() == first


def test_a_missing_damaged_or_foreign_one_is_refused_with_the_remedy(features, tmp_path):
    with pytest.raises(UserError, match="dvc repro ood"):
        Detector.load(tmp_path, "w")
    (tmp_path / "scope.safetensors").touch()
    with pytest.raises(UserError, match=r"earlier version .*: run `dvc repro`$"):
        Detector.load(tmp_path, "w")
    Detector.fit(*features, "w").save(tmp_path)
    with pytest.raises(UserError, match="other weights: run `dvc repro ood`"):
        Detector.load(tmp_path, "v")
    (tmp_path / FILE).write_bytes((tmp_path / FILE).read_bytes()[:100])
    with pytest.raises(UserError, match="damaged"):
        Detector.load(tmp_path, "w")
