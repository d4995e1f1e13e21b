"""The base class of every architecture: feature maps and their classifier."""

from typing import ClassVar

import torch
from torch import Tensor, nn


class Network(nn.Module):
    """Feature maps of a slice, and their classifier.

    Training, the OOD detector and Grad-CAM use nothing else of an architecture.

    Attributes:
        image_size: side of the slices in pixels.
        features: from slices, float32 ``[batch, 1, image_size, image_size]``, to maps, float32
            ``[batch, channels, height, width]``. All batch normalisation is here.
        classifier: from flat maps to logits, float32 ``[batch, classes]``; its last layer is linear
            and has a unit per class.
        FINEST: place in ``features`` of the finest maps of the last convolutions, for Grad-CAM.
    """

    FINEST: ClassVar[int] = -2  # before the last pooling
    features: nn.Sequential
    classifier: nn.Sequential

    def __init__(self, image_size: int) -> None:
        super().__init__()
        self.image_size = image_size

    def classify(self, maps: Tensor) -> Tensor:
        """Logits of the feature maps."""
        logits: Tensor = self.classifier(torch.flatten(maps, 1))
        return logits

    def forward(self, images: Tensor) -> Tensor:
        """Logits of ``images``."""
        return self.classify(self.features(images))
