"""A trained model that turns images into calibrated probabilities.

It always runs on the CPU, so that probabilities are the same everywhere, up to rounding.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from alzmri.data import images
from alzmri.data.images import Pixels
from alzmri.errors import UserError
from alzmri.models import saved
from alzmri.models.forward import MEAN, STD, probabilities
from alzmri.models.saved import Card
from alzmri.ood import features
from alzmri.ood.detector import FILE, Detector, Features
from alzmri.terminal import Update

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Prediction:
    """Predictions for ``n`` slices. Research software: no diagnosis."""

    probabilities: NDArray[np.float64]  # [n, classes], calibrated with the card's temperature
    ood_score: NDArray[np.float64]  # [n], how unlike the training slices; 1 is the threshold
    in_distribution: NDArray[np.bool_]  # [n]; where False, the probabilities mean nothing


def interpret(
    logits: NDArray[np.float64], activations: Features, card: Card, detector: Detector
) -> Prediction:
    """Predictions from the outputs of :class:`features.WithFeatures`, from PyTorch or ONNX."""
    distance = detector.score(activations)
    return Prediction(probabilities(logits / card.temperature), distance, distance <= 1)


@dataclass(frozen=True)
class Preprocessing:
    """The preprocessing of a slice for the model: see :func:`alzmri.data.images.fit`."""

    fit: Literal["pad", "stretch"]
    image_size: int

    @classmethod
    def of(cls, card: Card) -> "Preprocessing":
        """The preprocessing of ``card``; :class:`UserError` if this version does not have it."""
        said = dict(card.preprocessing)
        fit = said.pop("fit", None)
        if fit not in ("pad", "stretch") or said != {"channels": 1, "mean": MEAN, "std": STD}:
            raise UserError(
                f"the model was trained with another preprocessing ({card.preprocessing}) than this"
                " version of alzmri has: use the version in its model.json"
            )
        return cls(fit, card.architecture["image_size"])

    def __call__(self, pixels: Pixels) -> Pixels:
        """Turn uint8 ``[height, width]`` into uint8 ``[image_size, image_size]``."""
        return images.fit(pixels, self.image_size, self.fit)


@dataclass(frozen=True)
class Predictor:
    """A model in memory, with its card, its OOD detector and the card's preprocessing.

    ``version`` is its registered version, such as ``alzmri@v0.1.0``, or None.
    """

    model: features.WithFeatures
    card: Card
    detector: Detector
    preprocessing: Preprocessing
    version: str | None = None

    @classmethod
    def load(cls, folder: Path = saved.MODELS, version: str | None = None) -> "Predictor":
        """Load the model in ``folder``, from the stages train and ood; registered as ``version``.

        Raises :class:`UserError` when a file is missing or damaged, or files do not fit together.
        """
        model, card = saved.load(folder)
        detector = Detector.load(folder, saved.digest(folder))
        found = cls(features.WithFeatures(model), card, detector, Preprocessing.of(card), version)
        blank = np.zeros((1, *2 * [found.preprocessing.image_size]), np.uint8)
        logits, activations = features.run(found.model, blank, np.arange(1), CPU)
        expected, width = len(detector.mean), activations.shape[1]
        if width != expected:
            raise UserError(
                f"{FILE} has {expected} features, but the model has {width}: run `dvc repro ood`"
            )
        if not (np.isfinite(logits).all() and np.isfinite(activations).all()):
            raise UserError("the model's outputs are not finite: run `dvc repro -f train`")
        try:
            str(card.parameters["data"]["source"] + card.parameters["split"]["unit"])
        except (KeyError, TypeError):
            raise UserError("model.json lacks data.source or split.unit") from None
        return found

    @property
    def classes(self) -> list[str]:
        """Class names in the order of the probabilities, least severe first."""
        return self.card.classes

    def predict(self, slices: Pixels, progress: Update | None = None) -> Prediction:
        """Predictions for preprocessed slices, uint8 ``[n, side, side]``."""
        logits, activations = features.run(
            self.model, slices, np.arange(len(slices)), CPU, progress
        )
        return interpret(logits, activations, self.card, self.detector)
