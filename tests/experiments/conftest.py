"""Runs made up from predictions, as if read from their commits."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from alzmri.classes import CLASSES
from alzmri.evaluation import report
from alzmri.experiments.crossvalidation import Predictions
from alzmri.experiments.lock import Lock
from alzmri.experiments.reports.groups import Run

PEOPLE, SLICES = 40, 3


@pytest.fixture
def make_run(make_params) -> Callable[..., Run]:
    """``make_run(name, right, train={"lr": 0.1})``: ``right`` of the people are classified right.

    The same people are the easy ones in every run, so that runs differ less than people do.
    ``people`` is how the names of the test people begin, ``shared`` how many were in training.
    """

    def make(
        name: str, right: float, *, people: str = "P", shared: int = 0, **sections: Any
    ) -> Run:
        settings = make_params(**sections).model_dump()
        seed = settings["train"]["seed"]
        effort = np.random.default_rng(0).random(PEOPLE)
        effort += 0.05 * np.random.default_rng(seed).random(PEOPLE)
        stage = np.arange(PEOPLE) % len(CLASSES)
        told = np.where(effort < right, stage, (stage + 1) % len(CLASSES))
        probabilities = np.full((PEOPLE * SLICES, len(CLASSES)), 0.1)
        probabilities[np.arange(len(probabilities)), np.repeat(told, SLICES)] = 0.7
        predictions = Predictions(
            truth=np.repeat(stage, SLICES),
            probabilities=probabilities,
            subjects=tuple(f"{people}{n:02}" for n in range(PEOPLE) for _ in range(SLICES)),
            classes=CLASSES,
            paths=tuple(f"{people}{n:02}_{k}.jpg" for n in range(PEOPLE) for k in range(SLICES)),
        )
        scores = report.score(
            predictions.truth, predictions.probabilities, predictions.subjects, CLASSES, 0
        )
        unit = settings["split"]["unit"]
        counts = {label: {"images": 30, "subjects": 10} for label in CLASSES}
        return Run(
            name=name,
            settings={f"{s}.{key}": v for s, keys in settings.items() for key, v in keys.items()},
            prepare={
                "images": 360,
                "subjects": 120,
                "split": dict.fromkeys(("train", "val", "test"), counts),
                "leak": {"test_images_with_training_twin": shared},
            },
            train={
                "best_epoch": 2,
                "epochs": 3,
                "val_macro_f1": right,
                "val_accuracy": right,
                "val_loss": 1 - right,
            },
            test={**scores, "split": {"unit": unit, "shared_subjects": shared}},
            history=[
                {"epoch": str(n), "val_macro_f1": str(right * n / 3), "val_loss": str(1 - right)}
                for n in (1, 2, 3)
            ],
            predictions=predictions,
            lock=Lock({"train": {"cmd": "python src/train.py", "deps": []}}),
            stale=[],
        )

    return make
