"""The card says what a stranger must know, and says the worst first."""

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML

from alzmri.classes import CLASSES
from alzmri.evaluation import assessment, model_card
from alzmri.evaluation.markdown import interval
from alzmri.ood.detector import share_interval
from alzmri.training import results
from alzmri.training.loop import TrainingState

_RATE = {
    "false_alarms": 0.25,
    "ci95": {"false_alarms": [0.01, 0.75]},
    "slices": 4,
    "subjects": 1,
    "subjects_flagged": 1,
}
ALARMS = {**_RATE, "classes": {CLASSES[2]: _RATE}, "flagged": {"2-5": "1 of 4"}}


@pytest.fixture
def written(prepared, make_params, tmp_path):
    """``written(split={...})``: the card of an untrained model."""

    def write(prepared=prepared, init=None, leak=(), **sections) -> str:
        params = make_params(model={"name": "lenet"}, **sections)
        state = TrainingState.start(prepared, params, torch.device("cpu"))
        trained = results.card(state, prepared, params, "0123456789abcdef")
        trained.training["init"] = init
        none_ood = SimpleNamespace(score=lambda activations: np.zeros(len(activations)))
        test = assessment.predict_test(state.model, 1.5, prepared, none_ood, calibrated=True)
        leak = {"unit": params.split.unit, "shared_subjects": 0, **dict(leak)}
        metrics = assessment.details(test, leak, seed=0)
        model_card.write(tmp_path / "MODEL_CARD.md", trained, prepared, metrics, ALARMS)
        return Path(tmp_path / "MODEL_CARD.md").read_text()

    return write


def test_it_has_scores_intervals_people_and_limits(written):
    _, head, text = written().split("---\n", 2)
    (model,) = YAML(typ="safe").load(head)["model-index"]
    (result,) = model["results"]
    assert [metric["type"] for metric in result["metrics"]] == ["f1", "accuracy"] * 2
    for metric in result["metrics"]:
        low, high = metric["ci95"]
        assert 0 <= low <= high <= 1
        assert metric["leaks"] is False
    assert text.startswith("\n# Model card: lenet, 4 classes")
    assert "not for clinical use" in text.splitlines()[3]
    assert "**simulated**" in text
    assert "| Mild Demented | 16 of 4 | 4 of 1 | 4 of 1 |" in text
    assert "| macro F1 | 0." in text
    assert "per subject (n=4)" in text
    assert "| Mild Demented | 0.250 [0.010, 0.750] | 4 | 1 of 1 |" in text
    assert "2-5 (1 of 4)" in text
    (row,) = re.findall(r"\| Mild Demented \| (\d.* \[.*\]) \| (\d.* \[.*\]) \| .* \| 1 \|", text)
    hits, passes = float(row[0][:5]), round(3 * float(row[1][:5])) / 3
    assert row[0] == interval(hits, share_interval(hits, 1))
    assert row[1] == interval(passes, share_interval(passes, 3))
    assert "hold the fitted model fixed" in text
    assert "One temperature, 1.50" in text
    assert "- Mild Demented: 1 test subjects, so its scores say little." in text
    assert "| `train.lr` | 0.0001 |" in text
    assert "leak" not in text
    assert "trained from scratch" in text
    start = {"name": "alzmri@v0.1.0", "weights": "0123456789abcdef0"}
    other = written(init=start, data={"source": "kaggle"})
    assert "trained further from `alzmri@v0.1.0` (weights `0123456789abcdef`)" in other
    assert "simulated" not in other


def test_leaks_and_a_label_permutation_are_named_where_the_numbers_are(written):
    text = written(
        leak={"shared_subjects": 3}, split={"unit": "slice"}, data={"permute_labels": True}
    )
    assert "leaks: true" in text.split("---\n")[1]
    assert "**slices drawn singly: it leaks**" in text
    scores = text[text.index("## Scores") :]
    assert "**These scores leak: 3 of 4 test subjects" in scores[:200]
    assert "labels permuted between subjects" in text
    text = written(leak={"shared_subjects": None, "near_duplicates": 7})
    assert "leaks: true" in text.split("---\n")[1]
    assert "**These scores leak: 7 images have a near-duplicate" in text
    assert "seen in training is unknown" in text
    assert "seen in training: 0" not in text
    text = written(leak={"shared_subjects": None, "several_groups": True})
    assert "leaks: true" in text.split("---\n")[1]
    assert "**These scores may leak: subjects were recognised from pixels without a clear" in text
    assert "seen in training is unknown" in text


def test_of_unknown_subjects_nothing_is_said_but_that(written, prepared):
    rows = tuple(replace(row, subject=f"?{row.index:016}") for row in prepared.rows)
    text = written(
        leak={"shared_subjects": None},
        prepared=replace(prepared, rows=rows),
        split={"unit": "slice", "subjects": "unknown"},
    )
    assert "per subject" not in text.split("---\n")[1]
    assert "**slices drawn singly, subjects unknown: it leaks**" in text
    assert "| Mild Demented | 16 of ? | 4 of ? | 4 of ? |" in text
    assert "**Subjects unknown, this split LEAKS: nothing is known about new subjects.**" in text
    assert "per subject (n=?)" in text
    assert "| neighbouring class | " in text
    assert "test subjects, so" not in text
    (score,) = (line for line in text.splitlines() if line.startswith("| macro F1"))
    assert score.endswith("] | – |")


def test_a_class_of_ten_subjects_is_not_called_few(written, prepared):
    """And one of nine is."""
    rows = list(prepared.rows)
    for label, subjects in ((CLASSES[0], 10), (CLASSES[1], 9)):
        mine = [row for row in rows if row.label == label][:subjects]
        for number, row in enumerate(mine):
            rows[row.index] = replace(row, split="test", subject=f"{label} {number}")
        for row in [row for row in rows if row.label == label and row.split == "test"][subjects:]:
            rows[row.index] = replace(row, split="val")
    text = written(prepared=replace(prepared, rows=tuple(rows)))
    assert f"- {CLASSES[0]}: " not in text
    assert f"- {CLASSES[1]}: 9 test subjects, so its scores say little." in text
