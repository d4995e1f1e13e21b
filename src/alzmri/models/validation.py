"""Macro F1 and the calibration temperature from validation logits."""

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

COLDEST, HOTTEST = 0.05, 20.0
"""Bounds of the temperature: without a validation mistake, the best temperature would be 0."""


def macro_f1(truth: Ints, predicted: Ints) -> float:
    """The mean F1 of the classes that occur in ``truth``, class indices ``[n]``; 0 to 1."""
    present = np.unique(truth)
    own, said = truth[:, np.newaxis] == present, predicted[:, np.newaxis] == present
    return float(np.mean(2 * (own & said).sum(axis=0) / (own.sum(axis=0) + said.sum(axis=0))))


def fit_temperature(truth: Ints, logits: Floats) -> float:
    """The T that minimises the cross-entropy of ``logits / T``, to four digits.

    Above 1 it softens an over-confident model, below 1 it sharpens an under-confident one; the most
    probable class stays the same. Guo et al., "On calibration of modern neural networks"
    (2017), section 4.2.

    Args:
        truth: class indices, int64 ``[n]``.
        logits: float64 ``[n, classes]``, of slices outside the training part.
    """
    from scipy.optimize import minimize_scalar  # takes a second; only the end of training needs it

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        own = scaled[np.arange(len(truth)), truth]
        return float(np.mean(np.logaddexp.reduce(scaled, axis=1) - own))

    bounds = (np.log(COLDEST), np.log(HOTTEST))
    return round(float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x)), 4)
