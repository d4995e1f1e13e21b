"""The metrics that rank experiments, and the predictions of each."""

import csv
import difflib
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alzmri.errors import UserError

METRICS: Mapping[str, str] = {
    "macro_f1": "macro F1",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_auc": "macro AUC",
    "loss": "loss",
    "ece": "calibration error",
    "brier": "Brier score",
    "subject.macro_f1": "subject-level macro F1",
    "subject.accuracy": "subject-level accuracy",
    "val_macro_f1": "validation macro F1",
    "val_accuracy": "validation accuracy",
    "val_loss": "validation loss",
}
"""Keys of models/evaluation.json and, with ``val_``, of metrics/train.json; what tables say."""

LESS_IS_BETTER = {"loss", "ece", "brier", "val_loss"}

_COLUMNS = ("path", "subject", "actual", "predicted", "ood")
"""Columns of plots/predictions.csv; each further column is a class, in severity order.

Runs of earlier versions have no column ``ood``."""


def check_metric(key: str) -> None:
    """Raise UserError when ``key`` is not one of ``METRICS``."""
    if key not in METRICS:
        near = difflib.get_close_matches(key, METRICS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"--metric {key}: allowed are {', '.join(METRICS)}{hint}")


def number(value: float) -> float | None:
    """``value`` for JSON, which has no NaN."""
    return None if math.isnan(value) else value


@dataclass(frozen=True)
class SlicePredictions:
    """The predictions of one or several experiments for the slices of the test part.

    Attributes:
        truth: class indices, int64 ``[n]``.
        probabilities: float64 ``[n, classes]``, rows summing to 1.
        subjects: the subject of each slice.
        classes: names in severity order.
        paths: of the slices, in the collection.
        counted: bool ``[n]``, false where `alzmri predict` leaves the slice out as OOD.
    """

    truth: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    subjects: tuple[str, ...]
    classes: tuple[str, ...]
    paths: tuple[str, ...]
    counted: NDArray[np.bool_]

    @classmethod
    def of(cls, *tables: str) -> "SlicePredictions":
        """The rows of one or several ``plots/predictions.csv``, in the order of the paths."""
        found = (row for table in tables for row in csv.DictReader(io.StringIO(table)))
        rows = sorted(found, key=lambda row: row["path"])
        # Not data.merge: a commit with an older params.yaml can be read too.
        classes = tuple(name for name in rows[0] if name not in _COLUMNS)
        probabilities = np.array([[float(row[name]) for name in classes] for row in rows])
        return cls(
            truth=np.array([classes.index(row["actual"]) for row in rows], dtype=np.int64),
            # Six digits in the file: the sum is 1 to within rounding only.
            probabilities=probabilities / probabilities.sum(axis=1, keepdims=True),
            subjects=tuple(row["subject"] for row in rows),
            classes=classes,
            paths=tuple(row["path"] for row in rows),
            counted=np.array([row.get("ood") != "1" for row in rows]),
        )

    @property
    def predicted(self) -> NDArray[np.int64]:
        """The most probable class of each slice."""
        most_probable: NDArray[np.int64] = self.probabilities.argmax(axis=1)
        return most_probable
