"""The architectures by ``model.name``; ``build`` makes one."""

from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIDE_AND_PADDING = {32: (1, 5), 64: (2, 5), 96: (2, 5), 128: (4, 2), 160: (4, 2), 224: (4, 2)}
"""Stride and padding of AlexNet's first convolution by image size. A stride of 4 would lose the
detail of small images."""


class Network(nn.Module):
    """Layers from slices to feature maps, and a classifier of the maps.

    Attributes:
        features: from slices, float32 ``[batch, 1, image_size, image_size]``, to maps, float32
            ``[batch, channels, height, width]``, with all batch normalisation.
        classifier: from flat maps to logits, float32 ``[batch, classes]``; the last is linear.
        FINEST: the place in ``features`` of the finest maps of the last convolutions, for Grad-CAM.
    """

    FINEST: ClassVar[int] = -2  # before the last pooling
    features: nn.Sequential
    classifier: nn.Sequential

    def classify(self, maps: Tensor) -> Tensor:
        """Logits of the feature maps."""
        return self.classifier(torch.flatten(maps, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Logits of ``images``."""
        return self.classify(self.features(images))


class AlexNet(Network):
    """Five blocks of convolution, batch normalisation and ReLU, then three linear layers.

    After Krizhevsky, "One weird trick for parallelizing convolutional neural networks" (2014),
    the single-column layout, with batch normalisation (Ioffe and Szegedy, 2015) in place of
    local response normalisation. Side of the square feature maps, by image size:

    layer             channels   32   64   96  128  160  224 pixels
    conv 11                 64   32   32   48   31   39   55
    max-pool 3, 2           64   15   15   23   15   19   27
    conv 5                 192   15   15   23   15   19   27
    max-pool 3, 2          192    7    7   11    7    9   13
    conv 3                 384    7    7   11    7    9   13
    conv 3                 256    7    7   11    7    9   13
    conv 3                 256    7    7   11    7    9   13
    max-pool 3, 2          256    3    3    5    3    4    6

    The flattened maps pass dropout, 4096 units, dropout, 4096 units, and one unit per class.
    """

    def __init__(self, *, classes: int, image_size: int, dropout: float) -> None:
        super().__init__()
        stride, padding = STRIDE_AND_PADDING[image_size]
        self.features = nn.Sequential(
            _block(1, 64, kernel=11, stride=stride, padding=padding),
            nn.MaxPool2d(3, 2),
            _block(64, 192, kernel=5, padding=2),
            nn.MaxPool2d(3, 2),
            _block(192, 384, kernel=3),
            _block(384, 256, kernel=3),
            _block(256, 256, kernel=3),
            nn.MaxPool2d(3, 2),
        )
        side = (image_size + 2 * padding - 11) // stride + 1
        for _pool in range(3):
            side = (side - 1) // 2
        self.classifier = nn.Sequential(
            *(nn.Dropout(dropout), nn.Linear(256 * side * side, 4096), nn.ReLU(inplace=True)),
            *(nn.Dropout(dropout), nn.Linear(4096, 4096), nn.ReLU(inplace=True)),
            nn.Linear(4096, classes),
        )


def _block(inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 1) -> nn.Module:
    # No bias: the normalisation that follows subtracts it again.
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class LeNet(Network):
    """LeNet-5, the small baseline: two blocks of convolution and pooling, three linear layers.

    After LeCun et al., "Gradient-based learning applied to document recognition" (1998), with
    max-pooling and ReLU as is usual today. Side of the square feature maps, by image size:

    layer             channels   32   64   96  128  160  224 pixels
    conv 5                   6   28   60   92  124  156  220
    max-pool 2, 2            6   14   30   46   62   78  110
    conv 5                  16   10   26   42   58   74  106
    max-pool 2, 2           16    5   13   21   29   37   53

    The flattened maps pass 120 units, dropout, 84 units, dropout, and one unit per class.
    """

    def __init__(self, *, classes: int, image_size: int, dropout: float) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(1, 6, 5), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
            *(nn.Conv2d(6, 16, 5), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        )
        side = ((image_size - 4) // 2 - 4) // 2
        self.classifier = nn.Sequential(
            *(nn.Linear(16 * side * side, 120), nn.ReLU(inplace=True), nn.Dropout(dropout)),
            *(nn.Linear(120, 84), nn.ReLU(inplace=True), nn.Dropout(dropout)),
            nn.Linear(84, classes),
        )


class ResNet18(Network):
    """A convolution, then four stages of two residual blocks, then one linear layer.

    After He et al., "Deep residual learning for image recognition" (2015), with stride 1 in the
    first convolution at 32 pixels. The last 512 feature maps have 2 cells a side at 32 and 64
    pixels, 7 at 224; their means pass dropout and one unit per class.
    """

    FINEST = -1

    def __init__(self, *, classes: int, image_size: int, dropout: float) -> None:
        super().__init__()
        self.features = nn.Sequential(
            _block(1, 64, kernel=7, stride=1 if image_size == 32 else 2, padding=3),
            nn.MaxPool2d(3, 2, 1),
            nn.Sequential(_Residual(64, 64), _Residual(64, 64)),
            nn.Sequential(_Residual(64, 128, stride=2), _Residual(128, 128)),
            nn.Sequential(_Residual(128, 256, stride=2), _Residual(256, 256)),
            nn.Sequential(_Residual(256, 512, stride=2), _Residual(512, 512)),
        )
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(512, classes))

    def classify(self, maps: Tensor) -> Tensor:
        """Logits of the mean of each feature map."""
        return super().classify(maps.mean((2, 3)))


class _Residual(nn.Module):
    """Two convolutions, added to their input."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        first = _block(inputs, outputs, kernel=3, stride=stride).children()
        *second, _relu = _block(outputs, outputs, kernel=3).children()
        self.convolutions = nn.Sequential(*first, *second)
        self.shortcut = nn.Sequential()
        if inputs != outputs:
            self.shortcut.append(nn.Conv2d(inputs, outputs, 1, stride, bias=False))
            self.shortcut.append(nn.BatchNorm2d(outputs))

    def forward(self, maps: Tensor) -> Tensor:
        return F.relu(self.convolutions(maps) + self.shortcut(maps))


ARCHITECTURES: dict[str, Callable[..., Network]]
ARCHITECTURES = {"alexnet": AlexNet, "lenet": LeNet, "resnet18": ResNet18}


def build(name: str, *, classes: int, image_size: int, dropout: float) -> Network:
    """Make a model with fresh weights, drawn from torch's global generator.

    It computes logits of slices in -1 to 1, shaped as :class:`Network` says.
    """
    return ARCHITECTURES[name](classes=classes, image_size=image_size, dropout=dropout)
