"""What a training run leaves behind, and what it says on the way."""

import io
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, astuple, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

import alzmri
from alzmri import terminal
from alzmri.data.prepared import Prepared
from alzmri.files import write_bytes, write_csv, write_json
from alzmri.models import saved
from alzmri.models.forward import MEAN, STD
from alzmri.params import Params
from alzmri.tracking import Follower
from alzmri.training.loop import Epoch, Run

OnEpoch = Callable[[Epoch, bool], None]


@contextmanager
def reporting(
    epochs: int, tracked: Follower | None = None
) -> Iterator[tuple[terminal.Update, OnEpoch]]:
    """Yield the two callbacks of ``loop.train``: a live bar of steps, one line per epoch."""
    with terminal.progress("training", in_log=False) as on_step:

        def on_epoch(epoch: Epoch, improved: bool) -> None:
            terminal.say(
                f"epoch {epoch.epoch:>{len(str(epochs))}}/{epochs}  lr {epoch.lr:.2g}"
                f"  train loss {epoch.train_loss:.4f}  val loss {epoch.val_loss:.4f}"
                f"  accuracy {epoch.val_accuracy:.4f}  macro F1 {epoch.val_macro_f1:.4f}"
                + ("  best" if improved else "")
            )
            if tracked:
                tracked.epoch(asdict(epoch))

        yield on_step, on_epoch


def write(run: Run, prepared: Prepared, params: Params, name: str) -> None:
    """Write ``models/``, ``plots/history.csv`` and ``metrics/train.json`` of a finished run.

    Args:
        run: that is finished.
        prepared: what it was trained on.
        params: what it was trained with.
        name: its fingerprint.
    """
    write_history(Path("plots/history.csv"), run.history)
    saved.save(saved.MODELS, run.best_weights, card(run, prepared, params, name))
    state: dict[str, Any] = {}  # written all the same: DVC has no optional outputs
    if run.last:
        state = {name: run.last[name] for name in ("model", "optimizer")}
        state["epoch"] = run.history[-1].epoch
    last = io.BytesIO()
    torch.save(state, last)
    write_bytes(saved.MODELS / "last.pt", last.getvalue())
    best = run.best
    assert best is not None
    write_json(
        Path("metrics/train.json"),
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


def card(run: Run, prepared: Prepared, params: Params, name: str) -> saved.Card:
    """What ``model.json`` says of a run."""
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
        training_subjects=sorted(map(saved.subject_digest, prepared.subjects("train"))),
        data_sha256=prepared.digest,
        temperature=run.temperature,
        training={
            "epochs": len(run.history),
            "best_epoch": run.best.epoch if run.best else None,
            "weights": sum(p.numel() for p in run.model.parameters()),
        },
        versions={
            "alzmri": alzmri.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        run=name,
    )
