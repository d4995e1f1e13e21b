"""A model that has learnt something, in memory."""

import numpy as np
import pytest
import torch

from alzmri.inference.predictor import CPU, Predictor
from alzmri.models.architectures import build
from alzmri.models.forward import MEAN, STD, normalise
from alzmri.models.saved import Card
from alzmri.ood.detector import Detector
from alzmri.ood.features import WithFeatures, run

SHAPE = {"name": "lenet", "classes": 4, "image_size": 32, "dropout": 0.5}
CARD = Card(
    architecture=SHAPE,
    classes=["a", "b", "c", "d"],
    preprocessing={"fit": "pad", "channels": 1, "mean": MEAN, "std": STD},
    parameters={"data": {"source": "phantom"}, "split": {"unit": "subject"}},
    training_subjects=[],
    data_sha256="0" * 64,
    temperature=1.5,
    versions={},
)


@pytest.fixture
def predictor(prepared) -> Predictor:
    """LeNet after some steps on the discs, and its detector."""
    torch.manual_seed(0)
    model = build(**SHAPE)
    rows = prepared.indices("train")
    inputs = normalise(torch.from_numpy(prepared.images[rows]))
    truth = torch.from_numpy(prepared.labels[rows])
    optimiser = torch.optim.Adam(model.parameters(), lr=0.003)
    for _ in range(30):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs), truth).backward()
        optimiser.step()
    network, validation = WithFeatures(model), prepared.indices("val")
    _, known = run(network, prepared.images, rows, CPU)
    _, held_out = run(network, prepared.images, validation, CPU)
    whose = [prepared.rows[index].subject for index in validation]
    detector = Detector.fit(known, held_out, whose, prepared.labels[validation], weights="none")
    assert np.isfinite(detector.threshold)
    return Predictor(network, CARD, detector)
