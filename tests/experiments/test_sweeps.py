"""From words to experiments: combinations and names; what Optuna is asked and told; faults.

A search is repeatable, and taken up again where it was left.
"""

import json
import shutil
import statistics
import subprocess
from pathlib import Path

import pytest

from alzmri import git
from alzmri.errors import UserError
from alzmri.experiments.finished_runs import finished
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


def search(*more, total=12, seed=0):
    return plan([*WORDS, *more], "s", {"compute.train_on": "here"}, total, seed)


def finish(experiment, score):
    """What DVC keeps of an experiment, made by git alone."""
    baseline = git.head()
    path = Path("params.yaml")
    text = path.read_text()
    path.write_text(json.dumps(experiment.params.model_dump(mode="json")))
    Path("metrics").mkdir(exist_ok=True)
    Path("metrics/train.json").write_text(json.dumps({"val_macro_f1": score, "best_epoch": 1}))
    subprocess.run(("git", "add", "--all"), check=True)
    tree = git.run("write-tree").strip()
    commit = git.run("commit-tree", tree, "-p", baseline, "-m", "an experiment").strip()
    name = f"refs/exps/{baseline[:2]}/{baseline[2:]}/{experiment.name}"
    git.run("update-ref", name, commit)
    subprocess.run(("git", "reset", "--quiet"), check=True)
    path.write_text(text)
    return finished(git.head())[experiment.name]


def asked(sweep, results=None, finish_to=0):
    """Every experiment of ``sweep``; the first ``finish_to`` score as their rate is high."""
    found, results = [], {} if results is None else results
    for number, experiment in enumerate(sweep.ask(git.head(), results)):
        found.append(experiment)
        if number < finish_to:
            results[experiment.name] = finish(experiment, experiment.params.train.lr * 90)
    return found


def test_all_combinations_named_after_what_varies():
    words = ["train.lr=1e-4,0.0005", "train.momentum=0.85,0.9", "train.epochs=1"]
    sweep = plan(words, None, {"track.mode": "offline"})
    assert sweep.name == "sweep-lr-momentum"
    rates = [(lr, momentum, 1) for lr in (0.0001, 0.0005) for momentum in (0.85, 0.9)]
    assert list(sweep.names) == [f"{sweep.name}-lr{lr}-momentum{m}" for lr, m, _ in rates]
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
        found = plan(words.split(), "n", {}).names
        assert list(found) == expected.split()
        for name in found:
            subprocess.run(["git", "check-ref-format", f"refs/exps/ab/cd/{name}"], check=True)


def _faults(words, trials=None):
    with pytest.raises(UserError) as error:
        plan(words, "no/slash", {}, trials)
    first, *faults = str(error.value).split("\n  ")
    assert first == f"this sweep has {len(faults)} fault(s):"
    return faults


def test_every_fault_is_said_at_once():
    words = ["train.lr=interval(0,1)", "train.epoch=1,2", "train.momentum=2,0.9", "train.lr"]
    words += ["train.seed=range(0)", "split.seed=1", "split.seed=2", "data.source=a,phantom"]
    grid = _faults([*words, "augment.p=uniform(0,1)"])
    search = _faults(
        ["train.lr=log(0,1)", "train.momentum=uniform(0.5,2)", "train.epochs=uniform(1,x)"], 3
    )
    for found, expected in (
        (grid, "train.lr=interval(0,1): "),
        (grid, "train.epoch: no such key; did you mean train.epochs?"),
        (grid, "train.momentum = 2"),
        (grid, "train.lr: "),
        (grid, "train.seed=range(0): no values"),
        (grid, "split.seed: given twice"),
        (grid, "--name no/slash: "),
        (grid, "data/a not found"),
        (grid, "augment.p: uniform(A,B) needs --trials"),
        (search, "train.lr: "),
        (search, "train.momentum = 2"),
        (search, "train.epochs=uniform(1,x): "),
    ):
        assert sum(fault.startswith(expected) for fault in found) == 1, expected
    assert len(grid) == 9
    for words, trials, message in (
        (["train.warmup=1,12", "train.epochs=5,20"], None, r"train\.warmup = 12"),
        ([], None, "nothing to run"),
        (["train.lr=0.1"], 3, "nothing to search"),
    ):
        with pytest.raises(UserError, match=message):
            plan(words, None, {}, trials)


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
    assert [one.settings for one in asked(search("train.epochs=3"))] == [
        one.settings for one in found
    ]
    assert asked(search(seed=1))[0].settings != asked(search())[0].settings


def test_scores_lead_and_a_search_that_was_ended_goes_on_as_it_would_have():
    whole = asked(search(total=16), finish_to=16)
    late = [experiment.params.train.lr for experiment in whole[12:]]
    assert statistics.median(late) > 2e-3  # high rates scored high; the ranges' middle is 1e-3
    baseline = git.head()
    before = finished(baseline)
    known = [search(total=16).choose(one.name, before[one.name].settings, {}) for one in whole]
    assert all(before[one.name].is_of(one.params) for one in known)
    for experiment in whole[13:]:
        git.run("update-ref", "-d", f"refs/exps/{baseline[:2]}/{baseline[2:]}/{experiment.name}")
        del before[experiment.name]
    results, again = {}, []
    for experiment in search(total=16).ask(baseline, results):
        again.append(experiment)
        run = before.get(experiment.name) or finish(experiment, experiment.params.train.lr * 90)
        results[experiment.name] = run
    assert [one.settings for one in again] == [one.settings for one in whole]


def test_one_that_was_begun_keeps_its_values_and_one_that_failed_stops_nothing():
    baseline = git.head()
    folder = Path(".dvc/tmp/sweep")
    folder.mkdir(parents=True)
    settings = {"train.lr": 0.005, "train.batch_size": 9, "model.name": "lenet"}
    settings["split.fractions"] = [0.6, 0.2, 0.2]
    record = {"baseline": baseline, "settings": settings, "folder": ""}
    (folder / "s-t001.json").write_text(json.dumps(record))
    (folder / "s-t002.json").write_text(json.dumps({**record, "baseline": "another"}))
    first, second, *_ = asked(search())
    assert {key: first.settings[key] for key in settings} == settings
    assert second.settings["train.lr"] != 0.005
    results = {}
    for experiment in search(total=3).ask(baseline, results):
        results[experiment.name] = None
    assert len(results) == 3
