"""Processes of ``torchrun`` that train one model together, and signals to stop."""

import copy
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from alzmri.errors import EnvironmentFault

T = TypeVar("T")
Stop = Callable[[], int]  # gives the first signal to stop, 0 before
PATIENCE = timedelta(minutes=10)  # for a process on another host that ends without a word


@dataclass(frozen=True)
class Processes:
    """This process, number ``rank`` of ``size``; by default the only one."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process is the one that uses checkpoints, writes files and prints."""
        return self.rank == 0

    def share(self, items: NDArray[np.int64]) -> NDArray[np.int64]:
        """This process's share: every ``size``-th of ``items``."""
        return items[self.rank :: self.size]

    def gather(self, mine: NDArray[np.float64]) -> NDArray[np.float64]:
        """The rows of all processes, in the order of the items before :meth:`share`."""
        parts = self.of_each(mine)
        rows = np.empty((sum(map(len, parts)), *mine.shape[1:]))
        for rank, part in enumerate(parts):
            rows[rank :: self.size] = part
        return rows

    def sum(self, tensor: Tensor) -> Tensor:
        """A copy of ``tensor``, summed over all processes."""
        total = tensor.clone()
        if self.size > 1:
            dist.all_reduce(total)
        return total

    def of_first(self, value: T) -> T:
        """The first process's ``value``."""
        held = [value]
        if self.size > 1:
            dist.broadcast_object_list(held)
        return held[0]

    def of_each(self, value: T) -> list[T]:
        """The ``value`` of each process."""
        held = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(held, value)
        return held


ALONE = Processes()


def in_step(model: nn.Module, device: torch.device) -> nn.Module:
    """Wrap ``model`` so that the backward pass averages gradients over all processes.

    On GPUs, batch normalisation uses the batch of all processes. On CPUs, for which SyncBatchNorm
    has no kernels, each process normalises its own share.
    """
    if device.type == "cuda":
        # In a copy of the layers, because each process validates with the model alone.
        shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
        model = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model, shared))
    # Without synchronising running statistics, which validation estimates anew.
    return DistributedDataParallel(model, forward_sync_buffers=False, gradient_as_bucket_view=True)


@contextmanager
def joined(device: torch.device) -> Iterator[Processes]:
    """Join the processes that ``torchrun`` started together with this one, if any.

    Raises:
        EnvironmentFault: another process ended, or cannot be reached.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    try:
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=PATIENCE)
        yield Processes(dist.get_rank(), dist.get_world_size())
        dist.destroy_process_group()
    except RuntimeError as error:
        # The connections of a process close when it ends; gloo has no error type of its own.
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise EnvironmentFault(
            "another process of this training ended or cannot be reached"
            f" ({str(error).splitlines()[0]}): see its message; start all again, and training"
            " continues from the last checkpoint"
        ) from error


@contextmanager
def noting_stops(*, insist: bool) -> Iterator[Stop]:
    """Note signals to stop, for the function that this yields; a second one stops at once.

    With ``insist``, it ignores the second one, because ``torchrun`` repeats signals that the
    terminal has already sent to its processes, and kills them if they take too long.
    """
    wanted: int = 0

    def note(number: int, _: FrameType | None) -> None:
        nonlocal wanted
        if wanted and not insist:
            leave(number)
        wanted = wanted or number

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {n: signal.signal(n, note) for n in numbers if signal.getsignal(n) != signal.SIG_IGN}
    try:
        yield lambda: wanted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave(number: int) -> None:
    """End the program with the exit status of signal ``number``; 0: another process got one."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + (number or signal.SIGTERM))
