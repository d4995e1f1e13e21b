"""A training starts from another model, and the new one says so."""

import uuid
from dataclasses import replace

import pytest
import torch

from alzmri.errors import LeakError, UserError
from alzmri.models import saved
from alzmri.training import initial, results
from alzmri.training.checkpoints import Checkpoints, fingerprint
from alzmri.training.loop import TrainingState, train

CPU = torch.device("cpu")


def _train(prepared, params, start=None):
    store = Checkpoints("memory://checkpoints", uuid.uuid4().hex)
    return train(prepared, params, CPU, store, initial=start)


@pytest.fixture
def quick(make_params):
    def make(name="lenet", size=32, unit="subject", **settings):
        return make_params(
            train={"lr": 0.02, "epochs": 8, "batch_size": 16, **settings},
            model={"name": name},
            data={"image_size": size},
            split={"unit": unit},
        )

    return make


@pytest.fixture
def first(prepared, quick, tmp_path, monkeypatch):
    """A trained model in the folder ``first``; its run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    run = _train(prepared, quick())
    results.write(run, prepared, quick(), "0123456789abcdef")
    (tmp_path / "models").rename(tmp_path / "first")
    return run


def test_it_begins_where_the_other_ended_and_names_it(prepared, quick, first, tmp_path):
    params = quick(init="first", epochs=1, lr=1e-9)
    start = initial.find(params, prepared)
    run = _train(prepared, params, start)
    assert run.history[0].val_loss == pytest.approx(first.best.val_loss, rel=1e-4)
    card = results.card(run, prepared, params, "name")
    assert card.training["init"] == {"name": "first", "weights": saved.digest(tmp_path / "first")}
    assert start.description == f"starts from first (weights {start.digest[:16]})"
    # The fingerprint is of the weights and not of their name alone.
    other = replace(start, digest="0" * 64)
    assert len({fingerprint(params, prepared, CPU, each) for each in (None, start, other)}) == 3


def test_other_classes_get_a_new_last_layer_and_keep_the_rest(prepared, quick, first):
    """And the subjects that the other was trained on stay in the card: they must not be tested."""
    names = {"Non Demented": "CN", "Very Mild Demented": "CN"}
    rows = tuple(
        replace(row, label=names.get(row.label, "AD"), subject=f"new {row.subject}")
        for row in prepared.rows
    )
    other = replace(prepared, rows=rows, classes=("CN", "AD"))
    params = quick(init="first")
    start = initial.find(params, other)
    assert "; the last layer is new, as its classes were Non" in start.description
    run = TrainingState.start(other, params, CPU, initial=start)
    fresh = TrainingState.start(other, params, CPU)
    for name, values in run.model.state_dict().items():
        source = fresh.model.state_dict() if "classifier.6" in name else first.best_weights
        assert torch.equal(values, source[name]), name
    assert len(results.card(run, other, params, "name").training_subjects) == 32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init": "first", "name": "resnet18"}, "lenet for 32 pixels.*set model.name=lenet"),
        ({"init": "first", "size": 64}, "this training is lenet for 64"),
        ({"init": "models"}, "training overwrites that folder"),
        ({"init": "."}, r"train.init = \.: no folder, experiment.*has a model"),
        ({"init": "nothing"}, "train.init = nothing: no folder, experiment.*dvc exp list"),
    ],
)
def test_what_cannot_be_started_from_is_refused_with_the_remedy(
    prepared, quick, first, changes, message
):
    with pytest.raises(UserError, match=message):
        initial.find(quick(**changes), prepared)


def test_a_model_that_has_seen_the_test_subjects_is_refused_unless_the_split_leaks(
    prepared, quick, first
):
    exchanged = {"train": "test", "test": "train", "val": "val"}
    rows = tuple(replace(row, split=exchanged[row.split]) for row in prepared.rows)
    other = replace(prepared, rows=rows)
    with pytest.raises(LeakError, match=r"first: 16 of 20 validation and test subjects"):
        initial.find(quick(init="first"), other)
    assert initial.find(quick(init="first", unit="slice"), other)


def test_as_many_other_classes_get_a_new_last_layer_too(prepared, quick, first):
    named = dict(zip(prepared.classes, "ABCD", strict=True))
    rows = tuple(replace(row, label=named[row.label]) for row in prepared.rows)
    start = initial.find(quick(init="first"), replace(prepared, rows=rows, classes=tuple("ABCD")))
    assert "the last layer is new" in start.description
    assert not {"classifier.6.weight", "classifier.6.bias"} & start.weights.keys()
