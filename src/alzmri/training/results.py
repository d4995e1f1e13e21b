"""The outputs of a training run, and its progress."""

import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from alzmri.models.forward import MEAN, STD, bfloat16
from alzmri.params import Params, Train
from alzmri.tracking.tracker import Tracker
from alzmri.training.loop import Epoch, TrainingState

HISTORY = Path("plots/history.csv")
SCORES = Path("metrics/train.json")


@contextmanager
def reporting(
    train: Train, prepared: Prepared, tracked: Tracker
) -> Iterator[tuple[terminal.Update, Callable[[TrainingState, bool], None]]]:
    """Yield the callbacks of ``loop.train`` for a step and for an epoch.

    After each epoch, and when a run resumes, they write ``plots/history.csv`` and
    ``metrics/train.json``, which DVC shows. Images per second include validation.
    """
    slices = len(prepared.indices("train"))
    steps = -(-slices // train.batch_size)
    last, before = time.monotonic(), 0.0  # a time, and the epochs done by then

    def on_epoch(state: TrainingState, new: bool) -> None:
        nonlocal last, before
        if best := state.best:
            rows = ([f"{value:.6g}" for value in epoch] for epoch in state.history)
            write_csv(HISTORY, Epoch._fields, rows)
            scores = {name: x for name, x in best._asdict().items() if name.startswith("val_")}
            write_json(SCORES, {"best_epoch": best.epoch, **scores}, decimals=6)
        for epoch in state.history[-1:] if new else state.history:
            tracked.epoch(epoch._asdict())
        now, done = time.monotonic(), state.epoch - 1 + state.steps / steps
        if new:
            epoch, pace = state.history[-1], ""
            if done > before:  # not for a run that resumed after an epoch's last step
                left = round((now - last) / (done - before) * (train.epochs - done))
                pace = f"  {(done - before) * slices / (now - last):.0f} images/s"
                pace += f"  {str(timedelta(seconds=left)).removeprefix('0:')} left" if left else ""
            terminal.say(
                f"epoch {epoch.epoch:>{len(str(train.epochs))}}/{train.epochs}  lr {epoch.lr:.2g}"
                f"  train loss {epoch.train_loss:.4f}  val loss {epoch.val_loss:.4f}"
                f"  accuracy {epoch.val_accuracy:.3f}  macro F1 {epoch.val_macro_f1:.3f}{pace}"
                + ("  best" if epoch == best else "")
            )
        last, before = now, done

    with terminal.progress("training") as on_step:
        yield on_step, on_epoch


def write(state: TrainingState, prepared: Prepared, params: Params, run: str) -> None:
    """Write ``models/`` of a finished training; ``run`` is its fingerprint."""
    saved.save(saved.MODELS, state.best_weights, card(state, prepared, params, run))
    last: dict[str, Any] = {}  # always written: DVC has no optional outputs
    if params.train.keep_last:
        last = {"model": state.model.state_dict(), "optimizer": state.optimizer.state_dict()}
        last["epoch"] = state.history[-1].epoch
    buffer = io.BytesIO()
    torch.save(last, buffer)
    write_bytes(saved.MODELS / "last.pt", buffer.getvalue())


def card(state: TrainingState, prepared: Prepared, params: Params, run: str) -> saved.Card:
    """``model.json`` of a training, with the subjects of the model that it started from, too."""
    subjects, initial = set(map(saved.subject_digest, prepared.subjects("train"))), state.initial
    if initial:
        subjects |= set(initial.card.training_subjects)
    init = {"name": params.train.init, "weights": initial.digest} if initial else None
    device = state.loss.device
    return saved.Card(
        architecture=state.architecture,
        classes=list(prepared.classes),
        preprocessing={"fit": params.data.fit, "channels": 1, "mean": MEAN, "std": STD},
        parameters=params.model_dump(include={"data", "split", "augment", "model", "train"}),
        training_subjects=sorted(subjects),
        data_sha256=prepared.digest,
        temperature=state.temperature,
        training={
            "epochs": len(state.history),
            "best_epoch": state.best.epoch if state.best else None,
            "weights": sum(p.numel() for p in state.model.parameters()),
            "init": init,
            "device": device.type,
            "precision": "bf16" if bfloat16(params.train.precision, device) else "fp32",
        },
        # Neither Python nor the build of torch (+cpu, +cu130) changes the weights.
        versions={
            "alzmri": alzmri.__version__,
            "torch": torch.__version__.partition("+")[0],
            "numpy": np.__version__,
        },
        run=run,
    )
