"""AlexNet with batch normalisation, for grayscale slices of any supported size."""

from torch import nn

from alzmri.models.network import Network

STRIDE_AND_PADDING = {32: (1, 5), 64: (2, 5), 96: (2, 5), 128: (4, 2), 160: (4, 2), 224: (4, 2)}
"""Of the first convolution, by image size. A stride of 4 would lose the detail of small images."""


def _block(inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 1) -> nn.Module:
    # No bias: the normalisation that follows subtracts it again.
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class AlexNet(Network):
    """Five blocks of convolution, batch normalisation and ReLU, then three linear layers.

    After Krizhevsky, "One weird trick for parallelizing convolutional neural networks" (2014),
    the single-column layout, with batch normalisation (Ioffe and Szegedy, 2015) in place of
    local response normalisation. Side of the square feature maps, by image size:

    ================  ========  ===  ===  ===  ===  ===  ===
    layer             channels   32   64   96  128  160  224
    ================  ========  ===  ===  ===  ===  ===  ===
    input                    1   32   64   96  128  160  224
    conv 11                 64   32   32   48   31   39   55
    max-pool 3, 2           64   15   15   23   15   19   27
    conv 5                 192   15   15   23   15   19   27
    max-pool 3, 2          192    7    7   11    7    9   13
    conv 3                 384    7    7   11    7    9   13
    conv 3                 256    7    7   11    7    9   13
    conv 3                 256    7    7   11    7    9   13
    max-pool 3, 2          256    3    3    5    3    4    6
    ================  ========  ===  ===  ===  ===  ===  ===

    The flattened maps pass dropout, 4096 units, dropout, 4096 units, and one unit per class.
    """

    def __init__(self, *, classes: int, image_size: int, dropout: float) -> None:
        super().__init__(image_size)
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
            nn.Dropout(dropout),
            nn.Linear(256 * side * side, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Linear(4096, classes),
        )
