"""The assessment of a test part: leak, scores, tables, figures, a headline."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alzmri.data.prepared import PREPARED, Prepared, Row, numbered
from alzmri.errors import LeakError, UserError
from alzmri.evaluation import figures
from alzmri.evaluation.intervals import intervals
from alzmri.evaluation.metrics import (
    by_distance,
    by_subject,
    calibrated,
    confidence_scores,
    scores,
)
from alzmri.files import write_csv
from alzmri.models.architectures import Network
from alzmri.models.forward import choose, probabilities
from alzmri.models.saved import Card
from alzmri.models.validation import Floats, Ints
from alzmri.ood import features
from alzmri.ood.detector import Detector
from alzmri.params import Evaluate, Params, Split

METRICS = (
    *("macro_f1", "accuracy", "loss", "macro_auc", "ece"),
    *("subject_macro_f1", "subject_accuracy", "shared_subjects"),
)
"""The few scores in ``metrics/evaluate.json``, which DVC shows on one screen."""


def check_leak(card: Card, prepared: Prepared, unit: str) -> int | None:
    """The number of test subjects that were in training; None if subjects are unknown.

    Raises:
        LeakError: there are some, but ``split.unit`` is not ``slice``.
        UserError: the model was trained on another preparation of the data.
    """
    tested = prepared.subjects("test")
    shared = card.shared_subjects(tested)
    if shared and unit != "slice":
        raise LeakError(
            f"{shared} of {len(tested)} test subjects were in this model's training: its score"
            " would measure recognition of subjects. Train on this split: `dvc repro train`"
        )
    # Subjects may have other names in another preparation, so only the model's own training data
    # can show that it has not seen them.
    if card.data_sha256 != prepared.digest:
        raise UserError(
            "models/ was trained on other data or another split than data/prepared: run"
            " `dvc repro train`"
        )
    return shared if prepared.subjects_known else None


def near_duplicates() -> int:
    """The stage prepare's count of images with a near-duplicate in another part of a subject split.

    If there are any, a subject has several names, and may have been in training.
    """
    summary = json.loads((PREPARED / "summary.json").read_bytes())
    return int(summary["leak"]["near_duplicates_across_subject_split"])


@dataclass(frozen=True)
class Predictions:
    """The test part and the model's predictions, row by row."""

    rows: tuple[Row, ...]  # lines of the manifest
    images: NDArray[np.uint8]  # [n, side, side]
    truth: Ints  # class indices, [n]
    logits: Floats  # [n, classes]
    ood: NDArray[np.bool_]  # [n], out of distribution: `alzmri predict` leaves these out
    temperature: float  # fitted on the validation part
    calibrated: bool  # whether the probabilities are those at this temperature
    classes: tuple[str, ...]  # in severity order

    @property
    def probabilities(self) -> Floats:
        """The probabilities to score, float64 ``[n, classes]``."""
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
    """Run the model on the test part; without ``detector``, no slice is OOD."""
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


def details(
    test: Predictions, split: Split, shared: int | None, near_duplicates: int = 0
) -> dict[str, Any]:
    """The content of ``models/evaluation.json``: ``METRICS`` and all other results.

    ``shared`` is the result of :func:`check_leak`. If it is None, there are no scores of subjects,
    and intervals are over slices. Near-duplicates make it unknown, too.
    """
    labels, names, seed = test.truth, test.subjects, split.seed
    found = score(labels, test.probabilities, names, test.classes, seed, ~test.ood)
    if shared is None:
        found["subject"] = {"n": None, "accuracy": None, "macro_f1": None, "ci95": {}}
        for count in found["stages_off"].values():
            count["people"] = None
    leak: dict[str, Any] = {"unit": split.unit, "shared_subjects": shared}
    if near_duplicates:  # several names of a subject hide that it was in training
        leak |= {"shared_subjects": None, "near_duplicates": near_duplicates}
    calibration: dict[str, Any] = {"temperature": test.temperature, "applied": test.calibrated}
    for when, temperature in (("before", 1), ("after", test.temperature)):
        chances = probabilities(test.logits / temperature)
        calibration[when] = {
            **confidence_scores(labels, chances),
            "ci95": {"ece": intervals(labels, chances, names, seed)["ece"]},
            "calibrated_ece": calibrated(chances, names, seed),
        }
    return {
        **found,
        "subject_macro_f1": found["subject"]["macro_f1"],
        "subject_accuracy": found["subject"]["accuracy"],
        "shared_subjects": leak["shared_subjects"],
        "calibration": calibration,
        "split": leak,
    }


def score(
    truth: Ints,
    probabilities: Floats,
    subjects: Sequence[str],
    classes: Sequence[str],
    seed: int,
    counted: NDArray[np.bool_] | None = None,
) -> dict[str, Any]:
    """Scores of slices and subjects from predictions, with intervals over subjects.

    Arguments are named as in :mod:`alzmri.evaluation.metrics`; ``seed`` is for the intervals. The
    prediction for a subject is that of `alzmri predict`: the mean over ``counted`` slices.
    """
    by = by_subject(truth, probabilities, subjects, counted)
    levels, off = [], []
    for labels, chances, names in ((truth, probabilities, subjects), by):
        off.append(by_distance(labels, chances.argmax(axis=1), len(classes)))
        levels.append(
            {
                **scores(labels, chances, classes),
                "ci95": intervals(labels, chances, names, seed),
                "calibrated_ece": calibrated(chances, names, seed),
            }
        )
    return {
        **levels[0],
        "subject": {"n": len(by[2]), **levels[1]},
        "stages_off": {
            str(distance): {"slices": slices, "people": people}
            for distance, (slices, people) in enumerate(zip(*off, strict=True))
        },
    }


def note(test: Predictions, params: Params, shared: int | None, near_duplicates: int = 0) -> str:
    """The line on every figure: the tested slices, and whether the split leaks."""
    known = "unknown" if shared is None else len(set(test.subjects))
    tested = f"{len(test.rows)} test slices of {known} subjects"
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
    truth, names, classes = test.truth, test.subjects, test.classes
    plain, divided = (probabilities(test.logits / t) for t in (1, test.temperature))
    sets = {"as trained": plain, f"at temperature {test.temperature:.2f}": divided}
    figures.confusion(directory / "confusion.png", truth, test.predicted, classes, title)
    figures.reliability_diagram(directory / "reliability.png", truth, sets, names, title)
    figures.roc(directory / "roc.png", truth, test.probabilities, names, classes, title)
    figures.mistakes(
        directory / "mistakes.png", test.images, truth, test.probabilities, classes, title
    )
    figures.history(directory / "history.png", directory / "history.csv")


def write_tables(directory: Path, test: Predictions) -> None:
    """Write ``confusion.csv`` (labels numbered, for Vega) and ``predictions.csv``."""
    labels = numbered(test.classes)
    write_csv(
        directory / "confusion.csv",
        ("actual", "predicted"),
        ((labels[a], labels[p]) for a, p in zip(test.truth, test.predicted, strict=True)),
    )
    what = zip(test.rows, test.predicted, test.ood, test.probabilities, strict=True)
    write_csv(
        directory / "predictions.csv",
        ("path", "subject", "actual", "predicted", "ood", *test.classes),
        (
            (
                *(row.path, row.subject, row.label, test.classes[predicted], int(ood)),
                *(f"{p:.6f}" for p in chances),
            )
            for row, predicted, ood, chances in what
        ),
    )


def headline(content: dict[str, Any]) -> str:
    """One line for the terminal, of the content of ``models/evaluation.json``."""
    low, high = content["ci95"]["macro_f1"]
    return (
        f"macro F1 {content['macro_f1']:.3f} [{low:.3f}, {high:.3f}],"
        f" accuracy {content['accuracy']:.3f}, loss {content['loss']:.3f}"
    )
