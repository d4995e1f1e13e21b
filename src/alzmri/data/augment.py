"""The protocol's augmentation, as a pure function of seed, epoch and sample."""

import os

import numpy as np
from numpy.typing import NDArray

from alzmri.params import Augment

# Albumentations asks the network for a newer version at import.
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import albumentations as A


class Augmenter:
    """Shift, zoom and rotate about the centre, with bilinear interpolation and black fill.

    The same (seed, epoch, sample) always gives the same image, whatever was drawn before: the
    number of workers, processes or resumes leaves no trace.
    """

    def __init__(self, augment: Augment, seed: int) -> None:
        self._seed, self._p = seed, augment.p
        self._transform = A.Compose(
            [
                A.Affine(
                    scale=(1 - augment.scale, 1 + augment.scale),
                    keep_ratio=True,
                    translate_percent=dict.fromkeys("xy", (-augment.shift, augment.shift)),
                    rotate=(-augment.rotate, augment.rotate),
                    fill=0,
                    p=1,
                )
            ]
        )

    def __call__(self, image: NDArray[np.uint8], epoch: int, sample: int) -> NDArray[np.uint8]:
        """``image`` (uint8, H×W) as sample number ``sample`` appears in ``epoch``."""
        seed, draw = np.random.SeedSequence((self._seed, epoch, sample)).generate_state(2)
        # Drawn here: most slices stay as they are, and a call of the library costs ten times this.
        if draw >= self._p * 2**32:
            return image
        self._transform.set_random_seed(int(seed))
        augmented: NDArray[np.uint8] = self._transform(image=image)["image"]
        return augmented
