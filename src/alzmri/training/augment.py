"""The protocol's augmentation, as a pure function of seed, epoch and sample."""

import albumentations as A
import numpy as np
from numpy.typing import NDArray

from alzmri.params import Augment


class Augmenter:
    """Shift, zoom and rotate about the centre, with bilinear interpolation and black fill.

    The same (seed, epoch, sample) always gives the same image, whatever was drawn before: the
    number of workers, processes or resumes leaves no trace.

    Args:
        augment: how far and how often.
        seed: of all that is drawn.
        samples: there are so many, numbered from 0.
    """

    def __init__(self, augment: Augment, seed: int, samples: int) -> None:
        self._seed, self._samples, self._p = seed, samples, augment.p
        self._epoch = -1
        self._applied: NDArray[np.bool_]
        self._seeds: NDArray[np.int64]
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
        if epoch != self._epoch:
            self._draw(epoch)
        if not self._applied[sample]:
            return image
        self._transform.set_random_seed(int(self._seeds[sample]))
        augmented: NDArray[np.uint8] = self._transform(image=image)["image"]
        return augmented

    def _draw(self, epoch: int) -> None:
        """Which slices are augmented, for the whole epoch at once: the library would take longer
        to leave a slice as it is than all else takes, and most slices stay as they are.
        """
        # A stream of its own beside that of the order, which has the same seed.
        rng = np.random.default_rng(np.random.SeedSequence((self._seed, epoch), spawn_key=(1,)))
        self._epoch = epoch
        self._applied = rng.random(self._samples) < self._p
        self._seeds = rng.integers(2**32, size=self._samples)
