"""From an image to the model's input, as the model's own card says: exactly that of training."""

from dataclasses import dataclass
from typing import Literal

from alzmri.data import images
from alzmri.data.images import Pixels
from alzmri.errors import UserError
from alzmri.models.forward import MEAN, STD
from alzmri.models.saved import Card


@dataclass(frozen=True)
class Preprocessing:
    """How a slice becomes what the model sees.

    Attributes:
        fit: of :func:`alzmri.data.images.fit`.
        image_size: pixels a side.
    """

    fit: Literal["pad", "stretch"]
    image_size: int

    @classmethod
    def of(cls, card: Card) -> "Preprocessing":
        """What ``card`` says.

        Raises:
            UserError: when this version of the program cannot do it.
        """
        said = dict(card.preprocessing)
        fit = said.pop("fit", None)
        if fit not in ("pad", "stretch") or said != {"channels": 1, "mean": MEAN, "std": STD}:
            raise UserError(
                f"the model was trained with another preprocessing ({card.preprocessing}) than this"
                " version of alzmri has: use the version in its model.json"
            )
        return cls(fit, card.architecture["image_size"])

    def __call__(self, pixels: Pixels) -> Pixels:
        """uint8 ``[image_size, image_size]`` of uint8 ``[height, width]``."""
        return images.fit(pixels, self.image_size, self.fit)
