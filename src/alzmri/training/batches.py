"""The training slices of an epoch, shuffled and augmented, as pure functions of the seed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alzmri.data.prepared import Prepared
from alzmri.params import Params
from alzmri.training.processes import ALONE, Processes
from alzmri.training.slices import DeviceSlices, HostSlices, sent

NO_CLASS = -100
"""What ``cross_entropy`` passes over."""

AT_ONCE = 2**26
"""Pixels that a GPU augments in one go: small kernels take longer to start than to run."""


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
        self._slices: DeviceSlices | HostSlices
        if device.type == "cuda" and prepared.images.nbytes < torch.cuda.mem_get_info()[0] / 2:
            self._slices = DeviceSlices(prepared, params.augment, self._seed, device)
            self._at_once = max(1, AT_ONCE // (self._size * prepared.images[0].size))
        else:
            self._slices = HostSlices(prepared, params.augment, self._seed)
            self._at_once = 1
        self._begun: tuple[int | None, Iterator[list[Batch]]] = None, iter(())

    def __len__(self) -> int:
        return -(-len(self._indices) // self._size)

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """The batches of ``epoch`` without the first ``first``."""
        begun, blocks = self._begun
        self._begun = None, iter(())
        if begun != epoch or first:
            blocks = self._blocks(epoch, first)
        yield from chain.from_iterable(blocks)
        # A GPU has still steps to do: what the next epoch begins with does not keep it waiting.
        following = self._blocks(epoch + 1)
        self._begun = epoch + 1, chain([next(following)], following)

    def _blocks(self, epoch: int, first: int = 0) -> Iterator[list[Batch]]:
        """The same, as many at a time as are augmented in one go."""
        order = np.random.default_rng((self._seed, epoch)).permutation(self._indices)
        starts = range(first * self._size, len(order), self._size)
        for block in range(0, len(starts), self._at_once):
            wholes = [order[start:][: self._size] for start in starts[block:][: self._at_once]]
            yield list(self._augmented(epoch, wholes))

    def _augmented(self, epoch: int, wholes: Sequence[NDArray[np.int64]]) -> Iterator[Batch]:
        """The batches of the slices ``wholes``."""
        shares = [self.processes.share(whole) for whole in wholes]
        labels = [self._labels[mine] for mine in shares]
        for place, whole in enumerate(wholes):
            if not len(shares[place]):
                # More processes than slices: this one keeps step with a slice of no loss.
                shares[place], labels[place] = whole[:1], np.array([NO_CLASS])
        sizes = [len(mine) for mine in shares]
        images = self._slices(epoch, np.concatenate(shares)).to(self._device).split(sizes)
        targets = sent(np.concatenate(labels), self._device).split(sizes)
        for mine, target, whole in zip(images, targets, wholes, strict=True):
            yield Batch(mine, target, self._labels[whole])
