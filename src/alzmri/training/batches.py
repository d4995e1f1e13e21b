"""The training slices of an epoch, shuffled and augmented, as pure functions of the seed."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from alzmri.data.prepared import Prepared
from alzmri.params import Params, Train
from alzmri.training.augment import DeviceSlices, HostSlices, sent
from alzmri.training.processes import ALONE, Processes

NO_CLASS = -100
"""The label that ``cross_entropy`` ignores."""


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
    of each batch.

    Attributes:
        weights: class weights of the loss, see :func:`class_weights`.
    """

    def __init__(
        self, prepared: Prepared, params: Params, device: torch.device, processes: Processes = ALONE
    ) -> None:
        self._labels = prepared.labels
        self._indices = prepared.indices("train")
        self._size, self._seed = params.train.batch_size, params.train.seed
        self._device, self.processes = device, processes
        weights = class_weights(prepared, params.train)
        self.weights, self._weight_of = weights.to(device), weights.tolist()
        self._slices: DeviceSlices | HostSlices
        if device.type == "cuda" and prepared.images.nbytes < torch.cuda.mem_get_info()[0] / 2:
            self._slices = DeviceSlices(prepared, params.augment, self._seed, device)
        else:
            self._slices = HostSlices(prepared, params.augment, self._seed)

    def __len__(self) -> int:
        return -(-len(self._indices) // self._size)

    def before(self, epoch: int, steps: int) -> int:
        """The number of the run's steps when ``steps`` of ``epoch`` are done."""
        return (epoch - 1) * len(self) + steps

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """The batches of ``epoch`` without the first ``first``."""
        order = np.random.default_rng((self._seed, epoch)).permutation(self._indices)
        for start in range(first * self._size, len(order), self._size):
            whole = order[start:][: self._size]
            mine = self.processes.share(whole)
            labels = self._labels[mine]
            if not len(mine):
                # More processes than slices: this one takes part with a slice without loss.
                mine, labels = whole[:1], np.array([NO_CLASS])
            images = self._slices(epoch, mine).to(self._device)
            weight = sum(self._weight_of[label] for label in self._labels[whole])
            yield Batch(images, sent(labels, self._device), len(whole), weight)


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
