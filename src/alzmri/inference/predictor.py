"""A trained model as a user uses it: an image in, calibrated probabilities out.

On the CPU, whatever else the machine has: a probability is then the same on the command line, over
HTTP and on any machine, to rounding (GPUs multiply with fewer digits by default).
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
    """What a model says of ``n`` slices. Research software: no diagnosis."""

    probabilities: NDArray[np.float64]  # [n, classes], calibrated with the card's temperature
    ood_score: NDArray[np.float64]  # [n], how unlike the training slices; 1 is the threshold
    in_distribution: NDArray[np.bool_]  # [n]; where False, the probabilities mean nothing


def interpret(
    logits: NDArray[np.float64], activations: Features, card: Card, detector: Detector
) -> Prediction:
    """What the outputs of :class:`features.WithFeatures` mean, whichever engine computed them."""
    distance = detector.score(activations)
    return Prediction(probabilities(logits / card.temperature), distance, distance <= 1)


@dataclass(frozen=True)
class Preprocessing:
    """How a slice becomes what the model sees: see :func:`alzmri.data.images.fit`."""

    fit: Literal["pad", "stretch"]
    image_size: int

    @classmethod
    def of(cls, card: Card) -> "Preprocessing":
        """What ``card`` says; :class:`UserError` when this version of the program cannot do it."""
        said = dict(card.preprocessing)
        fit = said.pop("fit", None)
        if fit not in ("pad", "stretch") or said != {"channels": 1, "mean": MEAN, "std": STD}:
            raise UserError(
                f"the model was trained with another preprocessing ({card.preprocessing}) than this"
                " version of alzmri has: use the version in its model.json"
            )
        return cls(fit, card.architecture["image_size"])

    def __call__(self, pixels: Pixels) -> Pixels:
        """uint8 ``[image_size, image_size]`` of uint8 ``[height, width]``."""
        return images.fit(pixels, self.image_size, self.fit)


@dataclass(frozen=True)
class Predictor:
    """A model in memory, with its card, its OOD detector and the card's preprocessing.

    ``version`` is the one under which it is registered, such as ``alzmri@v0.1.0``, or None.
    """

    model: features.WithFeatures
    card: Card
    detector: Detector
    preprocessing: Preprocessing
    version: str | None = None

    @classmethod
    def load(cls, folder: Path = saved.MODELS, version: str | None = None) -> "Predictor":
        """The model in ``folder``, as the stages train and ood wrote it; registered as ``version``.

        Raises :class:`UserError` when a file is missing or damaged, or they do not fit together.
        """
        model, card = saved.load(folder)
        detector = Detector.load(folder, saved.digest(folder))
        found = cls(features.WithFeatures(model), card, detector, Preprocessing.of(card), version)
        blank = np.zeros((1, *2 * [found.preprocessing.image_size]), np.uint8)
        logits, activations = features.run(found.model, blank, np.arange(1), CPU)
        expected, width = len(detector.mean), activations.shape[1]
        if width != expected:
            raise UserError(
                f"{FILE} is of {expected} features, the model has {width}: run `dvc repro ood`"
            )
        if not (np.isfinite(logits).all() and np.isfinite(activations).all()):
            raise UserError("the model's outputs are not numbers: run `dvc repro -f train`")
        try:
            str(card.parameters["data"]["source"] + card.parameters["split"]["unit"])
        except (KeyError, TypeError):
            raise UserError("model.json does not say data.source and split.unit") from None
        return found

    @property
    def classes(self) -> list[str]:
        """Names in the order of the probabilities, least severe first."""
        return self.card.classes

    def predict(self, slices: Pixels, progress: Update | None = None) -> Prediction:
        """What the model says of uint8 ``[n, side, side]``, as ``preprocessing`` makes them."""
        logits, activations = features.run(
            self.model, slices, np.arange(len(slices)), CPU, progress
        )
        return interpret(logits, activations, self.card, self.detector)
