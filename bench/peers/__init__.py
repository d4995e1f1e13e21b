"""What a user would pick instead: the same AlexNet on the same files, and ours beside them.

Each module is one contender with a function ``run(setting, gate)`` that trains until it is stopped.
It is set up as its own tutorials do; where ``setting.careful``, as a careful user would.
"""

import time
from dataclasses import dataclass
from functools import cached_property
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import nn

from alzmri.classes import CLASSES
from alzmri.models import build


@dataclass(frozen=True)
class Setting:
    """What all contenders are given.

    Attributes:
        folder: holds ``files`` (JPEGs in class folders, of the size trained on) and
            ``data/prepared`` (the same images, packed).
        workers: loading processes where the contender has them.
        careful: use channels-last, a fused optimiser and processes that outlive the epoch.
        precision: of ours; the others compute in fp32.
    """

    folder: Path
    image_size: int
    batch_size: int
    threads: int
    workers: int = 0
    careful: bool = False
    precision: str = "fp32"

    @cached_property
    def files(self) -> list[Path]:
        return sorted((self.folder / "files").glob("*/*.jpg"))

    @cached_property
    def labels(self) -> list[int]:
        classes = sorted({path.parent.name for path in self.files})
        return [classes.index(path.parent.name) for path in self.files]

    @property
    def device(self) -> torch.device:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def model(self) -> nn.Module:
        """Our AlexNet, so that all compute the same."""
        model = build("alexnet", classes=len(CLASSES), image_size=self.image_size, dropout=0.5)
        if self.careful:
            model.to(memory_format=torch.channels_last)
        return model.to(self.device)

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """The protocol's."""
        return torch.optim.SGD(
            model.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4, fused=self.careful
        )


class Gate:
    """Lets the driver decide when a contender trains an epoch, whoever owns the loop.

    The clock runs from the step by which every loading process has delivered a batch to the end of
    the last: what an epoch costs to start, a second or more with loading processes, would weigh too
    much in epochs this short, and so would the batches that wait when they have started.
    """

    def __init__(self, driver: Connection, setting: Setting) -> None:
        self._driver, self._setting = driver, setting
        self._steps = len(setting.files) // setting.batch_size
        self._first = min(max(setting.workers, 1), self._steps - 1)
        self._done, self._begin = 0, 0.0
        self._ready = False

    def epoch(self) -> None:
        """Before an epoch: wait for the driver. Ends the process when the driver has enough."""
        if not self._ready:
            self._ready = True
            self._driver.send(None)
        try:
            self._driver.recv()
        except EOFError:
            raise SystemExit from None
        self._done = 0

    def step(self) -> None:
        """After each step."""
        self._done += 1
        if self._done in (self._first, self._steps):
            if self._setting.device.type == "cuda":
                torch.cuda.synchronize()
            now = time.perf_counter()
            if self._done == self._first:
                self._begin = now
            else:
                images = (self._steps - self._first) * self._setting.batch_size
                self._driver.send(images / (now - self._begin))
