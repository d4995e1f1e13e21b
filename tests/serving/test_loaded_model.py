"""The model that the server loads, and what a new slice is compared with.

Training slices by likeness, test slices by probability.
"""

from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from scipy.stats import binomtest

from alzmri.data.prepared import Prepared, Row
from alzmri.inference.predictor import Predictor
from alzmri.models.forward import probabilities
from alzmri.serving.loaded_model import NEAREST, WINDOW, KnownSlices, _engine, compare

TEMPERATURE = 2.0


def _outputs(images):
    """Logits and features that tell every slice from every other."""
    means = images.reshape(len(images), -1).mean(axis=1, dtype=np.float64)
    logits = np.stack([np.sin(means * k) for k in range(1, 5)], axis=1)
    features = np.stack([np.cos(means * k) for k in range(1, 8)], axis=1) * means[:, None]
    return logits, features.astype(np.float32)


def test_known_slices_are_those_of_training_and_test_and_kept_for_these_weights(prepared, tmp_path):
    computed = 0

    def run(images, progress):
        nonlocal computed
        computed += len(images)
        return _outputs(images)

    def make(weights="w"):
        nonlocal computed
        computed = 0
        engine = SimpleNamespace(about={"weights": weights}, run=run)
        return compare(prepared, engine, TEMPERATURE, tmp_path / "kept.npz")

    made = make()
    train, test = prepared.indices("train"), prepared.indices("test")
    assert computed == len(train) + len(test)
    _, features = _outputs(prepared.images[train])
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    np.testing.assert_allclose(made.features, features / lengths, rtol=1e-5)
    logits, _ = _outputs(prepared.images[test])
    np.testing.assert_allclose(made.probabilities, probabilities(logits / TEMPERATURE))

    again = make()
    assert computed == 0
    np.testing.assert_array_equal(again.features, made.features)
    np.testing.assert_array_equal(again.probabilities, made.probabilities)
    make(weights="v")
    assert computed
    (tmp_path / "kept.npz").write_bytes(b"damaged")
    make(weights="v")
    assert computed


# The first ten subjects get a probability of 0.2 of the class b, the others one of 0.8.
SECOND = np.where(np.repeat(np.arange(20) >= 10, 6), 0.8, 0.2)


def _known(test_labels):
    """120 training slices in four directions, and 120 test slices of 20 subjects, six of each."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 30)
    features = np.eye(4, dtype=np.float32)[labels] + rng.normal(0, 0.1, (120, 4))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    of = [(label, n // 2, "train") for n, label in enumerate(labels)]
    of += [(label, 100 + n // 6, "test") for n, label in enumerate(test_labels)]
    rows = [
        Row(n, "", "abcd"[label], str(who), part, "") for n, (label, who, part) in enumerate(of)
    ]
    chances = np.stack([1 - SECOND, SECOND, 0 * SECOND, 0 * SECOND], axis=1)
    prepared = Prepared(np.zeros((240, 1, 1), np.uint8), tuple(rows), tuple("abcd"))
    return KnownSlices(prepared, features.astype(np.float32), chances)


def test_the_nearest_are_by_angle_and_those_of_training():
    known = _known(np.zeros(120, int))
    found = known.nearest(np.array([0, 0, 50, 0], np.float32))
    assert found.classes == ["c"] * NEAREST
    chosen = np.argsort(-known.features[:, 2])[:NEAREST]
    assert found.subjects == len(set((chosen // 2).tolist())) < NEAREST


def test_the_interval_has_subjects_as_trials():
    """Slices of one subject are no independent trials: 60 slices of ten are ten."""
    observed = _known(np.repeat(np.arange(20) % 2, 6)).observed(np.array([0.2, 0.8, 0, 0]))
    assert list(observed) == ["a", "b", "c", "d"]
    for found in (observed["a"], observed["b"]):
        assert (found.slices, found.subjects, found.share) == (WINDOW, 10, 0.5)
        exact = binomtest(5, 10).proportion_ci(method="exact")
        assert (found.low, found.high) == pytest.approx((exact.low, exact.high))
    # The frequency is of the slices with the most similar probability.
    sure = _known((SECOND > 0.5).astype(int))
    for chances, shares in (((0.3, 0.7, 0, 0), [0, 1, 0, 0]), ((0.7, 0.3, 0, 0), [1, 0, 0, 0])):
        found = sure.observed(np.array(chances)).values()
        assert [one.share for one in found] == shares
        assert all(0 <= one.low <= one.share <= one.high <= 1 for one in found)


def test_an_exported_model_that_says_something_else_is_not_used(workplace, servers, tmp_path):
    (kept,) = (workplace / "cache").rglob("model.onnx")
    predictor = Predictor.load(workplace / "models")
    changed = onnx.load(kept)
    for weights in changed.graph.initializer:
        values = onnx.numpy_helper.to_array(weights)
        if values.dtype == np.float32:
            weights.CopyFrom(onnx.numpy_helper.from_array(1.01 * values, weights.name))
    given = tmp_path / "model.onnx"
    for content, used in (
        (kept.read_bytes(), given),
        (kept.read_bytes()[:1000], kept),
        (changed.SerializeToString(), kept),
    ):
        given.write_bytes(content)
        assert _engine(tmp_path, kept, predictor, 1).path == used
