"""The features of a slice: the activations of a model's last convolutions."""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from alzmri.models.architectures import Network
from alzmri.models.forward import normalise, outputs
from alzmri.terminal import Update

MOST_CELLS = 6  # longest side of the features' maps, that of AlexNet; larger maps are averaged


class WithFeatures(nn.Module):
    """A trained network from packed pixels to logits and features.

    The features are the last feature maps, flattened, because places matter as much as patterns.
    Units of the last hidden layer, which keep differences of classes only, detect less.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``[n, classes]`` and features ``[n, width]`` of uint8 ``[n, side, side]``."""
        maps = self.network.features(normalise(images))
        coarse = F.avg_pool2d(maps, -(-maps.shape[-1] // MOST_CELLS))
        return self.network.classify(maps), torch.flatten(coarse, 1)


def run(
    model: WithFeatures,
    images: NDArray[np.uint8],
    indices: NDArray[np.int64],
    device: torch.device,
    progress: Update | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Logits, float64 ``[len(indices), classes]``, and features, float32 ``[.., width]``.

    The arguments are those of :func:`alzmri.models.forward.outputs`.
    """
    logits, features = outputs(model, images, indices, device, progress)
    return logits.astype(np.float64), features
