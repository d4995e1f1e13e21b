"""Runs made up from predictions, as if read from their commits and DVC's cache."""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alzmri import params
from alzmri.classes import CLASSES
from alzmri.evaluation import assessment
from alzmri.experiments.finished_runs import FinishedRun

SUBJECTS, SLICES = 40, 3
PARAMETERS = params.load(Path(__file__).parents[2] / "params.yaml").model_dump(mode="json")


@dataclass(frozen=True)
class Recorded(FinishedRun):
    """A run whose files are here, by their paths, instead of in a commit."""

    files: Mapping[str, str] = field(default_factory=dict)
    pixels: Any = None

    @property
    def images(self) -> Any:
        return self.pixels

    def read(self, path: str) -> str:
        return self.files[path]


@cache
def _tested(right: float, seed: int, subjects: str, merged: bool) -> tuple[Any, Any, Any]:
    """Classes, the rows of plots/predictions.csv, and the scores."""
    classes = ("Non Demented", "Demented") if merged else CLASSES
    effort = np.random.default_rng(0).random(SUBJECTS)
    effort += 0.05 * np.random.default_rng(seed).random(SUBJECTS)
    stage = np.arange(SUBJECTS) % len(classes)
    answer = np.where(effort < right, stage, (stage + 1) % len(classes))
    probabilities = np.full((SUBJECTS * SLICES, len(classes)), 0.1)
    probabilities[np.arange(len(probabilities)), np.repeat(answer, SLICES)] = 0.7
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    truth = np.repeat(stage, SLICES)
    names = [f"{subjects}{n:02}" for n in range(SUBJECTS) for _ in range(SLICES)]
    rows = [
        (f"{name}_{n % SLICES}.jpg", name, classes[actual], classes[row.argmax()], *row)
        for n, (name, actual, row) in enumerate(zip(names, truth, probabilities, strict=True))
    ]
    counted = np.ones(len(truth), bool)
    return classes, rows, assessment.score(truth, probabilities, names, classes, 0, counted)


@pytest.fixture
def make_run() -> Callable[..., FinishedRun]:
    """``make_run(name, right, train={"lr": 0.1})``: ``right`` of the subjects are predicted right.

    The same subjects are the easy ones in every run, so that runs differ less than subjects do.
    ``subjects`` is how the names of the test subjects begin, ``shared`` how many were in training,
    ``near`` how many test images have a near-duplicate there, ``total`` the subjects of the
    collection, ``code`` the digest of the code of its stage train, ``merged`` whether there are
    two classes only, ``stale`` sets a parameter after the run.
    """

    def make(
        name: str,
        right: float,
        *,
        subjects: str = "P",
        shared: int | None = 0,
        near: int = 0,
        total: int = 120,
        code: str = "c0de",
        epochs: int = 3,
        merged: bool = False,
        ece: float | None = None,
        stale: bool = False,
        **sections: Any,
    ) -> FinishedRun:
        settings = {**PARAMETERS}
        for section, values in sections.items():
            settings[section] = settings[section] | values
        classes, rows, scores = _tested(right, settings["train"]["seed"], subjects, merged)
        scores = scores if ece is None else {**scores, "ece": ece}
        counts = {label: {"images": 30, "subjects": 10} for label in classes}
        prepare = {
            "cmd": "python src/prepare.py",
            "outs": [{"path": "data/prepared", "md5": f"{total}.dir"}],
        }
        lock = {
            "cmd": "python src/train.py",
            "deps": [{"path": "src/alzmri/training", "md5": code}, *prepare["outs"]],
            "params": {
                "params.yaml": {"train": {**settings["train"], **({"lr": 9} if stale else {})}}
            },
        }
        header = ("path", "subject", "actual", "predicted", *classes)
        contents = {
            "params.yaml": settings,
            "dvc.lock": {"stages": {"prepare": prepare, "train": lock}},
            "metrics/train.json": {
                "best_epoch": 2,
                "val_macro_f1": right,
                "val_accuracy": right,
                "val_loss": 1 - right,
            },
            "models/evaluation.json": {
                **scores,
                "split": {"unit": settings["split"]["unit"], "shared_subjects": shared},
            },
            "data/prepared/summary.json": {
                "images": 3 * total,
                "subjects": total,
                "split": {
                    "train": {**counts, "Non Demented": {"images": total, "subjects": total // 3}},
                    "val": counts,
                    "test": counts,
                },
                "leak": {"test_images_with_training_near_duplicate": near},
                "people": {"from": "file", "cut": None, "gap": None},
            },
        }
        history = [(epoch, right * epoch / epochs, 1 - right) for epoch in range(1, epochs + 1)]
        files = {path: json.dumps(content) for path, content in contents.items()}
        # In the order of the paths in no run, and in another one for each: a report sorts them.
        first = 1 + len(name)
        files["plots/predictions.csv"] = _csv(header, [*rows[first:], *rows[:first]])
        files["plots/history.csv"] = _csv(("epoch", "val_macro_f1", "val_loss"), history)
        return Recorded(name, "", files=files)

    return make


def _csv(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows([header, *rows])
    return text.getvalue()
