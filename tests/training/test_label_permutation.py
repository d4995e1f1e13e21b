"""Label permutation test: a model that only recognises subjects fails on new ones."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from alzmri.classes import CLASSES
from alzmri.data.prepared import Prepared, Row
from alzmri.data.splits import assign
from alzmri.models.forward import predict, probabilities
from alzmri.training.checkpoints import Checkpoints
from alzmri.training.loop import train

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def permuted() -> Prepared:
    """60 subjects, 8 slices each: every subject has its own pattern and a random class."""
    rng = np.random.default_rng(0)
    images, rows = [], []
    for subject, label in enumerate(rng.permutation(np.repeat(CLASSES, 15))):
        pattern = np.kron(rng.integers(0, 200, (8, 8)), np.ones((4, 4)))
        for number in range(8):
            images.append((pattern + rng.integers(0, 50, pattern.shape)).astype(np.uint8))
            rows.append(
                Row(len(rows), f"{subject}/{number}", label, f"P{subject}", "", f"{len(rows)}")
            )
    return Prepared(np.stack(images), tuple(rows), CLASSES)


@pytest.mark.parametrize(("unit", "recognised"), [("subject", False), ("slice", True)])
def test_permuted_labels_score_at_chance_on_new_subjects(
    permuted, make_params, by_chance, tmp_path, unit, recognised
):
    params = make_params(
        split={"unit": unit},
        data={"image_size": 32},
        model={"name": "lenet"},
        train={"lr": 0.02, "epochs": 15, "batch_size": 16},
    )
    groups = [row.subject if unit == "subject" else row.sha256 for row in permuted.rows]
    parts = assign([row.label for row in permuted.rows], groups, params.split)
    rows = tuple(replace(row, split=part) for row, part in zip(permuted.rows, parts, strict=True))
    prepared = replace(permuted, rows=rows)
    store = Checkpoints(str(tmp_path), "test")
    scored = train(prepared, params, CPU, store).scored
    test = prepared.indices("test")
    chances = probabilities(predict(scored, prepared.images, test, CPU))
    truth = prepared.labels[test]
    accuracy = np.mean(truth == chances.argmax(1))
    subjects = [rows[index].subject for index in test]
    p = by_chance(truth, chances.argmax(1), subjects)
    if recognised:
        assert accuracy > 0.9
        assert p < 0.001
    else:
        assert p > 0.001
