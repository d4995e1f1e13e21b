"""What a run leaves behind can be read back, and says where it comes from."""

import csv
import json
import re
from types import SimpleNamespace

import pytest
import torch

from alzmri.models import saved
from alzmri.tracking.tracker import Tracker
from alzmri.training import results
from alzmri.training.checkpoints import Checkpoints
from alzmri.training.loop import Epoch, train

CPU = torch.device("cpu")


@pytest.fixture
def written(prepared, make_params, tmp_path, monkeypatch):
    """A function that trains two epochs and writes the results into an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(**settings):
        params = make_params(
            train={"epochs": 2, "batch_size": 16, **settings},
            model={"name": "lenet"},
            data={"image_size": 32, "fit": "stretch"},
        )
        store = Checkpoints(str(tmp_path / "checkpoints"), "test")
        with results.reporting(params.train, prepared, Tracker()) as (on_step, on_epoch):
            state = train(prepared, params, CPU, store, on_step, on_epoch)
        results.write(state, prepared, params, "0123456789abcdef")
        store.clear()
        return state, tmp_path

    return run


def _files(folder):
    return [path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()]


def test_model_card_history_and_scores_tell_the_same_story_in_the_same_bytes(written, capsys):
    state, folder = written()
    shown = capsys.readouterr()
    model, card = saved.load(folder / "models")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state.best_weights[name])
    assert card.classes[0] == "Non Demented"
    assert card.preprocessing["fit"] == "stretch"
    assert len(card.training_subjects) == 16
    assert saved.subject_digest("0-0") in card.training_subjects
    assert card.parameters["train"]["epochs"] == 2
    assert card.architecture["dropout"] == card.parameters["model"]["dropout"]
    assert {"phantom", "evaluate", "track"}.isdisjoint(card.parameters)
    assert card.run == "0123456789abcdef"
    assert card.temperature == state.temperature != 1
    with (folder / "plots/history.csv").open() as handle:
        history = list(csv.DictReader(handle))
    scores = json.loads((folder / "metrics/train.json").read_text())
    assert list(scores) == ["best_epoch", "val_loss", "val_accuracy", "val_macro_f1"]
    assert all(value == round(value, 6) for value in scores.values())
    assert len(history) == card.training["epochs"] == 2
    assert card.training["best_epoch"] == scores["best_epoch"]
    assert (card.training["device"], card.training["precision"]) == ("cpu", "fp32")
    assert card.training["weights"] == sum(p.numel() for p in model.parameters())
    best = history[scores["best_epoch"] - 1]
    assert float(best["val_loss"]) == pytest.approx(scores["val_loss"], rel=1e-5)
    assert float(best["lr"]) == 1e-4
    assert torch.load(folder / "models/last.pt", weights_only=True) == {}
    # Each epoch is one line in a log.
    lines = shown.out.splitlines()
    assert len(lines) == 2
    assert re.fullmatch(
        r"epoch 1/2  lr 0\.0001  train loss [\d.]+  val loss [\d.]+  accuracy [\d.]+"
        r"  macro F1 [\d.]+  \d+ images/s(  00:\d\d left)?  best",
        lines[0],
    )
    assert " left" not in lines[1]
    assert shown.err == ""
    first = _files(folder)
    written()
    assert _files(folder) == first


def test_the_last_state_is_kept_on_request_and_the_scores_are_of_the_best_epoch(written):
    """Out of patience the best epoch is not the last."""
    state, folder = written(keep_last=True, ema=0.9, epochs=9, lr=1e-9, patience=1)
    last = torch.load(folder / "models/last.pt", weights_only=True)
    training = saved.load(folder / "models")[1].training
    assert last["epoch"] == training["epochs"] == len(state.history) < 9
    assert training["best_epoch"] == last["epoch"] - 1
    for name, tensor in state.model.state_dict().items():
        assert torch.equal(tensor, last["model"][name])
    assert last["optimizer"]["state"]


def test_each_epoch_can_be_seen_at_once_and_a_resumed_run_shows_those_before(
    prepared, make_params, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    params = make_params(
        train={"epochs": 3, "batch_size": 16}, model={"name": "lenet"}, data={"image_size": 32}
    )
    seen = []

    def run(end):
        with results.reporting(params.train, prepared, Tracker()) as (on_step, on_epoch):

            def watch(state, new):
                on_epoch(state, new)
                with results.HISTORY.open() as handle:
                    history = [int(line["epoch"]) for line in csv.DictReader(handle)]
                best = json.loads(results.SCORES.read_text())["best_epoch"]
                seen.append((new, history, best == state.best.epoch))
                if end == len(seen):
                    store.wait()
                    raise KeyboardInterrupt

            store = Checkpoints(str(tmp_path / "checkpoints"), "test")
            return train(prepared, params, CPU, store, on_step, watch)

    with pytest.raises(KeyboardInterrupt):
        run(end=2)
    for path in (results.HISTORY, results.SCORES):
        path.unlink()  # as DVC does before it runs the stage again
    run(end=0)
    new, histories, right = zip(*seen, strict=True)
    assert all(right)
    assert new.index(False) == 2
    assert histories[:2] == ([1], [1, 2])
    assert histories[2] == [1]  # the last checkpoint is of its end
    assert histories[-1] == [1, 2, 3]
    assert "resuming in epoch 2" in capsys.readouterr().out


def test_a_log_says_how_fast_training_is_and_what_is_left(
    prepared, make_params, tmp_path, monkeypatch, capsys
):
    """64 training slices take ten seconds an epoch, for three epochs; the first is half done."""
    monkeypatch.chdir(tmp_path)
    clock = [100.0]
    monkeypatch.setattr(results, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    params = make_params(train={"epochs": 3, "batch_size": 16})
    history = []
    with results.reporting(params.train, prepared, Tracker()) as (_, on_epoch):
        state = SimpleNamespace(best=None, history=history, epoch=1, steps=2)
        on_epoch(state, False)  # resumed after two of four steps
        for epoch in (1, 2, 3):
            clock[0] += 5 if epoch == 1 else 10
            history.append(Epoch(epoch, 0.1, 1.0, 1.0, 0.5, 0.5))
            state.best, state.epoch, state.steps = history[0], epoch + 1, 0
            on_epoch(state, True)
    lines = capsys.readouterr().out.splitlines()
    said = [re.search(r"macro F1 \S+ +(.*?)(?:  best)?$", line)[1] for line in lines]
    assert said == ["6 images/s  00:20 left", "6 images/s  00:10 left", "6 images/s"]
