"""Everything that is said about a test set: metrics, tables, figures, one line."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alzmri.data.prepared import Prepared, Row, numbered
from alzmri.evaluation import figures
from alzmri.evaluation.intervals import intervals
from alzmri.evaluation.metrics import (
    Floats,
    Ints,
    by_distance,
    by_subject,
    calibrated,
    confidence_scores,
    scores,
)
from alzmri.files import write_csv
from alzmri.models.device import choose
from alzmri.models.forward import probabilities
from alzmri.models.network import Network
from alzmri.ood import features
from alzmri.ood.detector import Detector
from alzmri.params import Evaluate, Params, Split


@dataclass(frozen=True)
class Predictions:
    """The test part and what the model says of it, row by row.

    Attributes:
        rows: lines of the manifest.
        images: uint8 ``[n, side, side]``.
        truth: class indices, int64 ``[n]``.
        logits: float64 ``[n, classes]``.
        ood: bool ``[n]``, unlike the training slices: `alzmri predict` leaves these out.
        temperature: fitted on validation, see :mod:`alzmri.training.calibration`.
        calibrated: whether the probabilities are those at this temperature.
        classes: names in severity order.
    """

    rows: tuple[Row, ...]
    images: np.ndarray[Any, np.dtype[np.uint8]]
    truth: Ints
    logits: Floats
    ood: np.ndarray[Any, np.dtype[np.bool_]]
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
        """The subject of each row."""
        return [row.subject for row in self.rows]


def predict_test(
    model: Network,
    temperature: float,
    prepared: Prepared,
    evaluate: Evaluate,
    detector: Detector | None = None,
) -> Predictions:
    """Run the model over the test part; without ``detector`` no slice is OOD."""
    device = choose()
    indices = prepared.indices("test")
    network = features.WithFeatures(model).to(device)
    logits, activations = features.run(network, prepared.images, indices, device)
    return Predictions(
        rows=tuple(prepared.rows[index] for index in indices),
        images=prepared.images[indices],
        truth=prepared.labels[indices],
        logits=logits,
        ood=detector.score(activations) > 1 if detector else np.zeros(len(indices), np.bool_),
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


def details(
    test: Predictions, split: Split, shared: int | None, near_duplicates: int = 0
) -> dict[str, Any]:
    """The content of ``models/evaluation.json``: ``METRICS``, and everything else that is known.

    ``shared`` and ``near_duplicates`` are what :mod:`alzmri.evaluation.leak` found. ``shared`` is
    None where subjects are unknown. Nothing is said of them then, and intervals are over slices.
    Where there are near-duplicates, how many subjects are shared is not known either.
    """
    labels, names, seed = test.truth, test.subjects, split.seed
    found = score(labels, test.probabilities, names, test.classes, seed, ~test.ood)
    if shared is None:
        found["subject"] = {"n": None, "accuracy": None, "macro_f1": None, "ci95": {}}
        for count in found["stages_off"].values():
            count["people"] = None
    as_trained, divided = (probabilities(test.logits / t) for t in (1, test.temperature))
    leak: dict[str, Any] = {"unit": split.unit, "shared_subjects": shared}
    if near_duplicates:  # the names hide who was seen in training
        leak |= {"shared_subjects": None, "near_duplicates": near_duplicates}
    return {
        **found,
        "subject_macro_f1": found["subject"]["macro_f1"],
        "subject_accuracy": found["subject"]["accuracy"],
        "shared_subjects": leak["shared_subjects"],
        "calibration": {
            "temperature": test.temperature,
            "applied": test.calibrated,
            "before": _confidence(labels, as_trained, names, seed),
            "after": _confidence(labels, divided, names, seed),
        },
        "split": leak,
    }


def _confidence(truth: Ints, chances: Floats, subjects: Sequence[str], seed: int) -> dict[str, Any]:
    """Loss, calibration error and Brier score, with how well the error is known."""
    return {
        **confidence_scores(truth, chances),
        "ci95": {"ece": intervals(truth, chances, subjects, seed)["ece"]},
        "calibrated_ece": calibrated(chances, subjects, seed),
    }


def score(
    truth: Ints,
    probabilities: Floats,
    subjects: Sequence[str],
    classes: Sequence[str],
    seed: int,
    counted: np.ndarray[Any, np.dtype[np.bool_]] | None = None,
) -> dict[str, Any]:
    """All that predictions alone tell, of slices and of subjects, with intervals over subjects.

    Arguments are named as in :mod:`alzmri.evaluation.metrics`; ``seed`` is of the intervals. A
    subject is scored as `alzmri predict` answers: by the mean over the slices that are ``counted``.
    """
    number = len(classes)
    predicted = probabilities.argmax(axis=1)
    person_truth, person_probabilities, people = by_subject(truth, probabilities, subjects, counted)
    person_predicted = person_probabilities.argmax(axis=1)
    slices_off = by_distance(truth, predicted, number)
    people_off = by_distance(person_truth, person_predicted, number)
    return {
        **_scored(truth, probabilities, subjects, classes, seed),
        "subject": {
            "n": len(people),
            **_scored(person_truth, person_probabilities, people, classes, seed),
        },
        "stages_off": {
            str(off): {"slices": slices_off[off], "people": people_off[off]}
            for off in range(number)
        },
    }


def _scored(
    truth: Ints, chances: Floats, subjects: Sequence[str], classes: Sequence[str], seed: int
) -> dict[str, Any]:
    return {
        **scores(truth, chances, classes),
        "ci95": intervals(truth, chances, subjects, seed),
        "calibrated_ece": calibrated(chances, subjects, seed),
    }


def note(test: Predictions, params: Params, shared: int | None, near_duplicates: int = 0) -> str:
    """One line that goes on every figure: what was tested, and whether it leaks.

    ``shared`` and ``near_duplicates`` are what :mod:`alzmri.evaluation.leak` found.
    """
    people = "unknown" if shared is None else len(set(test.subjects))
    tested = f"{len(test.rows)} test slices of {people} subjects"
    if params.data.permute_labels:
        tested += " with PERMUTED LABELS"
    if near_duplicates:
        return f"{tested}; {near_duplicates} near-duplicates across the parts: THIS SPLIT LEAKS"
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
        ("path", "subject", "actual", "predicted", "ood", *test.classes),
        (
            (
                row.path,
                row.subject,
                row.label,
                test.classes[test.predicted[number]],
                int(test.ood[number]),
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
