"""Folds scored as one test: every subject is tested once, by a model that has never seen them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alzmri.errors import LeakError
from alzmri.evaluation.intervals import Interval, of_new_people

_COLUMNS = ("path", "subject", "actual", "predicted")
"""The other columns are one probability per class, in severity order."""


@dataclass(frozen=True)
class Predictions:
    """Test slices of one experiment or of several, row by row.

    Attributes:
        truth: class indices, int64 ``[n]``.
        probabilities: float64 ``[n, classes]``, rows summing to 1.
        subjects: the subject of each slice.
        classes: names in severity order.
        paths: of the slices, in the collection.
    """

    truth: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    subjects: tuple[str, ...]
    classes: tuple[str, ...]
    paths: tuple[str, ...]

    @classmethod
    def of(cls, table: Sequence[Mapping[str, str]]) -> "Predictions":
        """The rows of a ``plots/predictions.csv``, in the order of the paths."""
        rows = sorted(table, key=lambda row: row["path"])
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
        """Join all folds into one test.

        Raises:
            LeakError: when a subject is in two folds: these are no folds of one split.
        """
        subjects = [subject for fold in folds for subject in set(fold.subjects)]
        if twice := len(subjects) - len(set(subjects)):
            raise LeakError(
                f"{twice} subjects are tested in several folds: not one cross-validation"
            )
        return cls(
            truth=np.concatenate([fold.truth for fold in folds]),
            probabilities=np.concatenate([fold.probabilities for fold in folds]),
            subjects=tuple(subject for fold in folds for subject in fold.subjects),
            classes=folds[0].classes,
            paths=tuple(path for fold in folds for path in fold.paths),
        )

    @property
    def predicted(self) -> NDArray[np.int64]:
        """The most probable class of each slice."""
        most_probable: NDArray[np.int64] = self.probabilities.argmax(axis=1)
        return most_probable

    @cached_property
    def scores(self) -> dict[str, Any]:
        """The scores that ``models/evaluation.json`` has, without calibration and split."""
        # Not at the top: compare and review read predictions without torch and scikit-learn.
        from alzmri.evaluation import report

        return report.score(self.truth, self.probabilities, self.subjects, self.classes, seed=0)

    def of_new_people(self, people: int) -> dict[str, Interval]:
        """Where the subject-level scores of ``people`` new subjects fall, 95 times out of 100."""
        from alzmri.evaluation.metrics import by_subject

        truth, probabilities, names = by_subject(self.truth, self.probabilities, self.subjects)
        predicted = probabilities.argmax(axis=1)
        return of_new_people(truth, predicted, names, len(self.classes), 0, people)
