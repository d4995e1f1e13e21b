"""What a run leaves behind can be read back, and says where it comes from."""

import csv
import json
import re

import pytest
import torch

from alzmri.models import saved
from alzmri.models.saved import subject_digest
from alzmri.training import results
from alzmri.training.checkpoints import Checkpoints
from alzmri.training.loop import Epoch, Run, train


@pytest.fixture
def written(prepared, make_params, tmp_path, monkeypatch):
    """A function that trains two epochs and writes the results into an empty folder."""

    def run(**settings):
        params = make_params(
            train={"epochs": 2, "batch_size": 16, **settings},
            model={"name": "lenet"},
            data={"image_size": 32},
        )
        monkeypatch.chdir(tmp_path)
        store = Checkpoints(str(tmp_path / "checkpoints"), "test")
        with results.reporting(params.train, prepared) as (on_step, on_epoch):
            done = train(prepared, params, torch.device("cpu"), store, on_step, on_epoch)
        results.write(done, prepared, params, "0123456789abcdef")
        store.clear()
        return done, tmp_path

    return run


def test_the_best_weights_come_back(written):
    run, folder = written()
    model, card = saved.load(folder / "models")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, run.best_weights[name])
    assert card.classes[0] == "Non Demented"
    assert subject_digest("0-0") in card.training_subjects
    assert card.parameters["train"]["epochs"] == 2
    assert {"phantom", "evaluate", "track"}.isdisjoint(card.parameters)
    assert card.run == "0123456789abcdef"
    assert card.temperature == run.temperature != 1


def test_history_and_metrics_tell_the_same_story(written):
    run, folder = written()
    with (folder / "plots/history.csv").open() as handle:
        history = list(csv.DictReader(handle))
    metrics = json.loads((folder / "metrics/train.json").read_text())
    assert list(metrics) == ["best_epoch", "val_loss", "val_accuracy", "val_macro_f1"]
    assert all(value == round(value, 6) for value in metrics.values())
    training = saved.load(folder / "models")[1].training
    assert len(history) == training["epochs"] == 2
    assert training["best_epoch"] == metrics["best_epoch"]
    assert (training["device"], training["precision"]) == ("cpu", "fp32")
    best = history[metrics["best_epoch"] - 1]
    assert float(best["val_loss"]) == pytest.approx(metrics["val_loss"], rel=1e-5)
    assert float(best["lr"]) == 1e-4
    assert training["weights"] == sum(p.numel() for p in run.model.parameters())


def test_the_card_and_the_scores_are_of_the_run_and_of_its_best_epoch(
    prepared, make_params, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    params = make_params(model={"name": "lenet"}, data={"image_size": 32, "fit": "stretch"})
    run = Run.start(prepared, params, torch.device("cpu"))
    best, worse = Epoch(1, 0.1, 1.0, 0.5, 0.9, 0.8), Epoch(2, 0.1, 0.9, 0.7, 0.6, 0.5)
    run.history, run.best, run.best_weights = [best, worse], best, run.model.state_dict()
    results.write(run, prepared, params, "name")
    _, card = saved.load(tmp_path / "models")
    assert (card.training["best_epoch"], card.training["epochs"]) == (1, 2)
    assert card.preprocessing["fit"] == "stretch"
    assert card.architecture["dropout"] == params.model.dropout
    assert len(card.training_subjects) == 16


def test_a_run_out_of_patience_says_how_many_epochs_it_had(written):
    run, folder = written(epochs=9, lr=1e-9, patience=1)
    training = saved.load(folder / "models")[1].training
    assert training["epochs"] == len(run.history) == training["best_epoch"] + 1 < 9


def test_the_last_state_is_kept_on_request_and_loads_without_pickle(written):
    _, folder = written()
    assert torch.load(folder / "models/last.pt", weights_only=True) == {}
    run, folder = written(keep_last=True, ema=0.9)
    state = torch.load(folder / "models/last.pt", weights_only=True)
    assert state["epoch"] == 2
    for name, tensor in run.model.state_dict().items():
        assert torch.equal(tensor, state["model"][name])
    assert state["optimizer"]["state"]


def test_the_same_run_writes_the_same_bytes(written):
    contents = []
    for _ in range(2):
        _, folder = written(keep_last=True)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        contents.append([path.read_bytes() for path in files])
    assert contents[0] == contents[1]


def test_each_epoch_is_one_line_in_a_log(written, capsys):
    written()
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert len(lines) == 2
    assert re.fullmatch(
        r"epoch 1/2  lr 0\.0001  train loss [\d.]+  val loss [\d.]+  accuracy [\d.]+"
        r"  macro F1 [\d.]+  \d+ images/s(  00:\d\d left)?  best",
        lines[0],
    )
    assert " left" not in lines[1]
    assert shown.err == ""


def test_each_epoch_can_be_seen_at_once_and_a_resumed_run_shows_those_before(
    prepared, make_params, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    params = make_params(
        train={"epochs": 3, "batch_size": 16}, model={"name": "lenet"}, data={"image_size": 32}
    )
    seen = []

    def run(end):
        with results.reporting(params.train, prepared) as (_, on_epoch):

            def watch(run, new):
                on_epoch(run, new)
                with results.HISTORY.open() as handle:
                    history = [int(line["epoch"]) for line in csv.DictReader(handle)]
                best = json.loads(results.SCORES.read_text())["best_epoch"]
                seen.append((new, history, best == run.best.epoch))
                if end == len(seen):
                    store.wait()
                    raise KeyboardInterrupt

            store = Checkpoints(str(tmp_path / "checkpoints"), "test")
            return train(prepared, params, torch.device("cpu"), store, lambda *_: None, watch)

    with pytest.raises(KeyboardInterrupt):
        run(end=2)
    for path in (results.HISTORY, results.SCORES):
        path.unlink()  # as DVC does before it runs the stage again
    run(end=0)
    new, histories, right = zip(*seen, strict=True)
    assert all(right)
    resumed = new.index(False)
    assert resumed == 2
    assert histories[:2] == ([1], [1, 2])
    assert histories[resumed] == [1]  # the last checkpoint is of its end
    assert histories[-1] == [1, 2, 3]
    assert f"resuming in epoch {len(histories[resumed]) + 1}" in capsys.readouterr().out


def test_a_run_that_resumes_behind_an_epochs_last_step_has_no_pace_yet(
    prepared, make_params, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    params = make_params(train={"batch_size": 16}, model={"name": "lenet"})
    run = Run.start(prepared, params, torch.device("cpu"))
    run.steps = len(prepared.indices("train")) // 16
    with results.reporting(params.train, prepared) as (_, on_epoch):
        on_epoch(run, False)
        run.best = Epoch(1, 0.1, 1.0, 0.5, 0.9, 0.8)
        run.history, run.epoch, run.steps = [run.best], 2, 0
        on_epoch(run, True)
    assert "images/s" not in capsys.readouterr().out
