"""The architectures, by the names that ``model.name`` may take."""

from torch import nn

from alzmri.models.alexnet import AlexNet
from alzmri.models.lenet import LeNet

ARCHITECTURES: dict[str, type[AlexNet] | type[LeNet]] = {"alexnet": AlexNet, "lenet": LeNet}


def build(name: str, *, classes: int, image_size: int, dropout: float) -> nn.Module:
    """Make a model with fresh weights, drawn from torch's global generator.

    Its input is float32 ``[batch, 1, image_size, image_size]`` in -1 to 1; its output the
    unnormalised class scores (logits), float32 ``[batch, classes]``.
    """
    return ARCHITECTURES[name](classes=classes, image_size=image_size, dropout=dropout)
