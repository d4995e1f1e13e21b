"""The training slices of an epoch, shuffled and augmented, as pure functions of the seed."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alzmri.data.augment import Augmenter
from alzmri.data.prepared import Prepared


class Batches:
    """The training part of ``prepared``, cut into batches of ``size``, the last one smaller."""

    def __init__(self, prepared: Prepared, augment: Augmenter, size: int, seed: int) -> None:
        self._prepared = prepared
        self._indices = prepared.indices("train")
        self._augment = augment
        self._size = size
        self._seed = seed

    def __len__(self) -> int:
        return -(-len(self._indices) // self._size)

    def epoch(self, epoch: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Images (uint8 ``[batch, side, side]``) and classes (int64 ``[batch]``).

        The first ``first`` batches of ``epoch`` are left out.
        """
        order = np.random.default_rng((self._seed, epoch)).permutation(self._indices)
        for start in range(first * self._size, len(order), self._size):
            chosen = order[start : start + self._size]
            images = np.stack([self._image(epoch, index) for index in chosen])
            yield torch.from_numpy(images), torch.from_numpy(self._prepared.labels[chosen])

    def _image(self, epoch: int, index: int) -> NDArray[np.uint8]:
        return self._augment(np.asarray(self._prepared.images[index]), epoch, int(index))
