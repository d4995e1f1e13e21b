"""A training that is watched while it runs: DVC's own commands show the epochs that are done."""

import csv
import json

import psutil
import pytest

from .. import forks

EPOCHS = 3000


@pytest.fixture
def training(clone):
    """A long `dvc exp run`, ended with all its children."""
    words = ("dvc", "exp", "run", "-S", f"train.epochs={EPOCHS}", "-S", "train.seed=7")
    process = clone.start(*words, forked=True)
    yield process
    process.kill()
    process.communicate()


def test_dvc_shows_the_epochs_of_a_running_training(clone, training, eventually):
    history, scores = clone.root / "plots/history.csv", clone.root / "metrics/train.json"
    clone.read_until(training, "Running stage 'train'")
    # DVC has removed both by then; what is there is of this training.
    clone.read_until(training, "epoch    2/")
    (trainer,) = forks.find(clone.root, "train.py")
    trainer.suspend()
    eventually(lambda: trainer.status() == psutil.STATUS_STOPPED)

    with history.open(newline="") as file:
        epochs = [int(line["epoch"]) for line in csv.DictReader(file)]
    assert epochs == list(range(1, len(epochs) + 1))
    assert 2 <= len(epochs) < EPOCHS
    best = json.loads(scores.read_text())
    assert set(best) == {"best_epoch", "val_loss", "val_accuracy", "val_macro_f1"}
    assert best["best_epoch"] <= len(epochs)

    (workspace, *_) = clone.json("dvc", "exp", "show", "--json", "--num", "0")
    assert workspace["rev"] == "workspace"
    assert workspace["data"]["metrics"]["metrics/train.json"]["data"] == best
    plots = clone.json("dvc", "plots", "show", "--json", "scores")
    (drawn,) = plots["data"]["scores"]
    assert str(len(epochs)) in {str(point["epoch"]) for point in _points(drawn)}


def _points(drawn):
    content = drawn["content"]
    values = json.loads(content)["data"]["values"] if isinstance(content, str) else content
    return values if isinstance(values, list) else values["data"]["values"]
