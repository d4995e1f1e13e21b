"""LeNet-5, the older and far smaller baseline."""

from torch import nn

from alzmri.models.network import Network


class LeNet(Network):
    """Two blocks of convolution and pooling, then three linear layers.

    After LeCun et al., "Gradient-based learning applied to document recognition" (1998), with
    max-pooling and ReLU as is usual today. Side of the square feature maps, by image size:

    ================  ========  ===  ===  ===  ===  ===  ===
    layer             channels   32   64   96  128  160  224
    ================  ========  ===  ===  ===  ===  ===  ===
    input                    1   32   64   96  128  160  224
    conv 5                   6   28   60   92  124  156  220
    max-pool 2, 2            6   14   30   46   62   78  110
    conv 5                  16   10   26   42   58   74  106
    max-pool 2, 2           16    5   13   21   29   37   53
    ================  ========  ===  ===  ===  ===  ===  ===

    The flattened maps pass 120 units, dropout, 84 units, dropout, and one unit per class.
    """

    def __init__(self, *, classes: int, image_size: int, dropout: float) -> None:
        super().__init__(image_size)
        self.features = nn.Sequential(
            nn.Conv2d(1, 6, 5),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
        )
        side = ((image_size - 4) // 2 - 4) // 2
        self.classifier = nn.Sequential(
            nn.Linear(16 * side * side, 120),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(120, 84),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(84, classes),
        )
