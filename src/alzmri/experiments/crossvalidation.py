"""Folds scored as one test: every person is tested once, by a model that has never seen them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from alzmri.errors import LeakError
from alzmri.evaluation import report
from alzmri.evaluation.intervals import Interval, of_new_people
from alzmri.evaluation.metrics import Floats, Ints, by_subject
from alzmri.experiments.runs import Finished

PREDICTIONS = "plots/predictions.csv"
_COLUMNS = ("path", "subject", "actual", "predicted")
"""The other columns are one probability per class, in severity order."""


@dataclass(frozen=True)
class Predictions:
    """Test slices of one experiment or of several, row by row.

    Attributes:
        truth: class indices, int64 ``[n]``.
        probabilities: float64 ``[n, classes]``, rows summing to 1.
        subjects: the person of each slice.
        classes: names in severity order.
        paths: of the slices, in the collection.
    """

    truth: Ints
    probabilities: Floats
    subjects: tuple[str, ...]
    classes: tuple[str, ...]
    paths: tuple[str, ...]

    @classmethod
    def of(cls, experiment: Finished) -> "Predictions":
        """What ``experiment`` predicted for its test part."""
        rows = experiment.table(PREDICTIONS)
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
        )

    @classmethod
    def pooled(cls, folds: Sequence["Predictions"]) -> "Predictions":
        """All folds as one.

        Raises:
            LeakError: when a person is in two folds: these are no folds of one split.
        """
        people = [person for fold in folds for person in set(fold.subjects)]
        if twice := len(people) - len(set(people)):
            raise LeakError(f"{twice} people are tested in several folds: not one cross-validation")
        return cls(
            truth=np.concatenate([fold.truth for fold in folds]),
            probabilities=np.concatenate([fold.probabilities for fold in folds]),
            subjects=tuple(person for fold in folds for person in fold.subjects),
            classes=folds[0].classes,
            paths=tuple(path for fold in folds for path in fold.paths),
        )

    def by_path(self) -> "Predictions":
        """The same, slices in the order of their paths."""
        order = sorted(range(len(self.paths)), key=self.paths.__getitem__)
        return Predictions(
            truth=self.truth[order],
            probabilities=self.probabilities[order],
            subjects=tuple(self.subjects[row] for row in order),
            classes=self.classes,
            paths=tuple(self.paths[row] for row in order),
        )

    @property
    def predicted(self) -> Ints:
        """The most probable class of each slice."""
        most_probable: Ints = self.probabilities.argmax(axis=1)
        return most_probable

    @cached_property
    def scores(self) -> dict[str, Any]:
        """As ``metrics/evaluate.json`` has them, without calibration and split."""
        return report.score(self.truth, self.probabilities, self.subjects, self.classes, seed=0)

    def of_new_people(self, people: int) -> dict[str, Interval]:
        """Where the scores per person of ``people`` new people fall, 95 times out of 100."""
        truth, probabilities, names = by_subject(self.truth, self.probabilities, self.subjects)
        predicted = probabilities.argmax(axis=1)
        return of_new_people(truth, predicted, names, len(self.classes), 0, people)
