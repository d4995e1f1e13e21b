"""What a training run leaves behind, and what it says on the way."""

import io
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, astuple, fields
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch

import alzmri
from alzmri import terminal
from alzmri.data.prepared import Prepared
from alzmri.files import write_bytes, write_csv, write_json
from alzmri.models import saved
from alzmri.models.device import bfloat16
from alzmri.models.forward import MEAN, STD
from alzmri.params import Params, Train
from alzmri.tracking.tracker import Tracker
from alzmri.training.initial import Initial
from alzmri.training.loop import Epoch, Run

HISTORY = Path("plots/history.csv")
SCORES = Path("metrics/train.json")

OnEpoch = Callable[[Run, bool], None]


@contextmanager
def reporting(
    train: Train, prepared: Prepared, tracked: Tracker | None = None
) -> Iterator[tuple[terminal.Update, OnEpoch]]:
    """Yield the two callbacks of ``loop.train``: a live bar of steps, and what follows an epoch.

    After each epoch, and when a run resumes, ``plots/history.csv`` and ``metrics/train.json`` are
    written with all epochs so far: ``dvc plots show`` and ``dvc exp show`` follow a training. The
    line of an epoch has the training slices per second, validation included, and the time left.
    """
    slices = len(prepared.indices("train"))
    steps = -(-slices // train.batch_size)
    began = last = time.monotonic()
    first = before = 0.0  # how many epochs were done then

    def on_epoch(run: Run, new: bool) -> None:
        nonlocal began, first, last, before
        if run.history:
            write_history(HISTORY, run.history)
            write_scores(SCORES, run)
        now, done = time.monotonic(), run.epoch - 1 + run.steps / steps
        if not new:
            began, first = now, done
        else:
            epoch = run.history[-1]
            pace = ""
            if done > first:  # a run that resumes after an epoch's last step has no pace yet
                left = round((now - began) / (done - first) * (train.epochs - done))
                pace = f"  {(done - before) * slices / (now - last):.0f} images/s"
                pace += f"  {str(timedelta(seconds=left)).removeprefix('0:')} left" if left else ""
            terminal.say(
                f"epoch {epoch.epoch:>{len(str(train.epochs))}}/{train.epochs}  lr {epoch.lr:.2g}"
                f"  train loss {epoch.train_loss:.4f}  val loss {epoch.val_loss:.4f}"
                f"  accuracy {epoch.val_accuracy:.3f}  macro F1 {epoch.val_macro_f1:.3f}"
                + pace
                + ("  best" if epoch == run.best else "")
            )
        for epoch in run.history[-1:] if new else run.history:
            if tracked:
                tracked.epoch(asdict(epoch))
        last, before = now, done

    with terminal.progress("training", in_log=False) as on_step:
        yield on_step, on_epoch


def write(
    run: Run, prepared: Prepared, params: Params, name: str, initial: Initial | None = None
) -> None:
    """Write ``models/`` of a finished run.

    Args:
        run: that is finished.
        prepared: what it was trained on.
        params: what it was trained with.
        name: its fingerprint.
        initial: the model that it started from.
    """
    saved.save(saved.MODELS, run.best_weights, card(run, prepared, params, name, initial))
    state: dict[str, Any] = {}  # written all the same: DVC has no optional outputs
    if params.train.keep_last:
        state = {"model": run.model.state_dict(), "optimizer": run.optimizer.state_dict()}
        state["epoch"] = run.history[-1].epoch
    last = io.BytesIO()
    torch.save(state, last)
    write_bytes(saved.MODELS / "last.pt", last.getvalue())


def write_scores(path: Path, run: Run) -> None:
    """The scores of the best epoch so far, rounded to six decimals."""
    best = run.best
    assert best is not None
    write_json(
        path,
        {
            "best_epoch": best.epoch,
            "val_loss": best.val_loss,
            "val_accuracy": best.val_accuracy,
            "val_macro_f1": best.val_macro_f1,
        },
        decimals=6,
    )


def write_history(path: Path, history: list[Epoch]) -> None:
    """One line per epoch, six significant digits."""
    lines = ([f"{value:.6g}" for value in astuple(epoch)] for epoch in history)
    write_csv(path, [field.name for field in fields(Epoch)], lines)


def card(
    run: Run, prepared: Prepared, params: Params, name: str, initial: Initial | None = None
) -> saved.Card:
    """What ``model.json`` says of a run; its training subjects are also those of ``initial``."""
    subjects = set(map(saved.subject_digest, prepared.subjects("train")))
    if initial:
        subjects |= set(initial.card.training_subjects)
    return saved.Card(
        architecture={
            "name": params.model.name,
            "classes": len(prepared.classes),
            "image_size": prepared.images.shape[1],
            "dropout": params.model.dropout,
        },
        classes=list(prepared.classes),
        preprocessing={"fit": params.data.fit, "channels": 1, "mean": MEAN, "std": STD},
        parameters=params.model_dump(include={"data", "split", "augment", "model", "train"}),
        training_subjects=sorted(subjects),
        data_sha256=prepared.digest,
        temperature=run.temperature,
        training={
            "epochs": len(run.history),
            "best_epoch": run.best.epoch if run.best else None,
            "weights": sum(p.numel() for p in run.model.parameters()),
            "init": {"name": initial.name, "weights": initial.digest} if initial else None,
            "device": run.loss.device.type,
            "precision": "bf16" if bfloat16(params.train.precision, run.loss.device) else "fp32",
        },
        versions={
            "alzmri": alzmri.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        run=name,
    )
