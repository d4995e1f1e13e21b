"""Models travel without pickle, and a damaged one is told from a good one."""

import json
import re

import pytest
import torch

from alzmri.errors import UserError
from alzmri.models import saved
from alzmri.models.architectures import build

LENET = {"name": "lenet", "classes": 4, "image_size": 32, "dropout": 0.5}


@pytest.fixture
def card(tmp_path):
    """The card of a model in ``tmp_path``."""
    subjects = [saved.subject_digest("Ann"), saved.subject_digest("Bob")]
    card = saved.Card(LENET, list("abcd"), {"fit": "pad"}, {}, subjects, "0" * 64, 1.5, {})
    saved.save(tmp_path, build(**LENET).state_dict(), card)
    return card


def test_weights_and_card_come_back_and_name_no_subject(tmp_path, card):
    model = build(**LENET)
    saved.save(tmp_path, model.state_dict(), card)
    loaded, again = saved.load(tmp_path)
    assert again == card
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name])
    assert card.shared_subjects(["Ann", "Cid", "Ann"]) == 1
    assert "Ann" not in (tmp_path / "model.json").read_text()
    assert len({saved.subject_digest(f"OAS1_{number:04}") for number in range(2000)}) == 2000


@pytest.mark.parametrize(
    "changes",
    [
        "weights cut short",
        "{",
        {"architecture": {**LENET, "image_size": 64}},
        {"architecture": {**LENET, "name": "resnet"}},
        {"training_subjects": None},
    ],
)
def test_a_damaged_model_names_the_remedy(tmp_path, card, changes):
    file, weights = tmp_path / "model.json", tmp_path / "model.safetensors"
    if changes == "weights cut short":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif isinstance(changes, str):
        file.write_text(changes)
    else:
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    with pytest.raises(UserError, match=r"damaged.*dvc checkout"):
        saved.load(tmp_path)


def test_no_model_names_the_remedy(tmp_path):
    with pytest.raises(UserError, match="dvc repro train"):
        saved.load(tmp_path)


def test_a_variance_below_zero_is_refused(tmp_path):
    """Its root would be NaN, in every prediction."""
    shape = {**LENET, "name": "resnet18"}
    weights = build(**shape).state_dict()
    name = next(name for name in weights if name.endswith("running_var"))
    weights[name][3] = -1
    saved.save(tmp_path, weights, saved.Card(shape, list("abcd"), {}, {}, [], "", 1.5, {}))
    with pytest.raises(UserError, match=rf"damaged \(model\.safetensors: {re.escape(name)}"):
        saved.load(tmp_path)
