"""Models travel without pickle, and a damaged one is told from a good one."""

import json

import pytest
import torch

from alzmri.errors import UserError
from alzmri.models import build, saved


@pytest.fixture
def card():
    return saved.Card(
        architecture={"name": "lenet", "classes": 4, "image_size": 32, "dropout": 0.5},
        classes=["a", "b", "c", "d"],
        preprocessing={"fit": "pad"},
        parameters={},
        training_subjects=[saved.subject_digest("Ann"), saved.subject_digest("Bob")],
        data_sha256="0" * 64,
        temperature=1.5,
        versions={},
    )


def test_weights_and_card_come_back(tmp_path, card):
    model = build(**card.architecture)
    saved.save(tmp_path, model.state_dict(), card)
    loaded, again = saved.load(tmp_path)
    assert again == card
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name])


def test_people_are_recognised_but_not_named(tmp_path, card):
    assert card.shared_subjects(["Ann", "Cid", "Ann"]) == 1
    saved.save(tmp_path, build(**card.architecture).state_dict(), card)
    assert "Ann" not in (tmp_path / "model.json").read_text()


def test_every_person_has_a_digest_of_their_own():
    assert len({saved.subject_digest(f"OAS1_{number:04}") for number in range(2000)}) == 2000


def _truncate(path):
    path.write_bytes(path.read_bytes()[:1000])


def _break_json(path):
    path.with_name("model.json").write_text("{")


def _edit(path, **changes):
    file = path.with_name("model.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def _other_size(path):
    _edit(path, architecture={"name": "lenet", "classes": 4, "image_size": 64, "dropout": 0.5})


def _no_people(path):
    _edit(path, training_subjects=None)


def _unknown_architecture(path):
    _edit(path, architecture={"name": "resnet", "classes": 4, "image_size": 32, "dropout": 0.5})


DAMAGES = [_truncate, _break_json, _other_size, _no_people, _unknown_architecture]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_model_names_the_remedy(tmp_path, card, damage):
    saved.save(tmp_path, build(**card.architecture).state_dict(), card)
    damage(tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"damaged.*dvc checkout"):
        saved.load(tmp_path)


def test_no_model_names_the_remedy(tmp_path):
    with pytest.raises(UserError, match="dvc repro train"):
        saved.load(tmp_path)
