"""Training slices give the Gaussian, validation slices the threshold, test slices the alarms."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from alzmri.errors import UserError
from alzmri.models import build, saved
from alzmri.ood import features
from alzmri.ood import fit as ood_fit
from alzmri.ood.detector import limit

CPU = torch.device("cpu")


@pytest.fixture
def fit(tmp_path):
    """``fit(prepared)``: what is learnt about an untrained model of these data."""

    def run(prepared):
        shape = {"name": "lenet", "classes": 4, "image_size": 32, "dropout": 0.5}
        torch.manual_seed(0)
        model = build(**shape)
        card = saved.Card(shape, list(prepared.classes), {}, {}, [], prepared.digest, 1.0, {})
        saved.save(tmp_path, model.state_dict(), card)
        return model, *ood_fit.fit(tmp_path, prepared)

    return run


def _with_test_slices(prepared, images):
    changed = prepared.images.copy()
    changed[prepared.indices("test")] = images
    return replace(prepared, images=changed)


def test_the_threshold_is_of_validation_and_the_alarms_are_of_test(prepared, fit):
    model, detector, metrics = fit(prepared)
    network = features.WithFeatures(model)
    of = {
        part: features.run(network, prepared.images, prepared.indices(part), CPU)[1]
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


def test_slices_like_those_of_validation_raise_no_alarm_and_noise_always_does(prepared, fit):
    alike = _with_test_slices(prepared, prepared.images[prepared.indices("val")])
    _, _, metrics = fit(alike)
    assert metrics["false_alarms"] == 0
    # None of four subjects: 1 - 0.025 ** (1 / 4), by Clopper and Pearson.
    assert metrics["ci95"]["false_alarms"] == pytest.approx([0, 0.602], abs=1e-3)
    assert metrics["flagged"] == {}
    noise = np.random.default_rng(0).integers(0, 256, (16, 32, 32), np.uint8)
    _, _, metrics = fit(_with_test_slices(prepared, noise))
    assert metrics["false_alarms"] == 1
    assert metrics["ci95"]["false_alarms"] == pytest.approx([0.398, 1], abs=1e-3)
    assert metrics["subjects_flagged"] == metrics["subjects"] == 4
    assert metrics["classes"]["Mild Demented"]["subjects_flagged"] == 1
    assert metrics["flagged"]["2-5"] == "4 of 4"


def test_a_model_of_other_data_is_refused_with_the_remedy(prepared, fit, tmp_path):
    fit(prepared)
    other = _with_test_slices(prepared, 0)
    with pytest.raises(UserError, match=r"other data or another split.*dvc repro train"):
        ood_fit.fit(tmp_path, other)
