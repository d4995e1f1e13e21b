"""Everything that is said about a test set: metrics, tables, figures, one line."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from alzmri.data.prepared import Prepared, Row, numbered
from alzmri.evaluation import figures
from alzmri.evaluation.intervals import bootstrap
from alzmri.evaluation.metrics import (
    Floats,
    Ints,
    by_distance,
    by_subject,
    confidence_scores,
    scores,
)
from alzmri.files import write_csv
from alzmri.models.device import choose
from alzmri.models.forward import predict, probabilities
from alzmri.models.scores import macro_f1
from alzmri.params import Evaluate, Params, Split


@dataclass(frozen=True)
class Predictions:
    """The test part and what the model says of it, row by row.

    Attributes:
        rows: lines of the manifest.
        images: uint8 ``[n, side, side]``.
        truth: class indices, int64 ``[n]``.
        logits: float64 ``[n, classes]``.
        temperature: fitted on validation, see :mod:`alzmri.training.calibration`.
        calibrated: whether the probabilities are those at this temperature.
        classes: names in severity order.
    """

    rows: tuple[Row, ...]
    images: np.ndarray[Any, np.dtype[np.uint8]]
    truth: Ints
    logits: Floats
    temperature: float
    calibrated: bool
    classes: tuple[str, ...]

    @property
    def probabilities(self) -> Floats:
        """float64 ``[n, classes]``, as they are scored."""
        return probabilities(self.logits / (self.temperature if self.calibrated else 1))

    @property
    def predicted(self) -> Ints:
        """The most probable class of each row."""
        most_probable: Ints = self.probabilities.argmax(axis=1)
        return most_probable

    @property
    def subjects(self) -> list[str]:
        """The person of each row."""
        return [row.subject for row in self.rows]


def predict_test(
    model: nn.Module, temperature: float, prepared: Prepared, evaluate: Evaluate
) -> Predictions:
    """Run the model over the test part."""
    device = choose()
    indices = prepared.indices("test")
    return Predictions(
        rows=tuple(prepared.rows[index] for index in indices),
        images=prepared.images[indices],
        truth=prepared.labels[indices],
        logits=predict(model.to(device), prepared.images, indices, device),
        temperature=temperature,
        calibrated=evaluate.temperature,
        classes=prepared.classes,
    )


METRICS = (
    "macro_f1",
    "accuracy",
    "loss",
    "macro_auc",
    "ece",
    "subject_macro_f1",
    "subject_accuracy",
    "shared_subjects",
)
"""What DVC shows of an evaluation, in ``metrics/evaluate.json``: few numbers, on one screen."""


def details(test: Predictions, split: Split, shared: int | None) -> dict[str, Any]:
    """The content of ``models/evaluation.json``: ``METRICS``, and everything else that is known.

    ``shared`` is None where subjects are unknown. Nothing is said of them then, and intervals
    are over slices.
    """
    found = score(test.truth, test.probabilities, test.subjects, test.classes, split.seed)
    if shared is None:
        found["subject"] = {"n": None, "accuracy": None, "macro_f1": None, "ci95": {}}
        for count in found["stages_off"].values():
            count["people"] = None
    return {
        **found,
        "subject_macro_f1": found["subject"]["macro_f1"],
        "subject_accuracy": found["subject"]["accuracy"],
        "shared_subjects": shared,
        "calibration": {
            "temperature": test.temperature,
            "applied": test.calibrated,
            "before": confidence_scores(test.truth, probabilities(test.logits)),
            "after": confidence_scores(test.truth, probabilities(test.logits / test.temperature)),
        },
        "split": {"unit": split.unit, "shared_subjects": shared},
    }


def score(
    truth: Ints, probabilities: Floats, subjects: Sequence[str], classes: Sequence[str], seed: int
) -> dict[str, Any]:
    """All that predictions alone tell, of slices and of people, with intervals over people.

    Arguments are named as in :mod:`alzmri.evaluation.metrics`; ``seed`` is the bootstrap's.
    """
    number = len(classes)
    predicted = probabilities.argmax(axis=1)
    person_truth, person_probabilities, people = by_subject(truth, probabilities, subjects)
    person_predicted = person_probabilities.argmax(axis=1)
    slices_off = by_distance(truth, predicted, number)
    people_off = by_distance(person_truth, person_predicted, number)
    return {
        **scores(truth, probabilities, classes),
        "ci95": bootstrap(truth, predicted, subjects, number, seed),
        "subject": {
            "n": len(people),
            "accuracy": float(np.mean(person_truth == person_predicted)),
            "macro_f1": macro_f1(person_truth, person_predicted),
            "ci95": bootstrap(person_truth, person_predicted, people, number, seed),
        },
        "stages_off": {
            str(off): {"slices": slices_off[off], "people": people_off[off]}
            for off in range(number)
        },
    }


def note(test: Predictions, params: Params, shared: int | None) -> str:
    """One line that goes on every figure: what was tested, and whether it leaks."""
    people = "unknown" if shared is None else len(set(test.subjects))
    tested = f"{len(test.rows)} test slices of {people} people"
    if params.data.permute_labels:
        tested += " with SHUFFLED LABELS"
    if params.split.unit == "subject":
        return f"{tested}, none seen in training"
    if shared is None:
        return f"{tested}: subjects unknown, THIS SPLIT LEAKS"
    return f"{tested}, {shared} of them in training too: THIS SPLIT LEAKS"


def draw(directory: Path, test: Predictions, title: str) -> None:
    """Write the PNGs, each under ``title``."""
    truth, classes = test.truth, test.classes
    figures.confusion(directory / "confusion.png", truth, test.predicted, classes, title)
    figures.reliability_diagram(
        directory / "reliability.png",
        truth,
        {
            "as trained": probabilities(test.logits),
            f"at temperature {test.temperature:.2f}": probabilities(test.logits / test.temperature),
        },
        title,
    )
    figures.roc(directory / "roc.png", truth, test.probabilities, classes, title)
    figures.mistakes(
        directory / "mistakes.png", test.images, truth, test.probabilities, classes, title
    )


def write_tables(directory: Path, test: Predictions) -> None:
    """Write ``confusion.csv`` (labels numbered, for Vega) and ``predictions.csv``."""
    labels = numbered(test.classes)
    write_csv(
        directory / "confusion.csv",
        ("actual", "predicted"),
        ((labels[a], labels[p]) for a, p in zip(test.truth, test.predicted, strict=True)),
    )
    write_csv(
        directory / "predictions.csv",
        ("path", "subject", "actual", "predicted", *test.classes),
        (
            (
                row.path,
                row.subject,
                row.label,
                test.classes[test.predicted[number]],
                *(f"{p:.6f}" for p in test.probabilities[number]),
            )
            for number, row in enumerate(test.rows)
        ),
    )


def headline(content: dict[str, Any]) -> str:
    """One line for the terminal, of the content of ``models/evaluation.json``."""
    low, high = content["ci95"]["macro_f1"]
    return (
        f"macro F1 {content['macro_f1']:.3f} [{low:.3f}, {high:.3f}],"
        f" accuracy {content['accuracy']:.3f}, loss {content['loss']:.3f}"
    )
