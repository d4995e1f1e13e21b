"""The architectures, by the names that ``model.name`` may take."""

from collections.abc import Callable

from alzmri.models.alexnet import AlexNet
from alzmri.models.lenet import LeNet
from alzmri.models.network import Network
from alzmri.models.resnet import ResNet18

ARCHITECTURES: dict[str, Callable[..., Network]] = {
    "alexnet": AlexNet,
    "lenet": LeNet,
    "resnet18": ResNet18,
}


def build(name: str, *, classes: int, image_size: int, dropout: float) -> Network:
    """Make a model with fresh weights, drawn from torch's global generator.

    Its input is float32 ``[batch, 1, image_size, image_size]`` in -1 to 1; its output the
    unnormalised class scores (logits), float32 ``[batch, classes]``.
    """
    return ARCHITECTURES[name](classes=classes, image_size=image_size, dropout=dropout)
