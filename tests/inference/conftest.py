"""A model that has learnt something, in memory."""

import uuid

import numpy as np
import pytest
import torch

from alzmri.inference.predictor import Predictor, Preprocessing
from alzmri.models.architectures import build
from alzmri.ood.detector import Detector
from alzmri.ood.features import WithFeatures, run
from alzmri.training import outputs
from alzmri.training.checkpoints import Checkpoints
from alzmri.training.loop import train

CPU = torch.device("cpu")


@pytest.fixture
def predictor(prepared, make_params) -> Predictor:
    """LeNet after twenty epochs of the discs, and its detector."""
    settings = {"lr": 0.02, "epochs": 20, "batch_size": 16, "precision": "fp32"}
    params = make_params(train=settings, model={"name": "lenet"}, data={"image_size": 32})
    store = Checkpoints("memory://checkpoints", uuid.uuid4().hex)
    trained = train(prepared, params, CPU, store, lambda *_: None, lambda *_: None)
    card = outputs.card(trained, prepared, params, "test")
    model = build(**card.architecture)
    model.load_state_dict(trained.best_weights)
    network = WithFeatures(model)
    _, known = run(network, prepared.images, prepared.indices("train"), CPU)
    _, held_out = run(network, prepared.images, prepared.indices("val"), CPU)
    validation = prepared.indices("val")
    whose = [prepared.rows[index].subject for index in validation]
    detector = Detector.fit(known, held_out, whose, prepared.labels[validation], weights="none")
    assert np.isfinite(detector.threshold)
    return Predictor(network, card, detector, Preprocessing.of(card))
