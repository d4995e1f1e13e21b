"""What a network must beat: a few numbers per subject, measured without learning, and guesses.

Logistic regression on the numbers, in the folds of the network: each subject is predicted by a fit
to the training and validation subjects of the fold that tests them.
"""

import csv
import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from alzmri.data.images import Pixels
from alzmri.inference import ventricles
from alzmri.models.validation import macro_f1

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

NUMBERS = ("ventricles, mean", "ventricles, largest", "fluid outside, mean", "largest", "contrast")
"""Per subject, over their slices: shares of the brain's area that are fluid, in the ellipse of
:mod:`alzmri.inference.ventricles` and outside it; grey and white, as 90 % less 50 % quantile."""
FLOORS: Mapping[str, Sequence[int]] = {
    "five numbers of fluid and contrast": range(len(NUMBERS)),
    "ventricle fraction alone": [0],
}
"""Columns of the numbers that each floor is given."""
PERMUTATIONS = 50
_STRENGTHS = (0.01, 0.1, 1.0, 10.0)
_INNER = 3


@dataclass(frozen=True)
class Subjects:
    """The subjects of a study, in the order of their names.

    Attributes:
        numbers: float64 ``[n, len(NUMBERS)]``.
        labels: class indices, int64 ``[n]``.
        fold: the fold that tests each, int64 ``[n]``.
    """

    numbers: Floats
    labels: Ints
    fold: Ints

    @classmethod
    def of(cls, images: Pixels, manifests: Sequence[str], classes: Sequence[str]) -> "Subjects":
        """From packed ``images`` and each fold's ``manifest.csv``, of which the first is theirs."""
        tables = [list(csv.DictReader(io.StringIO(text))) for text in manifests]
        slices: dict[str, list[Floats]] = {}
        labels: dict[str, list[int]] = {}
        for row in tables[0]:
            slices.setdefault(row["subject"], []).append(measured(images[int(row["index"])]))
            labels.setdefault(row["subject"], []).append(classes.index(row["label"]))
        fold = {
            row["subject"]: number
            for number, table in enumerate(tables)
            for row in table
            if row["split"] == "test"
        }
        names = sorted(fold)
        of = [np.array(slices[name]) for name in names]
        means, most = (
            np.array([one(values, axis=0) for values in of]) for one in (np.mean, np.max)
        )
        columns = (means[:, 0], most[:, 0], means[:, 1], most[:, 1], means[:, 2])
        usual = [np.bincount(labels[name]).argmax() for name in names]
        return cls(np.column_stack(columns), np.array(usual), np.array([fold[n] for n in names]))

    def predicted(self, columns: Sequence[int], labels: Ints) -> Ints:
        """The class of each subject, by fits to the ``labels`` of the other folds."""
        found = np.zeros_like(labels)
        for fold in np.unique(self.fold):
            test = self.fold == fold
            found[test] = _fitted(self.numbers[~test][:, columns], labels[~test]).predict(
                self.numbers[test][:, columns]
            )
        return found

    def permuted(self, columns: Sequence[int]) -> list[float]:
        """Macro F1 with labels permuted between all subjects, ``PERMUTATIONS`` times."""
        rng = np.random.default_rng(0)
        drawn = (rng.permutation(self.labels) for _ in range(PERMUTATIONS))
        return [macro_f1(labels, self.predicted(columns, labels)) for labels in drawn]


def measured(image: Pixels) -> Floats:
    """Fluid at the ventricles, fluid outside, contrast, of uint8 ``[side, side]``."""
    plane = image.T.astype(np.float32)
    if not plane.any():
        return np.zeros(3)
    brain = ventricles.brain(plane[:, :, np.newaxis])[:, :, 0]
    tissue = float(np.median(plane[brain]))
    fluid = brain & (plane < ventricles.FLUID * tissue)
    inside = fluid & ventricles.middle(brain)
    contrast = (np.quantile(plane[brain], 0.9) - tissue) / max(tissue, 1)
    shares = np.array([inside.sum(), fluid.sum() - inside.sum()]) / brain.sum()
    return np.append(shares, contrast)


def guessed(labels: Ints, draws: int = 1000) -> Iterator[float]:
    """Macro F1 of guesses that have each class as often as ``labels``."""
    rng = np.random.default_rng(0)
    for _ in range(draws):
        yield macro_f1(labels, rng.choice(labels, len(labels)))


def _fitted(numbers: Floats, labels: Ints) -> GridSearchCV:
    """The strength of the penalty is chosen inside the training subjects."""
    model = make_pipeline(
        StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000)
    )
    search = GridSearchCV(
        model,
        {"logisticregression__C": _STRENGTHS},
        scoring="f1_macro",
        cv=StratifiedKFold(_INNER, shuffle=True, random_state=0),
    )
    with warnings.catch_warnings():
        # A class of two subjects is not in every part; that is said where the scores are.
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("ignore", ConvergenceWarning)
        return search.fit(numbers, labels)
