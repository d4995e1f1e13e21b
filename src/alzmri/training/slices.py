"""Augmented training slices, in the computer's memory or on the GPU."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from alzmri.data.prepared import Prepared
from alzmri.params import Augment
from alzmri.training.augment import Augmenter


class HostSlices:
    """Read from the packed file and augmented by Albumentations, one by one."""

    def __init__(self, prepared: Prepared, augment: Augment, seed: int) -> None:
        self._images = np.asarray(prepared.images)  # indexing a memmap itself takes far longer
        self._augment = Augmenter(augment, seed, len(self._images))

    def __call__(self, epoch: int, chosen: NDArray[np.int64]) -> Tensor:
        """uint8 ``[len(chosen), side, side]``: the slices ``chosen`` as they are in ``epoch``."""
        slices = [self._augment(self._images[i], epoch, int(i)) for i in chosen]
        return torch.from_numpy(np.stack(slices))


class DeviceSlices:
    """All kept on ``device`` and augmented there, a batch at a time.

    What is drawn has the distribution of Albumentations' draws, from another generator; a slice is
    a pure function of (seed, epoch, sample) here too.
    """

    def __init__(
        self, prepared: Prepared, augment: Augment, seed: int, device: torch.device
    ) -> None:
        self._images = torch.from_numpy(np.array(prepared.images)).to(device)
        self._augment, self._seed = augment, seed
        self._epoch = -1
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
        """Which slices are augmented, and where each pixel comes from, ``[n, 2, 3]``.

        An affine map about the centre, in units of half the side: turn and zoom, then shift, as
        Albumentations' Affine composes them, which also cuts shifts to whole pixels. The maps of
        slices that are not augmented are left unset.
        """
        side = self._images.shape[1]
        # A stream of its own beside that of the order, which has the same seed.
        rng = np.random.default_rng(np.random.SeedSequence((self._seed, epoch), spawn_key=(1,)))
        augment = self._augment
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
    """``array`` on ``device``, without waiting for what a GPU has still to do."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
