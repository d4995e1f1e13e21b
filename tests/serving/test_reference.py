"""What a new slice is compared with: training slices by likeness, test slices by probability."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import binomtest

from alzmri.models.forward import probabilities
from alzmri.serving import reference
from alzmri.serving.reference import NEAREST, WINDOW, Reference

TEMPERATURE = 2.0


def _outputs(images):
    """Logits and features that tell every slice from every other."""
    means = images.reshape(len(images), -1).mean(axis=1, dtype=np.float64)
    logits = np.stack([np.sin(means * k) for k in range(1, 5)], axis=1)
    features = np.stack([np.cos(means * k) for k in range(1, 8)], axis=1) * means[:, None]
    return logits, features.astype(np.float32)


@pytest.fixture
def engine():
    """Stands for the exported model: a function of the pixels, which counts its images."""
    seen = []

    def run(images):
        seen.append(len(images))
        return _outputs(images)

    return SimpleNamespace(about={"weights": "w"}, run=run, seen=seen)


def test_the_nearest_are_training_slices_and_the_frequencies_are_of_test_slices(
    prepared, engine, tmp_path
):
    made = reference.make(prepared, engine, TEMPERATURE, tmp_path / "kept.npz", lambda *_: None)
    train, test = prepared.indices("train"), prepared.indices("test")
    _, features = _outputs(prepared.images[train])
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    np.testing.assert_allclose(made.features, features / lengths, rtol=1e-5)
    np.testing.assert_array_equal(made.labels, prepared.labels[train])
    logits, _ = _outputs(prepared.images[test])
    np.testing.assert_allclose(made.probabilities, probabilities(logits / TEMPERATURE))
    np.testing.assert_array_equal(made.test_labels, prepared.labels[test])
    for rows, subjects in ((train, made.people), (test, made.test_people)):
        names = [prepared.rows[row].subject for row in rows]
        pairs = set(zip(names, subjects.tolist(), strict=True))
        assert len(pairs) == len(set(names)) == len(set(subjects.tolist()))
    assert not set(made.people.tolist()) & set(made.test_people.tolist())


def test_what_is_kept_is_read_again_only_for_the_same_weights_and_data(prepared, engine, tmp_path):
    def make(**about):
        other = SimpleNamespace(about={**engine.about, **about}, run=engine.run)
        engine.seen.clear()
        found = reference.make(prepared, other, TEMPERATURE, tmp_path / "k.npz", lambda *_: None)
        return found, sum(engine.seen)

    slices = len(prepared.indices("train")) + len(prepared.indices("test"))
    first, computed = make()
    assert computed == slices
    again, computed = make()
    assert computed <= 1
    for name, value in vars(first).items():
        np.testing.assert_array_equal(getattr(again, name), value)
    other, computed = make(weights="v")
    assert (other.weights, computed) == ("v", slices)
    (tmp_path / "k.npz").write_bytes(b"damaged")
    assert make()[1] == slices


@pytest.fixture
def known():
    """120 training slices in four directions, and 120 test slices of 20 subjects, six of each."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 30)
    features = np.eye(4, dtype=np.float32)[labels] + rng.normal(0, 0.1, (120, 4))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    test_labels = np.repeat(np.arange(20) % 2, 6)
    # The first ten subjects get a probability of 0.2, the others one of 0.8.
    high = np.repeat(np.arange(20) >= 10, 6)
    second = np.where(high, 0.8, 0.2)
    return Reference(
        weights="w",
        data="d",
        features=features.astype(np.float32),
        labels=labels,
        people=np.arange(120) // 2,
        probabilities=np.stack([1 - second, second], axis=1),
        test_labels=test_labels,
        test_people=np.repeat(np.arange(20), 6),
    )


def test_the_nearest_are_by_angle_nearest_first(known):
    found = known.nearest(np.array([0, 0, 50, 0], np.float32), "abcd")
    assert found.classes == ["c"] * NEAREST
    assert found.similarity == sorted(found.similarity, reverse=True)
    cosines = known.features[:, 2]
    assert found.similarity == pytest.approx(np.sort(cosines)[::-1][:NEAREST], abs=1e-4)
    chosen = np.argsort(-cosines)[:NEAREST]
    assert found.people == len(set((chosen // 2).tolist())) < NEAREST


def test_the_interval_is_wilsons_with_subjects_as_trials(known):
    """Slices of one subject are no independent trials: 60 slices of ten are ten."""
    observed = known.observed(np.array([0.2, 0.8]), "ab")
    assert list(observed) == ["a", "b"]
    for found in observed.values():
        assert (found.slices, found.people, found.share) == (WINDOW, 10, 0.5)
        wilson = binomtest(5, 10).proportion_ci(method="wilson")
        assert (found.low, found.high) == pytest.approx((wilson.low, wilson.high))


def test_the_frequency_is_of_the_slices_with_the_most_similar_probability(known):
    sure = known.test_labels.copy()
    sure[known.probabilities[:, 1] == 0.8] = 1
    sure[known.probabilities[:, 1] == 0.2] = 0
    known = Reference(**{**vars(known), "test_labels": sure})

    def shares(*probabilities):
        observed = known.observed(np.array(probabilities), "ab").values()
        assert all(0 <= found.low <= found.share <= found.high <= 1 for found in observed)
        return [found.share for found in observed]

    assert shares(0.3, 0.7) == [0, 1]
    assert shares(0.7, 0.3) == [1, 0]
