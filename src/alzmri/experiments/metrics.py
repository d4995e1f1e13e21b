"""The scores that experiments are ranked by."""

import difflib
import math
from collections.abc import Mapping

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


def check_metric(key: str) -> None:
    """Raise UserError when ``key`` is not one of ``METRICS``."""
    if key not in METRICS:
        near = difflib.get_close_matches(key, METRICS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"--metric {key}: allowed are {', '.join(METRICS)}{hint}")


def number(value: float) -> float | None:
    """``value`` for JSON, which has no NaN."""
    return None if math.isnan(value) else value
