"""A trained model as a person uses it: an image in, calibrated probabilities out.

On the CPU, whatever else the machine has: a probability is then the same on the command line, over
HTTP and on any machine, to rounding (GPUs multiply with fewer digits by default).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from alzmri.data import images
from alzmri.data.images import Pixels
from alzmri.errors import UserError
from alzmri.inference.preprocessing import Preprocessing
from alzmri.models import saved
from alzmri.models.forward import probabilities
from alzmri.models.saved import Card
from alzmri.ood import features
from alzmri.ood.detector import Detector, Features
from alzmri.terminal import Update

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Prediction:
    """What a model says of ``n`` slices. Research software: no diagnosis.

    Attributes:
        probabilities: float64 ``[n, classes]``, calibrated with the card's temperature.
        scope: float64 ``[n]``, how unlike the training slices; 1 is the threshold.
        in_scope: bool ``[n]``; where False, the probabilities mean nothing.
    """

    probabilities: NDArray[np.float64]
    scope: NDArray[np.float64]
    in_scope: NDArray[np.bool_]


def interpret(
    logits: NDArray[np.float64], activations: Features, card: Card, detector: Detector
) -> Prediction:
    """What the outputs of :class:`features.WithFeatures` mean, whichever engine computed them."""
    distance = detector.score(activations)
    return Prediction(probabilities(logits / card.temperature), distance, distance <= 1)


@dataclass(frozen=True)
class Predictor:
    """A model in memory.

    Attributes:
        model: ready to predict.
        card: its ``model.json``.
        detector: which images are unlike its training slices.
        preprocessing: what its card says.
    """

    model: features.WithFeatures
    card: Card
    detector: Detector
    preprocessing: Preprocessing

    @classmethod
    def load(cls, folder: Path = saved.MODELS) -> "Predictor":
        """The model in ``folder``, as the stages train and ood wrote it.

        Raises:
            UserError: when a file is missing or damaged, or they do not belong together.
        """
        model, card = saved.load(folder)
        detector = Detector.load(folder, saved.digest(folder))
        return cls(features.WithFeatures(model), card, detector, Preprocessing.of(card))

    @property
    def classes(self) -> list[str]:
        """Names in the order of the probabilities, least severe first."""
        return self.card.classes

    def prepare(self, image: bytes | Path) -> Pixels:
        """The model's view, uint8 ``[side, side]``, of an image file or its bytes.

        Raises:
            UserError: naming the fault; see :func:`alzmri.data.images.decode_bytes`.
        """
        try:
            data = image if isinstance(image, bytes) else images.read(image.resolve())
            return self.preprocessing(images.decode_bytes(data).pixels)
        except images.Unreadable as error:
            name = "the image" if isinstance(image, bytes) else image
            raise UserError(f"{name}: {error}") from None

    def predict(self, slices: Pixels, progress: Update | None = None) -> Prediction:
        """Judge uint8 ``[n, side, side]``, as :meth:`prepare` makes them; ``n`` is 1 or more."""
        logits, activations = features.run(
            self.model, slices, np.arange(len(slices)), CPU, progress
        )
        return interpret(logits, activations, self.card, self.detector)
