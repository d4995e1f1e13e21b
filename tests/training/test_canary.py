"""The canary: a model that only recognises people must look bad on new people, and only there."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from alzmri.classes import CLASSES
from alzmri.data.prepared import Prepared, Row
from alzmri.data.splits import assign
from alzmri.evaluation.metrics import scores
from alzmri.models.forward import predict, probabilities
from alzmri.training.checkpoints import Checkpoints
from alzmri.training.loop import train

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def shuffled() -> Prepared:
    """60 people, 8 slices each: a pattern of their own, and a class drawn by lot."""
    rng = np.random.default_rng(0)
    images, rows = [], []
    for person, label in enumerate(rng.permutation(np.repeat(CLASSES, 15))):
        pattern = np.kron(rng.integers(0, 200, (8, 8)), np.ones((4, 4)))
        for number in range(8):
            images.append((pattern + rng.integers(0, 50, pattern.shape)).astype(np.uint8))
            rows.append(
                Row(len(rows), f"{person}/{number}", label, f"P{person}", "", f"{len(rows)}")
            )
    return Prepared(np.stack(images), tuple(rows), CLASSES)


@pytest.mark.parametrize(("unit", "recognised"), [("subject", False), ("slice", True)])
def test_labels_shuffled_per_person_score_at_chance_on_new_people(
    shuffled, make_params, by_chance, tmp_path, unit, recognised
):
    params = make_params(
        split={"unit": unit},
        data={"image_size": 32},
        model={"name": "lenet"},
        train={"lr": 0.02, "epochs": 30, "batch_size": 16},
    )
    groups = [row.subject if unit == "subject" else row.sha256 for row in shuffled.rows]
    parts = assign([row.label for row in shuffled.rows], groups, params.split)
    rows = tuple(replace(row, split=part) for row, part in zip(shuffled.rows, parts, strict=True))
    prepared = replace(shuffled, rows=rows)
    store = Checkpoints(str(tmp_path), "test")
    run = train(prepared, params, CPU, store, lambda *_: None, lambda *_: None)
    run.scored.load_state_dict(run.best_weights)
    test = prepared.indices("test")
    chances = probabilities(predict(run.scored, prepared.images, test, CPU))
    truth = prepared.labels[test]
    accuracy = scores(truth, chances, CLASSES)["accuracy"]
    subjects = [rows[index].subject for index in test]
    p = by_chance(truth, chances.argmax(1), subjects)
    if recognised:
        assert accuracy > 0.9
        assert p < 0.001
    else:
        assert p > 0.001
