"""The assessment of a test part: leak, scores, tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alzmri.data.prepared import UNKNOWN, Prepared, Row, numbered
from alzmri.errors import LeakError, UserError
from alzmri.evaluation.intervals import intervals
from alzmri.evaluation.leak import leaks
from alzmri.evaluation.metrics import by_subject, calibrated, confidence_scores, scores
from alzmri.files import write_csv
from alzmri.models.architectures import Network
from alzmri.models.forward import choose, probabilities
from alzmri.models.saved import Card
from alzmri.models.validation import Floats, Ints
from alzmri.ood import features
from alzmri.ood.detector import Detector

# The few scores in ``metrics/evaluate.json``, which DVC shows on one screen.
METRICS = (
    *("macro_f1", "accuracy", "loss", "macro_auc", "ece"),
    *("subject_macro_f1", "subject_accuracy", "shared_subjects"),
)


def check_leak(
    card: Card, prepared: Prepared, unit: str, summary: Mapping[str, Any]
) -> dict[str, Any]:
    """What is known about a leak: ``split`` in ``models/evaluation.json``.

    ``shared_subjects`` is the number of test subjects that were in training, or None if unknown:
    without subjects, or if the ``summary`` of the stage prepare says that a subject of a subject
    split has, or may have, several names. These are then the keys ``near_duplicates``, the number
    of images with a near-duplicate in another part, and ``several_groups``, which is true.

    Raises:
        LeakError: subjects are shared, but ``split.unit`` is not ``slice``.
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
    if near := summary["leak"]["near_duplicates_across_subject_split"]:
        return {"unit": unit, "shared_subjects": None, "near_duplicates": near}
    if unit == "subject" and several_groups(summary):
        return {"unit": unit, "shared_subjects": None, "several_groups": True}
    return {"unit": unit, "shared_subjects": shared if prepared.subjects_known else None}


def several_groups(summary: Mapping[str, Any]) -> bool:
    """Whether a subject may be in several groups: the pixels have no clear gap between subjects."""
    return summary["people"]["from"] == "pixels" and not summary["people"]["gap"]


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

    def at(self, temperature: float) -> Floats:
        """The probabilities at a temperature, float64 ``[n, classes]``."""
        return probabilities(self.logits / temperature)

    @property
    def probabilities(self) -> Floats:
        """The probabilities to score, float64 ``[n, classes]``."""
        return self.at(self.temperature if self.calibrated else 1)

    @property
    def predicted(self) -> Ints:
        """The index of the most probable class of each row, ``[n]``."""
        return self.probabilities.argmax(axis=1)

    @property
    def subjects(self) -> list[str]:
        """The subject of each row."""
        return [row.subject for row in self.rows]

    @property
    def subjects_known(self) -> bool:
        """False under ``split.subjects: unknown``."""
        return not self.rows[0].subject.startswith(UNKNOWN)


def predict_test(
    model: Network,
    temperature: float,
    prepared: Prepared,
    detector: Detector,
    *,
    calibrated: bool,
) -> Predictions:
    """Run the model on the test part."""
    device, indices = choose(), prepared.indices("test")
    network = features.WithFeatures(model).to(device)
    logits, activations = features.run(network, prepared.images, indices, device)
    return Predictions(
        rows=tuple(prepared.rows[index] for index in indices),
        images=prepared.images[indices],
        truth=prepared.labels[indices],
        logits=logits,
        ood=detector.score(activations) > 1,
        temperature=temperature,
        calibrated=calibrated,
        classes=prepared.classes,
    )


def details(test: Predictions, leak: dict[str, Any], seed: int) -> dict[str, Any]:
    """The content of ``models/evaluation.json``: ``METRICS`` and all other results.

    ``leak`` is the result of :func:`check_leak`, ``seed`` for the intervals. Without subjects,
    there are no scores of subjects, and intervals are over slices.
    """
    labels, names = test.truth, test.subjects
    found = score(labels, test.probabilities, names, test.classes, seed, ~test.ood)
    if not test.subjects_known:
        found["subject"] = {"n": None, "accuracy": None, "macro_f1": None, "ci95": {}}
        for count in found["stages_off"].values():
            count["people"] = None
    calibration: dict[str, Any] = {"temperature": test.temperature, "applied": test.calibrated}
    for when, temperature in (("before", 1), ("after", test.temperature)):
        chances = test.at(temperature)
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
    counted: NDArray[np.bool_],
) -> dict[str, Any]:
    """Scores of slices and subjects from predictions, with intervals over subjects.

    Arguments are named as in :mod:`alzmri.evaluation.metrics`; ``seed`` is for the intervals. The
    prediction for a subject is that of `alzmri predict`: the mean over ``counted`` slices.
    """
    by = by_subject(truth, probabilities, subjects, counted)
    levels, off = [], []
    for labels, chances, names in ((truth, probabilities, subjects), by):
        distances = np.abs(labels - chances.argmax(axis=1))
        off.append(np.bincount(distances, minlength=len(classes)).tolist())
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


def note(test: Predictions, leak: dict[str, Any], *, permuted: bool) -> str:
    """The line on every figure: the tested slices, and whether the split leaks."""
    subjects = len(set(test.subjects)) if test.subjects_known else "unknown"
    tested = f"{len(test.rows)} test slices of {subjects} subjects"
    if permuted:
        tested += " with PERMUTED LABELS"
    if not (word := leaks(leak)):
        return f"{tested}, none seen in training"
    why = f", {leak['shared_subjects']} of them in training too:"
    if near := leak.get("near_duplicates"):
        why = f"; {near} near-duplicates across the parts:"
    elif leak["shared_subjects"] is None:
        why = ": subjects unknown," if word == "LEAKS" else ", who may be in several groups:"
    return f"{tested}{why} THIS SPLIT {word}"


def write_tables(directory: Path, test: Predictions) -> None:
    """Write ``confusion.csv`` (labels numbered, for Vega) and ``predictions.csv``."""
    labels = numbered(test.classes)
    pairs, rows = [], []
    what = zip(test.rows, test.truth, test.predicted, test.ood, test.probabilities, strict=True)
    for row, actual, predicted, ood, chances in what:
        pairs.append((labels[actual], labels[predicted]))
        said = row.path, row.subject, row.label, test.classes[predicted], int(ood)
        rows.append((*said, *(f"{chance:.6f}" for chance in chances)))
    write_csv(directory / "confusion.csv", ("actual", "predicted"), pairs)
    header = ("path", "subject", "actual", "predicted", "ood", *test.classes)
    write_csv(directory / "predictions.csv", header, rows)
