"""Everything that is said about a test set: metrics, tables, figures, one line."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from alzmri.data.classes import numbered
from alzmri.data.prepared import Prepared, Row
from alzmri.evaluation import figures
from alzmri.evaluation.intervals import bootstrap
from alzmri.evaluation.metrics import Floats, Ints, scores, subject_scores
from alzmri.files import write_csv
from alzmri.models.device import choose
from alzmri.models.forward import predict, probabilities
from alzmri.params import Split


@dataclass(frozen=True)
class Predictions:
    """The test part and what the model says of it, row by row.

    Attributes:
        rows: lines of the manifest.
        images: uint8 ``[n, side, side]``.
        truth: class indices, int64 ``[n]``.
        probabilities: float64 ``[n, classes]``.
        classes: names in severity order.
    """

    rows: tuple[Row, ...]
    images: np.ndarray[Any, np.dtype[np.uint8]]
    truth: Ints
    probabilities: Floats
    classes: tuple[str, ...]

    @property
    def predicted(self) -> Ints:
        """The most probable class of each row."""
        most_probable: Ints = self.probabilities.argmax(axis=1)
        return most_probable

    @property
    def subjects(self) -> list[str]:
        """The person of each row."""
        return [row.subject for row in self.rows]


def predict_test(model: nn.Module, prepared: Prepared) -> Predictions:
    """Run the model over the test part."""
    device = choose()
    indices = prepared.indices("test")
    logits = predict(model.to(device), prepared.images, indices, device)
    return Predictions(
        rows=tuple(prepared.rows[index] for index in indices),
        images=prepared.images[indices],
        truth=prepared.labels[indices],
        probabilities=probabilities(logits),
        classes=prepared.classes,
    )


def metrics(test: Predictions, split: Split, shared: int) -> dict[str, Any]:
    """The content of ``metrics/evaluate.json``."""
    return {
        **scores(test.truth, test.probabilities, test.classes),
        "ci95": bootstrap(test.truth, test.predicted, test.subjects, len(test.classes), split.seed),
        "subject": subject_scores(test.truth, test.probabilities, test.subjects),
        "split": {"unit": split.unit, "shared_subjects": shared},
    }


def note(test: Predictions, unit: str, shared: int) -> str:
    """One line that goes on every figure: what was tested, and whether it leaks."""
    people = len(set(test.subjects))
    tested = f"{len(test.rows)} test slices of {people} people"
    if unit == "subject":
        return f"{tested}, none seen in training"
    return f"{tested}, {shared} of them in training too: THIS SPLIT LEAKS"


def draw(directory: Path, test: Predictions, title: str) -> None:
    """Write the PNGs, each under ``title``."""
    truth, classes = test.truth, test.classes
    figures.confusion(directory / "confusion.png", truth, test.predicted, classes, title)
    figures.reliability_diagram(directory / "reliability.png", truth, test.probabilities, title)
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
    """One line for the terminal, of the content of ``metrics/evaluate.json``."""
    low, high = content["ci95"]["macro_f1"]
    return (
        f"macro F1 {content['macro_f1']:.3f} [{low:.3f}, {high:.3f}],"
        f" accuracy {content['accuracy']:.3f}, loss {content['loss']:.3f}"
    )
