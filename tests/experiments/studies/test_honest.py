"""The table of the honest study says what subjects, not slices, were scored."""

import numpy as np
import pytest

from alzmri.classes import CLASSES
from alzmri.experiments.crossvalidation import Predictions
from alzmri.experiments.studies import honest


def _predictions(stages, slices):
    """Everybody predicted right; ``slices`` of each subject."""
    truth = np.repeat(stages, slices)
    names = np.repeat([f"P{n}" for n in range(len(stages))], slices)
    return Predictions(
        truth,
        0.6 * np.eye(4)[truth] + 0.1,
        tuple(names.tolist()),
        CLASSES,
        tuple(f"{number}.png" for number in range(len(truth))),
    )


@pytest.fixture
def row():
    """The table's only row, by column."""
    # Six subjects of class 0 with a slice each; two of each other class, with ten each.
    stages = np.array([0] * 6 + [1, 1, 2, 2, 3, 3])
    pooled = _predictions(stages, np.array([1] * 6 + [10] * 6))
    task = honest.Task("4 classes", [pooled], pooled, slices_shared=3)
    header, _, cells = (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in honest._scores([task]).splitlines()
    )
    return dict(zip(header, cells, strict=True))


def test_the_most_frequent_class_is_counted_in_subjects(row):
    assert row["people"] == "12"
    assert row["most frequent class"] == "0.500"
    assert row["accuracy per person"].startswith("1.000")
    assert row["slice split, macro F1 per person: LEAKS"] == "1.000 (3 of 12 people known)"
