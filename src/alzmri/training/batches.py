"""The training slices of an epoch, shuffled and augmented, as pure functions of the seed.

The protocol shifts, zooms and rotates about the centre, with bilinear interpolation, black outside.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import albumentations as A
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from alzmri.data.prepared import Prepared
from alzmri.params import Augment, Params, Train
from alzmri.training.processes import ALONE, Processes

Read = Callable[[NDArray[np.int64]], Tensor]  # from rows to uint8 [rows, side, side], augmented


@dataclass(frozen=True)
class Batch:
    """This process's share of a batch."""

    images: Tensor  # uint8 [share, side, side]
    labels: Tensor  # their classes, int64 [share]
    slices: int  # number in the whole batch
    weight: float  # sum of their class weights in the loss


class Batches:
    """The training part of ``prepared``, cut into batches, the last one smaller.

    Order and augmentation are the same for any number n of processes: each takes every n-th slice
    of each batch. ``weights`` are the class weights of the loss.
    """

    def __init__(
        self, prepared: Prepared, params: Params, device: torch.device, processes: Processes = ALONE
    ) -> None:
        self._labels, self._indices = prepared.labels, prepared.indices("train")
        self._size, self._seed = params.train.batch_size, params.train.seed
        self._device, self.processes = device, processes
        weights = class_weights(prepared, params.train)
        self.weights, self._weight_of = weights.to(device), weights.tolist()
        images = np.asarray(prepared.images)  # faster to index than a memmap
        self._read = partial(read_on_host, images, params.augment)
        if device.type == "cuda" and images.nbytes < torch.cuda.mem_get_info()[0] / 2:
            there = torch.from_numpy(np.array(images)).to(device)
            self._read = partial(read_on_device, there, params.augment)

    def __len__(self) -> int:
        return -(-len(self._indices) // self._size)

    def before(self, epoch: int, steps: int) -> int:
        """The number of the run's steps when ``steps`` of ``epoch`` are done."""
        return (epoch - 1) * len(self) + steps

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """The batches of ``epoch`` without the first ``first``."""
        order = np.random.default_rng((self._seed, epoch)).permutation(self._indices)
        # A separate stream, because the order has the same seed.
        stream = np.random.SeedSequence((self._seed, epoch), spawn_key=(1,))
        read = self._read(np.random.default_rng(stream))
        for start in range(first * self._size, len(order), self._size):
            whole = order[start:][: self._size]
            mine = self.processes.share(whole)
            labels = self._labels[mine]
            if not len(mine):
                # More processes than slices: this one takes part with a label without loss.
                mine, labels = whole[:1], np.array([-100])
            images = read(mine).to(self._device)
            weight = sum(self._weight_of[label] for label in self._labels[whole])
            yield Batch(images, _sent(labels, self._device), len(whole), weight)


def class_weights(prepared: Prepared, settings: Train) -> Tensor:
    """Class weights of the loss, float32 ``[classes]``: all 1, or lower for frequent classes.

    ``balanced`` is inversely proportional to the frequency; ``sqrt`` is the root of that, so that
    the few subjects of a rare class do not dominate the loss. A class without training slices
    then has weight 0, or label smoothing would favour it.
    """
    labels = prepared.labels[prepared.indices("train")]
    counts = np.bincount(labels, minlength=len(prepared.classes))
    if settings.class_weights == "none":
        return torch.ones(len(counts))
    weights = len(labels) / np.count_nonzero(counts) / np.maximum(counts, 1)
    if settings.class_weights == "sqrt":
        weights = np.sqrt(weights)
    return torch.tensor(np.where(counts > 0, weights, 0), dtype=torch.float32)


def read_on_host(images: NDArray[np.uint8], augment: Augment, rng: np.random.Generator) -> Read:
    """Read an epoch's slices from the packed file; Albumentations augments them one by one.

    ``rng`` draws for the whole epoch, because Albumentations is slow where nothing changes.
    """
    affine = A.Affine(
        scale=(1 - augment.scale, 1 + augment.scale),
        keep_ratio=True,
        translate_percent=dict.fromkeys("xy", (-augment.shift, augment.shift)),
        rotate=(-augment.rotate, augment.rotate),
        fill=0,
        p=1,
    )
    transform = A.Compose([affine])
    applied = rng.random(len(images)) < augment.p
    seeds = rng.integers(2**32, size=len(images))

    def read(chosen: NDArray[np.int64]) -> Tensor:
        slices = images[chosen]
        for place in np.flatnonzero(applied[chosen]):
            transform.set_random_seed(int(seeds[chosen[place]]))
            slices[place] = transform(image=slices[place])["image"]
        return torch.from_numpy(slices)

    return read


def read_on_device(images: Tensor, augment: Augment, rng: np.random.Generator) -> Read:
    """Read an epoch's slices, all kept on a device as uint8, and augment them there by batches.

    The draws of ``rng`` have the distribution of Albumentations', which has its own generator.
    """
    side, device = images.shape[1], images.device
    applied = rng.random(len(images)) < augment.p
    count = np.count_nonzero(applied)
    angle = np.deg2rad(rng.uniform(-augment.rotate, augment.rotate, count))
    zoom = rng.uniform(1 - augment.scale, 1 + augment.scale, count)
    shift = rng.uniform(-augment.shift, augment.shift, (count, 2))
    # The affine map to each pixel's source about the centre, in units of half the side: rotation
    # and zoom, then shift by whole pixels, like Albumentations' Affine.
    cosine, sine = np.cos(angle) / zoom, np.sin(angle) / zoom
    back = np.stack((np.stack((cosine, -sine), 1), np.stack((sine, cosine), 1)), 1)
    offset = -back @ (np.trunc(shift * side) * 2 / side)[:, :, None]
    maps = np.empty((len(images), 2, 3), np.float32)
    maps[applied] = np.concatenate((back, offset), axis=2)

    def read(chosen: NDArray[np.int64]) -> Tensor:
        slices = images[_sent(chosen, device)]
        places = np.flatnonzero(applied[chosen])
        if len(places):
            where, theirs = _sent(places, device), _sent(maps[chosen[places]], device)
            plain = slices[where].unsqueeze(1).float()
            grid = F.affine_grid(theirs, list(plain.shape), align_corners=False)
            warped = F.grid_sample(plain, grid, padding_mode="zeros", align_corners=False)
            slices.index_copy_(0, where, warped.round_().to(torch.uint8).squeeze(1))
        return slices

    return read


def _sent(array: NDArray[Any], device: torch.device) -> Tensor:
    """Copy ``array`` to ``device`` without waiting for the GPU's queued work."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
