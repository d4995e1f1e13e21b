"""What a model's outputs mean, and how many go through it at once does not matter."""

import numpy as np
import pytest
import torch

from alzmri.inference.predictor import interpret
from alzmri.models.architectures import build
from alzmri.models.forward import predict
from alzmri.models.saved import Card
from alzmri.ood import features
from alzmri.ood.detector import Detector

CPU = torch.device("cpu")


def _card(temperature):
    return Card({}, ["a", "b", "c"], {}, {}, [], "0" * 64, temperature, {})


@pytest.fixture
def detector():
    """A Gaussian of eight features around 0, and a threshold."""
    rng = np.random.default_rng(0)
    known, held_out = rng.normal(size=(2, 200, 8)).astype(np.float32)
    subjects = [f"subject {number}" for number in range(len(held_out))]
    return Detector.fit(known, held_out, subjects, np.zeros(len(held_out), int), "w")


def test_logits_are_divided_by_the_temperature_of_the_card(detector):
    logits = np.array([[2.0, 0.0, -2.0], [0.0, 1.0, 0.5]])
    nothing = np.zeros((2, 8), np.float32)
    found = interpret(logits, nothing, _card(2.0), detector).probabilities
    divided = np.exp(logits / 2)
    np.testing.assert_allclose(found, divided / divided.sum(axis=1, keepdims=True))
    # A temperature above 1 softens.
    assert found[0, 0] < interpret(logits, nothing, _card(1.0), detector).probabilities[0, 0]


def test_slices_beyond_the_threshold_are_out_of_distribution(detector):
    near, far = np.zeros((1, 8), np.float32), np.full((1, 8), 50, np.float32)
    found = interpret(np.zeros((2, 3)), np.concatenate([near, far]), _card(1.0), detector)
    assert found.in_distribution.tolist() == [True, False]
    assert found.ood_score[0] < 1 < found.ood_score[1]


def test_many_slices_have_the_outputs_that_each_has_alone(monkeypatch):
    """And the logits are those that are scored."""
    monkeypatch.setattr(features, "BATCH_SIZE", 3)
    model = build("lenet", classes=4, image_size=32, dropout=0.5)
    network = features.WithFeatures(model)
    images = np.random.default_rng(0).integers(0, 256, (9, 32, 32), np.uint8)
    chosen = np.array([8, 1, 2, 3, 4, 5, 0])
    logits, found = features.run(network, images, chosen, CPU)
    assert len(logits) == len(found) == 7
    np.testing.assert_allclose(logits, predict(model, images, chosen, CPU), atol=1e-5)
    for row, index in enumerate(chosen):
        alone, own = features.run(network, images, np.array([index]), CPU)
        np.testing.assert_allclose(logits[row], alone[0], atol=1e-5)
        np.testing.assert_allclose(found[row], own[0], atol=1e-5)
