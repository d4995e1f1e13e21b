"""What Optuna is asked and told: repeatable, and taken up again where it was left."""

import json
import shutil
import statistics
import subprocess
from pathlib import Path

import pytest

from alzmri import git
from alzmri.errors import UserError
from alzmri.experiments import runs
from alzmri.experiments.sweeps import search

ROOT = Path(__file__).parents[3]
WORDS = ("train.lr=log(1e-4,1e-2)", "train.batch_size=uniform(8,64)", "model.name=alexnet,lenet")


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


def plan(*more, total=12, seed=0):
    return search([*WORDS, *more], "s", {"compute.train_on": "here"}, total, seed)


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
    return runs.finished(git.head())[experiment.name]


def asked(plan, results=None, finish_to=0):
    """Every experiment of ``plan``; the first ``finish_to`` score the more, the higher the rate."""
    found, results = [], {} if results is None else results
    for number, experiment in enumerate(plan.ask(git.head(), results)):
        found.append(experiment)
        if number < finish_to:
            results[experiment.name] = finish(experiment, experiment.params.train.lr * 90)
    return found


def test_values_are_within_their_ranges_and_named_by_number():
    found = asked(plan("train.epochs=3"))
    assert [experiment.name for experiment in found[:2]] == ["s-t001", "s-t002"]
    assert len(found) == 12
    used = [experiment.params for experiment in found]
    assert all(1e-4 <= one.train.lr <= 1e-2 for one in used)
    assert min(one.train.lr for one in used) < 1e-3 < max(one.train.lr for one in used)
    assert all(8 <= one.train.batch_size <= 64 for one in used)
    assert {one.model.name for one in used} == {"alexnet", "lenet"}
    assert {one.train.epochs for one in used} == {3}
    assert len({one.train.lr for one in used}) == 12
    assert [one.settings for one in asked(plan("train.epochs=3"))] == [
        one.settings for one in found
    ]
    assert asked(plan(seed=1))[0].settings != asked(plan())[0].settings


def test_scores_lead_and_a_search_that_was_ended_goes_on_as_it_would_have():
    whole = asked(plan(total=16), finish_to=16)
    late = [experiment.params.train.lr for experiment in whole[12:]]
    assert statistics.median(late) > 2e-3  # high rates scored high; the ranges' middle is 1e-3
    names = [experiment.name for experiment in whole]
    before = runs.finished(git.head())
    known = plan(total=16).known(before)
    assert [one.name for one in known] == names
    assert all(before[one.name].is_of(one.params) for one in known)
    for experiment in whole[13:]:
        baseline = git.head()
        git.run("update-ref", "-d", f"refs/exps/{baseline[:2]}/{baseline[2:]}/{experiment.name}")
    results = {}
    done = runs.finished(git.head())
    again = []
    for experiment in plan(total=16).ask(git.head(), results):
        again.append(experiment)
        results[experiment.name] = done.get(experiment.name) or finish(
            experiment, experiment.params.train.lr * 90
        )
    assert [one.settings for one in again] == [one.settings for one in whole]


def test_one_that_was_begun_keeps_its_values():
    baseline = git.head()
    folder = Path(".dvc/tmp/sweep")
    folder.mkdir(parents=True)
    settings = {"train.lr": 0.005, "train.batch_size": 9, "model.name": "lenet"}
    record = {"baseline": baseline, "settings": settings}
    (folder / "s-t001.json").write_text(json.dumps(record))
    (folder / "s-t002.json").write_text(json.dumps({**record, "baseline": "another"}))
    first, second, *_ = asked(plan())
    assert {key: first.settings[key] for key in settings} == settings
    assert second.settings["train.lr"] != 0.005


def test_what_failed_is_told_and_the_search_goes_on():
    results = {}
    found = []
    for experiment in plan(total=3).ask(git.head(), results):
        found.append(experiment)
        results[experiment.name] = None
    assert len(found) == 3


def test_every_fault_is_said_at_once():
    with pytest.raises(UserError) as error:
        search(
            [
                "train.lr=log(0,1)",
                "train.momentum=uniform(0.5,2)",
                "train.epochs=uniform(1,x)",
                "split.fractions=[0.7,0.15,0.15],[0.6,0.2,0.2]",
                "train.epoch=1",
            ],
            "no/slash",
            {},
            3,
            0,
        )
    message = str(error.value)
    for fault in (
        "train.lr=log(0,1): ",
        "train.momentum = 2",
        "train.epochs=uniform(1,x): ",
        "split.fractions: Optuna chooses between",
        "train.epoch: no such key; did you mean train.epochs?",
        "--name no/slash: ",
    ):
        assert fault in message
    with pytest.raises(UserError, match="nothing to search"):
        search(["train.lr=0.1"], None, {}, 3, 0)
