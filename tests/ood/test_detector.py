"""The OOD detector of a model: fitted, kept, and never another model's.

Training slices give the Gaussian, validation slices the threshold, test slices the alarms.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from alzmri.data import images
from alzmri.errors import UserError
from alzmri.models import saved
from alzmri.models.architectures import build
from alzmri.ood import features as activations
from alzmri.ood.detector import FILE, Detector, fit, limit
from alzmri.phantom.simulate import generate

CPU = torch.device("cpu")


@pytest.fixture
def features():
    """200 training and 100 validation slices of 50 features with few directions of their own."""
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((5, 50))
    values = rng.standard_normal((300, 5)) @ mixing + 0.1 * rng.standard_normal((300, 50))
    return np.split(values.astype(np.float32), [200])


def _fit(training, validation):
    """With the validation slices of 25 subjects of one class."""
    subjects = [str(n // 4) for n in range(len(validation))]
    return Detector.fit(training, validation, subjects, np.zeros(len(validation), int), "w")


def test_no_class_is_flagged_more_than_twice_as_often_as_another():
    """Atrophy lies farther out, and a subject's slices lie together: pooled slices flag one class.

    Rates are of subjects with any flagged slice, of new ones, over many fits.
    """
    rng = np.random.default_rng(0)
    centre, each, slices = np.array([10.0, 10.5, 11.0, 11.0]), 12, 6

    def farther(subjects):
        own = np.repeat(np.arange(4), subjects)
        level = centre[own] + rng.normal(0, 0.5, len(own))
        return own, level[:, np.newaxis] + rng.normal(0, 0.2, (len(own), slices))

    found = np.zeros((2, 4))
    for _ in range(200):
        own, known = farther(each)
        names = [str(n) for n in np.repeat(np.arange(len(own)), slices)]
        own_new, new = farther(200)
        pooled = np.quantile(known, 0.99)
        for row, threshold in enumerate((pooled, limit(known.ravel(), names, own.repeat(slices)))):
            found[row] += np.bincount(own_new, (new > threshold).any(axis=1)) / 200 / 200
    assert found[0].max() > 0.03  # of the quantile of pooled slices
    assert found[1].max() < 0.015
    assert found[1].max() - found[1].min() < 0.015


def test_on_the_phantom_no_class_is_flagged_more_than_twice_as_often_as_another(tmp_path):
    """Of new subjects, over many splits; a quantile of all slices takes atrophy for strangeness."""
    generate(tmp_path, subjects=30, slices=1, difficulty=0.12, seed=5)
    files = sorted(tmp_path.rglob("*.jpg"))
    slices = np.stack([images.fit(images.decode(file).pixels, 32, "pad") for file in files])
    folders = [file.parent.name for file in files]
    labels = np.unique(folders, return_inverse=True)[1]
    torch.manual_seed(2)
    network = build(name="lenet", classes=4, image_size=32, dropout=0.5)
    features = activations.run(
        activations.WithFeatures(network), slices, np.arange(len(slices)), CPU
    )[1]
    flagged = np.zeros((2, 4))
    for seed in range(20):
        order = np.random.default_rng(seed).permuted(np.arange(120).reshape(4, 30), axis=1)
        assert (labels[order] == labels[order[:, :1]]).all()
        training, validation, new = (o.ravel() for o in np.split(order, [12, 24], axis=1))
        names = validation.astype(str).tolist()
        detector = Detector.fit(
            features[training], features[validation], names, labels[validation], "w"
        )
        distances = detector.score(features[new])
        pooled = np.quantile(detector.score(features[validation]), 0.98)
        for row, threshold in enumerate((pooled, 1)):
            flagged[row] += np.bincount(labels[new], distances > threshold) / 6 / 20
    assert flagged[0].max() > 2 * flagged[0].min() + 0.01
    assert flagged[1].max() <= 2 * flagged[1].min() + 0.01


def test_few_subjects_make_a_wide_limit_and_one_alone_is_its_own():
    assert limit(np.array([1.0, 3.0]), ["a", "a"], np.zeros(2, int)) == 3
    names, labels = ["a", "b", "c", "d"], np.arange(4)
    assert limit(np.array([1.0, 2, 3, 4]), names, labels) > 6  # one subject a class: pooled
    assert limit(np.full(4, 2.0), names, labels) == pytest.approx(2)


def test_it_sees_both_far_along_and_far_beside_the_known_directions(features):
    training, validation = features
    detector = _fit(training, validation)
    assert len(detector.directions) == 5
    along = detector.mean + 10 * np.sqrt(detector.variances[0]) * detector.directions[0]
    # As long as the noise of one feature, in a direction that no training slice has.
    rng = np.random.default_rng(1)
    beside = rng.standard_normal(50)
    beside -= detector.directions.T @ (detector.directions @ beside)
    beside = detector.mean + 2 * beside / np.linalg.norm(beside)
    assert (detector.score(np.stack([along, beside]).astype(np.float32)) > 1).all()
    assert detector.score(detector.mean[None]) == 0


def test_it_is_read_back_as_it_was_and_written_alike(features, tmp_path):
    detector = _fit(*features)
    detector.save(tmp_path)
    first = (tmp_path / FILE).read_bytes()
    again = Detector.load(tmp_path, "w")
    assert np.array_equal(again.score(features[1]), detector.score(features[1]))
    again.save(tmp_path)
    assert (tmp_path / FILE).read_bytes() == first


def test_a_missing_damaged_or_foreign_one_is_refused_with_the_remedy(features, tmp_path):
    with pytest.raises(UserError, match="not found: run `dvc repro ood`"):
        Detector.load(tmp_path, "w")
    _fit(*features).save(tmp_path)
    with pytest.raises(UserError, match="other weights: run `dvc repro ood`"):
        Detector.load(tmp_path, "v")
    (tmp_path / FILE).write_bytes((tmp_path / FILE).read_bytes()[:100])
    with pytest.raises(UserError, match="damaged"):
        Detector.load(tmp_path, "w")


@pytest.fixture
def fitted(tmp_path):
    """``fitted(prepared)``: what is learnt about an untrained model of these data."""

    def run(prepared):
        shape = {"name": "lenet", "classes": 4, "image_size": 32, "dropout": 0.5}
        torch.manual_seed(0)
        model = build(**shape)
        card = saved.Card(shape, list(prepared.classes), {}, {}, [], prepared.digest, 1.0, {})
        saved.save(tmp_path, model.state_dict(), card)
        return model, *fit(tmp_path, prepared)

    return run


def _with_test_slices(prepared, images):
    changed = prepared.images.copy()
    changed[prepared.indices("test")] = images
    return replace(prepared, images=changed)


def test_the_threshold_is_of_validation_and_the_alarms_are_of_test(prepared, fitted):
    model, detector, metrics = fitted(prepared)
    network = activations.WithFeatures(model)
    of = {
        part: activations.run(network, prepared.images, prepared.indices(part), CPU)[1]
        for part in ("train", "val", "test")
    }
    np.testing.assert_allclose(detector.mean, of["train"].mean(axis=0), rtol=1e-3, atol=1e-5)
    distances = detector.score(of["val"]) * detector.threshold
    rows = [prepared.rows[index] for index in prepared.indices("val")]
    labels = prepared.labels[prepared.indices("val")]
    expected = limit(distances, [row.subject for row in rows], labels)
    assert detector.threshold == pytest.approx(expected, rel=1e-4)
    assert metrics["validation"] == {"false_alarms": 0}
    assert metrics["false_alarms"] == np.mean(detector.score(of["test"]) > 1)
    assert (metrics["slices"], metrics["subjects"]) == (16, 4)
    low, high = metrics["ci95"]["false_alarms"]
    assert low <= metrics["false_alarms"] <= high


def test_slices_like_those_of_validation_raise_no_alarm_and_noise_always_does(prepared, fitted):
    alike = _with_test_slices(prepared, prepared.images[prepared.indices("val")])
    _, _, metrics = fitted(alike)
    assert metrics["false_alarms"] == 0
    # None of four subjects: 1 - 0.025 ** (1 / 4), by Clopper and Pearson.
    assert metrics["ci95"]["false_alarms"] == pytest.approx([0, 0.602], abs=1e-3)
    assert metrics["flagged"] == {}
    noise = np.random.default_rng(0).integers(0, 256, (16, 32, 32), np.uint8)
    _, _, metrics = fitted(_with_test_slices(prepared, noise))
    assert metrics["false_alarms"] == 1
    assert metrics["ci95"]["false_alarms"] == pytest.approx([0.398, 1], abs=1e-3)
    assert metrics["subjects_flagged"] == metrics["subjects"] == 4
    assert metrics["classes"]["Mild Demented"]["subjects_flagged"] == 1
    assert metrics["flagged"]["2-5"] == "4 of 4"


def test_a_model_of_other_data_is_refused_with_the_remedy(prepared, fitted, tmp_path):
    fitted(prepared)
    other = _with_test_slices(prepared, 0)
    with pytest.raises(UserError, match=r"other data or another split.*dvc repro train"):
        fit(tmp_path, other)
