"""From words to experiments: combinations and names; what Optuna is asked and told; faults.

A search is repeatable, and taken up again where it was left.
"""

import shutil
import statistics
import subprocess
from pathlib import Path

import pytest

from alzmri.errors import UserError
from alzmri.experiments.sweeps import plan

ROOT = Path(__file__).parents[2]
WORDS = (
    *("train.lr=log(1e-4,1e-2)", "train.batch_size=uniform(8,64)", "model.name=alexnet,lenet"),
    "split.fractions=[0.7,0.15,0.15],[0.6,0.2,0.2]",
)


@pytest.fixture(autouse=True)
def repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    for words in (
        "init --quiet",
        "config user.name test",
        "config user.email test@localhost",
        "add --all",
        "commit --quiet --message start",
    ):
        subprocess.run(("git", *words.split()), check=True)


def search(*more, name="s", total=12, seed=0):
    return plan([*WORDS, *more], name, {"compute.train_on": "here"}, total, seed)


def known(sweep):
    return sum(map(bool, sweep.planned.values()))


def asked(sweep, make_run=None, finish_to=0):
    """Every experiment of ``sweep``; the first ``finish_to`` score as their rate is high."""
    found, results = [], {}
    for number, experiment in enumerate(sweep.ask(results)):
        found.append(experiment)
        results[experiment.name] = None  # it failed
        if number < finish_to:
            score = experiment.params.train.lr * 90
            results[experiment.name] = make_run(experiment.name, score)
    return found


def test_all_combinations_named_after_what_varies():
    words = ["train.lr=1e-4,0.0005", "train.momentum=0.85,0.9", "train.epochs=1"]
    sweep = plan(words, None, {"track.mode": "offline"})
    assert sweep.name == "sweep-lr-momentum"
    rates = [(lr, momentum, 1) for lr in (0.0001, 0.0005) for momentum in (0.85, 0.9)]
    assert [*sweep.planned] == [f"{sweep.name}-lr{lr}-momentum{m}" for lr, m, _ in rates]
    experiments = asked(sweep)
    assert {one.params.track.group for one in experiments} == {sweep.name}
    assert {one.params.track.mode for one in experiments} == {"offline"}
    used = [experiment.params.train for experiment in experiments]
    assert [(one.lr, one.momentum, one.epochs) for one in used] == rates


def test_names_are_of_git_references_and_tell_experiments_apart():
    for words, expected in (
        ("train.seed=range(2)", "n-seed0 n-seed1"),
        ("train.lr=range(0.1,0.45,0.1)", "n-lr0.1 n-lr0.2 n-lr0.3 n-lr0.4"),
        ("train.lr=choice(0.1,1e-5)", "n-lr0.1 n-lr1e-05"),
        ("train.lr=0.1,1e-1", "n-lr0.1"),
        ("model.name=lenet,alexnet", "n-name_lenet n-name_alexnet"),
        ("train.keep_last=true,false", "n-keep_last_true n-keep_last_false"),
        (
            "split.fractions=[0.7,0.15,0.15],[0.6,0.2,0.2]",
            "n-fractions0.7_0.15_0.15 n-fractions0.6_0.2_0.2",
        ),
        (
            "train.seed=0,1 split.seed=4,5",
            " ".join(f"n-train_seed{a}-split_seed{b}" for a in (0, 1) for b in (4, 5)),
        ),
    ):
        found = [*plan(words.split(), "n", {}).planned]
        assert found == expected.split()
        for name in found:
            subprocess.run(["git", "check-ref-format", f"refs/exps/ab/cd/{name}"], check=True)


@pytest.mark.parametrize(
    ("words", "trials", "message"),
    [
        ("train.lr=interval(0,1)", None, r"train\.lr=interval\(0,1\): .*; write KEY=A,B"),
        ("train.lr", None, "train.lr: "),
        ("train.seed=range(0)", None, r"train\.seed=range\(0\): no values"),
        ("split.seed=1 split.seed=2", None, "split.seed: given twice"),
        ("augment.p=uniform(0,1)", None, r"augment\.p: uniform\(A,B\) needs --trials"),
        ("data.source=phantom,a", None, "data/a not found"),
        ("train.warmup=1,12 train.epochs=5,20", None, r"train\.warmup = 12"),
        ("", None, "nothing to run"),
        ("train.lr=0.1", 3, "nothing to search"),
        ("train.lr=log(0,1)", 3, r"train\.lr=log\(0,1\): no such range"),
        ("train.lr=uniform(1,0.5)", 3, "no such range"),
        ("train.init=a/b,a_b", None, "would have the same name"),
        ("train.epochs=uniform(1,x)", 3, r"train\.epochs=uniform\(1,x\): "),
        ("train.momentum=uniform(0.5,2)", 3, r"train\.momentum = 2"),
    ],
)
def test_a_fault_is_refused_before_anything_runs(words, trials, message):
    with pytest.raises(UserError, match=message):
        plan(words.split(), None, {}, trials)
    with pytest.raises(UserError, match="--name no/slash: up to 64 letters"):
        plan(["train.lr=0.1,0.2"], "no/slash", {})


def test_every_fault_of_the_parameters_is_said_at_once():
    words = ["train.epoch=1,2", "train.momentum=2,0.9", "train.seed=two"]
    with pytest.raises(UserError) as error:
        plan(words, None, {})
    for fault in ("train.epoch: no such key; did you mean train.epochs?", "train.momentum = 2"):
        assert fault in str(error.value)
    assert "train.seed" in str(error.value)


def test_values_are_within_their_ranges_and_named_by_number():
    found = asked(search("train.epochs=3"))
    assert [experiment.name for experiment in found[:2]] == ["s-t001", "s-t002"]
    assert len(found) == 12
    used = [experiment.params for experiment in found]
    assert all(1e-4 <= one.train.lr <= 1e-2 for one in used)
    assert min(one.train.lr for one in used) < 1e-3 < max(one.train.lr for one in used)
    assert all(8 <= one.train.batch_size <= 64 for one in used)
    assert {one.model.name for one in used} == {"alexnet", "lenet"}
    assert {one.split.fractions[0] for one in used} == {0.6, 0.7}
    assert {one.train.epochs for one in used} == {3}
    assert len({one.train.lr for one in used}) == 12
    rates = [one.settings["train.lr"] for one in found]
    assert [one.settings["train.lr"] for one in asked(search(name="again"))] == rates
    assert asked(search(name="other", seed=1))[0].settings["train.lr"] != rates[0]


def test_scores_lead_and_a_search_that_was_ended_goes_on_as_it_would_have(make_run):
    whole = asked(search(name="whole", total=16), make_run, 16)
    late = [experiment.params.train.lr for experiment in whole[12:]]
    assert statistics.median(late) > 2e-3  # high rates scored high; the ranges' middle is 1e-3
    asked(search(total=13), make_run, 12)  # the last one fails
    again = search(total=16)
    assert [*again.planned] == [f"s-t{number:03}" for number in range(1, 17)]
    assert known(again) == 13
    assert [one.params.train for one in asked(again, make_run, 16)] == [
        one.params.train for one in whole
    ]
    assert [known(search("train.epochs=2", total=n)) for n in (3, 16)] == [3, 16]
    assert not known(search("model.dropout=0.1,0.5"))  # other ranges begin anew
