"""From words to experiments: combinations, names, faults."""

import subprocess

import pytest

from alzmri.errors import UserError
from alzmri.experiments.sweeps import grid


def names(*words, name=None):
    return [experiment.name for experiment in grid(words, name, {}).experiments]


def test_all_combinations_named_after_what_varies():
    plan = grid(["train.lr=1e-4,0.0005", "train.momentum=0.85,0.9", "train.epochs=1"], None, {})
    assert plan.name == "sweep-lr-momentum"
    assert [experiment.name.removeprefix(f"{plan.name}-") for experiment in plan.experiments] == [
        "lr0.0001-momentum0.85",
        "lr0.0001-momentum0.9",
        "lr0.0005-momentum0.85",
        "lr0.0005-momentum0.9",
    ]
    used = [experiment.params.train for experiment in plan.experiments]
    assert [(one.lr, one.momentum, one.epochs) for one in used] == [
        (lr, momentum, 1) for lr in (0.0001, 0.0005) for momentum in (0.85, 0.9)
    ]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("train.seed=range(2)",), ["n-seed0", "n-seed1"]),
        (("train.lr=range(0.1,0.45,0.1)",), ["n-lr0.1", "n-lr0.2", "n-lr0.3", "n-lr0.4"]),
        (("train.lr=choice(0.1,1e-5)",), ["n-lr0.1", "n-lr1e-05"]),
        (("train.lr=0.1,1e-1",), ["n-lr0.1"]),
        (("model.name=lenet,alexnet",), ["n-name_lenet", "n-name_alexnet"]),
        (("train.keep_last=true,false",), ["n-keep_last_true", "n-keep_last_false"]),
        (("split.fractions=[0.7,0.15,0.15],[0.6,0.2,0.2]",), None),
        (
            ("train.seed=0,1", "split.seed=4,5"),
            [f"n-train_seed{a}-split_seed{b}" for a in (0, 1) for b in (4, 5)],
        ),
    ],
)
def test_names_are_of_git_references_and_tell_experiments_apart(words, expected):
    found = names(*words, name="n")
    assert expected in (None, found)
    assert len(set(found)) == len(found) > (0 if expected == ["n-lr0.1"] else 1)
    for name in found:
        subprocess.run(["git", "check-ref-format", f"refs/exps/ab/cd/{name}"], check=True)


def test_every_fault_is_said_at_once():
    words = ["train.lr=interval(0,1)", "train.epoch=1,2", "train.momentum=2,0.9", "train.lr"]
    words += ["train.seed=range(0)", "split.seed=1", "split.seed=2", "data.source=a,phantom"]
    with pytest.raises(UserError) as error:
        grid(words, "no/slash", {})
    message = str(error.value)
    assert "this sweep has 8 fault(s)" in message
    for fault in (
        "train.lr=interval(0,1): ",
        "train.epoch: no such key; did you mean train.epochs?",
        "train.momentum = 2",
        "train.lr: ",
        "train.seed=range(0): no values",
        "split.seed: given twice",
        "--name no/slash: ",
        "data/a not found",
    ):
        assert f"\n  {fault}" in message
    with pytest.raises(UserError, match=r"train\.warmup = 12"):
        grid(["train.warmup=1,12", "train.epochs=5,20"], None, {})
    with pytest.raises(UserError, match="nothing to run"):
        grid([], None, {})
