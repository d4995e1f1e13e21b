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
"""What ``cross_entropy`` passes over."""


@dataclass(frozen=True)
class Batch:
    """What this process has of a batch."""

    images: Tensor  # uint8 [share, side, side]
    labels: Tensor  # their classes, int64 [share]
    slices: int  # in the whole batch
    weight: float  # of all their classes together, in the loss


class Batches:
    """The training part of ``prepared``, cut into batches, the last one smaller.

    Order and augmentation are the same for any number of processes: each takes every so many-th
    slice of each batch.

    Attributes:
        weights: of the classes in the loss, see :func:`class_weights`.
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
        """The steps of the run until ``steps`` of ``epoch`` are done."""
        return (epoch - 1) * len(self) + steps

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """The batches of ``epoch`` without the first ``first``."""
        order = np.random.default_rng((self._seed, epoch)).permutation(self._indices)
        for start in range(first * self._size, len(order), self._size):
            whole = order[start:][: self._size]
            mine = self.processes.share(whole)
            labels = self._labels[mine]
            if not len(mine):
                # More processes than slices: this one keeps step with a slice of no loss.
                mine, labels = whole[:1], np.array([NO_CLASS])
            images = self._slices(epoch, mine).to(self._device)
            weight = sum(self._weight_of[label] for label in self._labels[whole])
            yield Batch(images, sent(labels, self._device), len(whole), weight)


def class_weights(prepared: Prepared, settings: Train) -> Tensor:
    """Of the loss, float32 ``[classes]``: all 1, or falling with the frequency of the class.

    ``balanced`` is inversely proportional to it; ``sqrt`` is the square root of that, for when
    a class is so rare that full balance lets its few subjects dominate the loss. A class without a
    training slice then has weight 0, or label smoothing would favour it.
    """
    labels = prepared.labels[prepared.indices("train")]
    counts = np.bincount(labels, minlength=len(prepared.classes))
    if settings.class_weights == "none":
        return torch.ones(len(counts))
    weights = len(labels) / np.count_nonzero(counts) / np.maximum(counts, 1)
    if settings.class_weights == "sqrt":
        weights = np.sqrt(weights)
    return torch.tensor(np.where(counts > 0, weights, 0), dtype=torch.float32)
