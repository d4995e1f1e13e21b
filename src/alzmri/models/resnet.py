"""ResNet-18 for grayscale slices: deeper than AlexNet, with a fifth of its weights."""

import torch.nn.functional as F
from torch import Tensor, nn

from alzmri.models.network import Network


class ResNet18(Network):
    """A convolution, then four stages of two residual blocks, then one linear layer.

    After He et al., "Deep residual learning for image recognition" (2015). Side of the square
    feature maps, by image size; the first convolution has stride 1 at 32 pixels, 2 at others:

    ================  ========  ===  ===  ===  ===  ===  ===
    layer             channels   32   64   96  128  160  224
    ================  ========  ===  ===  ===  ===  ===  ===
    input                    1   32   64   96  128  160  224
    conv 7                  64   32   32   48   64   80  112
    max-pool 3, 2           64   16   16   24   32   40   56
    conv 3, 4 times         64   16   16   24   32   40   56
    conv 3, 4 times        128    8    8   12   16   20   28
    conv 3, 4 times        256    4    4    6    8   10   14
    conv 3, 4 times        512    2    2    3    4    5    7
    ================  ========  ===  ===  ===  ===  ===  ===

    The means of the maps pass dropout and one unit per class.
    """

    FINEST = -1

    def __init__(self, *, classes: int, image_size: int, dropout: float) -> None:
        super().__init__(image_size)
        self.features = nn.Sequential(
            nn.Sequential(
                nn.Conv2d(1, 64, 7, 1 if image_size == 32 else 2, 3, bias=False),
                nn.BatchNorm2d(64),
                nn.ReLU(inplace=True),
            ),
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
        self.convolutions = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = nn.Sequential()
        if inputs != outputs:
            self.shortcut.append(nn.Conv2d(inputs, outputs, 1, stride, bias=False))
            self.shortcut.append(nn.BatchNorm2d(outputs))

    def forward(self, maps: Tensor) -> Tensor:
        return F.relu(self.convolutions(maps) + self.shortcut(maps))
