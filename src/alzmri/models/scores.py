"""The score that chooses the epoch in training and comes first in evaluation."""

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def macro_f1(truth: Ints, predicted: Ints) -> float:
    """The mean F1 of the classes that occur in ``truth``, class indices ``[n]``; 0 to 1."""
    present = np.unique(truth)
    own, said = truth[:, np.newaxis] == present, predicted[:, np.newaxis] == present
    return float(np.mean(2 * (own & said).sum(axis=0) / (own.sum(axis=0) + said.sum(axis=0))))
