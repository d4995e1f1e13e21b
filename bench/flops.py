"""FLOPs of training, as torch counts them."""

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from alzmri.models import build
from alzmri.models.forward import normalise

_COUNTED = 8
"""Slices in the step that is counted; FLOPs are proportional to it."""


def flops_per_slice(model: str, classes: int, image_size: int) -> float:
    """FLOPs of training ``model`` on one slice, forward and backward, operator by operator.

    Validation and the re-estimated statistics of batch normalisation are not training, and not in
    it.
    """
    network = build(model, classes=classes, image_size=image_size, dropout=0.0)
    slices = torch.zeros(_COUNTED, image_size, image_size, dtype=torch.uint8)
    labels = torch.zeros(_COUNTED, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        F.cross_entropy(network(normalise(slices)), labels).backward()
    return float(counter.get_total_flops() / _COUNTED)
