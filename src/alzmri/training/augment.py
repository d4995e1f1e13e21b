"""The protocol's augmentation, as a pure function of seed, epoch and sample.

It shifts, zooms and rotates about the centre, with bilinear interpolation and black fill. Earlier
draws, the number of processes and resuming do not change it.
"""

from typing import Any

import albumentations as A
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from alzmri.data.prepared import Prepared
from alzmri.params import Augment


def _generator(seed: int, epoch: int) -> np.random.Generator:
    # A separate stream, because the order of slices has the same seed.
    return np.random.default_rng(np.random.SeedSequence((seed, epoch), spawn_key=(1,)))


class HostSlices:
    """Slices read from the packed file and augmented by Albumentations, one by one."""

    def __init__(self, prepared: Prepared, augment: Augment, seed: int) -> None:
        self._images = np.asarray(prepared.images)  # faster to index than a memmap
        self._seed, self._p, self._epoch = seed, augment.p, -1
        self._applied, self._seeds = np.empty(0, bool), np.empty(0, np.int64)
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

    def __call__(self, epoch: int, chosen: NDArray[np.int64]) -> Tensor:
        """uint8 ``[len(chosen), side, side]``: the slices ``chosen`` as they are in ``epoch``."""
        if epoch != self._epoch:
            # For the whole epoch at once: most slices stay the same, for which the library takes
            # longer than everything else.
            rng, self._epoch = _generator(self._seed, epoch), epoch
            self._applied = rng.random(len(self._images)) < self._p
            self._seeds = rng.integers(2**32, size=len(self._images))
        slices = self._images[chosen]
        for place in np.flatnonzero(self._applied[chosen]):
            self._transform.set_random_seed(int(self._seeds[chosen[place]]))
            slices[place] = self._transform(image=slices[place])["image"]
        return torch.from_numpy(slices)


class DeviceSlices:
    """Slices that are all kept on ``device`` and augmented there, batch by batch.

    The draws have the distribution of Albumentations', but come from another generator.
    """

    def __init__(
        self, prepared: Prepared, augment: Augment, seed: int, device: torch.device
    ) -> None:
        self._images = torch.from_numpy(np.array(prepared.images)).to(device)
        self._augment, self._seed, self._epoch = augment, seed, -1
        self._applied, self._maps = np.empty(0, bool), np.empty((0, 2, 3), np.float32)

    def __call__(self, epoch: int, chosen: NDArray[np.int64]) -> Tensor:
        """uint8 ``[len(chosen), side, side]``: the slices ``chosen`` as they are in ``epoch``."""
        if epoch != self._epoch:
            self._epoch = epoch
            self._applied, self._maps = self._draw(epoch)
        device = self._images.device
        images = self._images[sent(chosen, device)]
        places = np.flatnonzero(self._applied[chosen])
        if not len(places):
            return images
        where = sent(places, device)
        plain = images[where].unsqueeze(1).float()
        maps = sent(self._maps[chosen[places]], device)
        grid = F.affine_grid(maps, list(plain.shape), align_corners=False)
        warped = F.grid_sample(plain, grid, padding_mode="zeros", align_corners=False)
        return images.index_copy_(0, where, warped.round_().to(torch.uint8).squeeze(1))

    def _draw(self, epoch: int) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """Which slices are augmented, and the map to each pixel's source, ``[n, 2, 3]``.

        The map is affine about the centre, in units of half the side: rotation and zoom, then shift
        by whole pixels, like Albumentations' Affine. It is unset for slices that are not augmented.
        """
        side, augment, rng = self._images.shape[1], self._augment, _generator(self._seed, epoch)
        applied = rng.random(len(self._images)) < augment.p
        count = np.count_nonzero(applied)
        angle = np.deg2rad(rng.uniform(-augment.rotate, augment.rotate, count))
        zoom = rng.uniform(1 - augment.scale, 1 + augment.scale, count)
        shift = rng.uniform(-augment.shift, augment.shift, (count, 2))
        cosine, sine = np.cos(angle) / zoom, np.sin(angle) / zoom
        back = np.stack((np.stack((cosine, -sine), 1), np.stack((sine, cosine), 1)), 1)
        offset = -back @ (np.trunc(shift * side) * 2 / side)[:, :, None]
        maps = np.empty((len(applied), 2, 3), np.float32)
        maps[applied] = np.concatenate((back, offset), axis=2)
        return applied, maps


def sent(array: NDArray[Any], device: torch.device) -> Tensor:
    """Copy ``array`` to ``device`` without waiting for the GPU's queued work."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
