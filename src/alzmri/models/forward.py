"""The forward pass from packed pixels to class probabilities."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

MEAN, STD = 0.5, 0.5
"""The protocol's normalisation of pixel values from 0..1 to -1..1."""

BATCH_SIZE = 256
"""Images per forward pass without gradients; no score depends on it."""


def normalise(images: Tensor) -> Tensor:
    """Turn uint8 ``[n, side, side]`` into model input, float32 ``[n, 1, side, side]``, -1 to 1."""
    return (images.unsqueeze(1) * (1 / 255 / STD)).sub_(MEAN / STD)


@torch.inference_mode()
def predict(
    model: nn.Module, images: NDArray[np.uint8], indices: NDArray[np.int64], device: torch.device
) -> NDArray[np.float64]:
    """Logits, float64 ``[len(indices), classes]``, of the slices of ``images`` at ``indices``.

    ``images`` is uint8 ``[n, side, side]`` and may be memory-mapped.
    """
    model.eval()
    logits = []
    for start in range(0, len(indices), BATCH_SIZE):
        chosen = indices[start : start + BATCH_SIZE]
        batch = normalise(torch.from_numpy(images[chosen]).to(device))
        logits.append(model(batch).double().cpu().numpy())
    return np.concatenate(logits)


def probabilities(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Softmax over the last axis."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    result: NDArray[np.float64] = shifted / shifted.sum(axis=-1, keepdims=True)
    return result
