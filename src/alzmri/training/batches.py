"""The training slices of an epoch, shuffled and augmented, as pure functions of the seed."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alzmri.data.prepared import Prepared
from alzmri.params import Params
from alzmri.training.processes import ALONE, Processes
from alzmri.training.slices import DeviceSlices, HostSlices

NO_CLASS = -100
"""What ``cross_entropy`` passes over."""


@dataclass(frozen=True)
class Batch:
    """What this process has of a batch.

    Attributes:
        images: uint8 ``[share, side, side]``.
        labels: their classes, int64 ``[share]``.
        all_labels: the classes of the whole batch, int64 ``[batch]``.
    """

    images: Tensor
    labels: Tensor
    all_labels: NDArray[np.int64]


class Batches:
    """The training part of ``prepared``, cut into batches, the last one smaller.

    Order and augmentation are the same for any number of processes: each takes every so many-th
    slice of each batch.
    """

    def __init__(
        self,
        prepared: Prepared,
        params: Params,
        device: torch.device,
        processes: Processes = ALONE,
    ) -> None:
        self._labels = prepared.labels
        self._indices = prepared.indices("train")
        self._size, self._seed = params.train.batch_size, params.train.seed
        self._device, self.processes = device, processes
        self._slices = (
            DeviceSlices(prepared, params.augment, self._seed, device)
            if device.type == "cuda" and prepared.images.nbytes < torch.cuda.mem_get_info()[0] / 2
            else HostSlices(prepared, params.augment, self._seed)
        )

    def __len__(self) -> int:
        return -(-len(self._indices) // self._size)

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """The batches of ``epoch`` without the first ``first``."""
        order = np.random.default_rng((self._seed, epoch)).permutation(self._indices)
        for start in range(first * self._size, len(order), self._size):
            whole = order[start : start + self._size]
            mine = self.processes.share(whole)
            labels = self._labels[mine]
            if not len(mine):
                # More processes than slices: this one keeps step with a slice of no loss.
                mine, labels = whole[:1], np.array([NO_CLASS])
            yield Batch(
                self._slices(epoch, mine).to(self._device),
                torch.from_numpy(labels).to(self._device),
                self._labels[whole],
            )
