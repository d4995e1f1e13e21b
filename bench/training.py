"""Our training as the benches run it: the only place here that calls the package's loop."""

import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F

from alzmri.data.prepared import PREPARED, Prepared
from alzmri.models.device import choose
from alzmri.models.forward import normalise
from alzmri.params import PARAMS_FILE, Params, check, load
from alzmri.training.batches import Batches
from alzmri.training.loop import Run, step

ROOT = Path(__file__).parent.parent


def params(image_size: int, batch_size: int, precision: str) -> Params:
    """The committed parameters, with these values and the protocol's 100 epochs."""
    content = load(ROOT / PARAMS_FILE).model_dump()
    content["data"]["image_size"] = image_size
    content["train"] |= {"batch_size": batch_size, "precision": precision, "epochs": 100}
    content["track"]["mode"] = "disabled"
    content["compute"] |= {"portable": False, "threads": 0}
    return check(content, "bench")


class Training:
    """A run on ``folder/data/prepared``, set up as ``src/train.py`` does."""

    def __init__(self, folder: Path, image_size: int, batch_size: int, precision: str) -> None:
        settings = params(image_size, batch_size, precision)
        self.device = choose()
        prepared = Prepared.open(settings, folder / PREPARED)
        self._train = settings.train
        self._batches = Batches(prepared, settings, self.device)
        self.run = Run.start(prepared, settings, self.device)
        self.run.epoch = 0
        self.images = len(prepared.indices("train"))
        chosen = prepared.indices("train")[:batch_size]
        self._fixed = (
            normalise(torch.from_numpy(prepared.images[chosen]).to(self.device)),
            torch.from_numpy(prepared.labels[chosen]).to(self.device),
        )

    def epoch(self) -> Iterator[None]:
        """The steps of one more epoch."""
        self.run.epoch, self.run.steps = self.run.epoch + 1, 0
        self.run.replica.train()
        for batch in self._batches.epoch(self.run.epoch):
            yield step(self.run, batch, self._batches, self._train)

    def bare_step(self) -> None:
        """The same step without anything around it, on one batch that is in memory."""
        images, labels = self._fixed
        with self.run.precision:
            logits = self.run.replica(images)
        loss = F.cross_entropy(logits.float(), labels, self._batches.weights)
        self.run.optimizer.zero_grad()
        loss.backward()
        self.run.optimizer.step()

    def timed(self, steps: Iterator[object]) -> float:
        """Seconds that ``steps`` take."""
        self._synchronize()
        begin = time.perf_counter()
        for _ in steps:
            pass
        self._synchronize()
        return time.perf_counter() - begin

    def bare_steps(self, count: int) -> Iterator[None]:
        """``count`` bare steps, one at a time."""
        self.run.replica.train()
        for _ in range(count):
            yield self.bare_step()

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
