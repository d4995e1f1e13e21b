"""What is planned fits the schema, and means what the tables will say."""

import re

import pytest

from alzmri.errors import UserError
from alzmri.experiments import runs
from alzmri.experiments.studies import plans
from alzmri.params import Params


@pytest.mark.parametrize("scale", [plans.FULL, plans.SCALED])
def test_folds_differ_in_nothing_but_the_fold(scale):
    cross = plans.honest("phantom", "binary", 5, scale, {})
    slices = cross.pop(None)
    assert list(cross) == [0, 1, 2, 3, 4]
    parameters = [experiment.params for experiment in cross.values()]
    for fold, used in enumerate(parameters):
        assert (used.split.unit, used.split.folds, used.split.fold) == ("subject", 5, fold)
    alike = {used.model_copy(update={"split": None}).model_dump_json() for used in parameters}
    assert len(alike) == 1
    leaking = slices.params
    assert leaking.split.unit == "slice"
    assert {leaking.model_copy(update={"split": None}).model_dump_json()} == alike


def test_the_protocol_at_full_size_is_the_published_one():
    for setting, (lr, momentum) in {"baseline": (1e-4, 0.9), "best": (5e-4, 0.85)}.items():
        used = plans.protocol("phantom", plans.FULL, {})[setting].params
        assert (used.train.lr, used.train.momentum) == (lr, momentum)
        assert (used.train.batch_size, used.train.epochs) == (128, 100)
        assert (used.data.image_size, used.split.unit) == (224, "slice")
        assert used.split.fractions == [0.70, 0.15, 0.15]
        assert used.train.weight_decay == 1e-4
        augment = used.augment
        assert (augment.p, augment.shift, augment.scale, augment.rotate) == (0.2, 0.05, 0.05, 15)


def test_the_cross_validation_at_full_size_is_the_documented_one():
    used = plans.honest("phantom", "none", 5, plans.FULL, {})[0].params
    train = used.train
    assert (train.lr, train.momentum, train.schedule) == (0.004, 0.9, "onecycle")
    assert (train.batch_size, train.epochs, train.class_weights) == (32, 20, "sqrt")
    assert (used.data.image_size, used.split.folds) == (224, 5)


def test_the_task_is_what_the_table_calls_it_whatever_is_set_beside_it():
    planned = plans.honest("phantom", "binary", 3, plans.SCALED, {"data.merge": "none"})
    assert {experiment.params.data.merge for experiment in planned.values()} == {"binary"}


def test_what_is_scaled_is_said():
    full, scaled = (
        plans.protocol("phantom", scale, {})["best"].params for scale in (plans.FULL, plans.SCALED)
    )
    note = plans.SCALED.protocol_note
    for value in (full, scaled):
        for number in (value.data.image_size, value.train.batch_size, value.train.epochs):
            assert str(number) in note
    assert _other_than_size(full) == _other_than_size(scaled)
    images = scaled.train.epochs / full.train.epochs
    steps = images * full.train.batch_size / scaled.train.batch_size
    assert f"{steps:.1g} of the steps" in note
    assert f"{images * 100:.0f} % of the images" in note


def test_settings_of_the_user_win_and_are_checked():
    planned = plans.honest("phantom", "none", 3, plans.SCALED, {"train.epochs": 2})
    assert planned[0].params.train.epochs == 2
    wrong = plans.protocol("phantom", plans.SCALED, {"train.epoch": 2})["best"]
    with pytest.raises(UserError, match=r"train\.epoch: no such key; did you mean train\.epochs"):
        _ = wrong.params


def _other_than_size(used: Params) -> dict[str, object]:
    content = used.model_dump()
    for key in ("batch_size", "epochs"):
        del content["train"][key]
    del content["data"]["image_size"]
    return content


@pytest.mark.parametrize("word", ["train.lr", "=1", "train.lr=["])
def test_a_setting_that_cannot_be_read_is_named(word):
    with pytest.raises(UserError, match=re.escape(f"-S {word}: ")):
        runs.parse_settings([word])


def test_a_params_file_with_faults_is_named(tmp_path, monkeypatch):
    (tmp_path / "params.yaml").write_text("train: [")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"params\.yaml is not valid YAML"):
        _ = plans.protocol("phantom", plans.SCALED, {})["best"].params
