"""Our training as the benches run it, and the data that it runs on."""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from alzmri.data.packing import pack
from alzmri.data.prepared import PREPARED, Prepared, write_manifest
from alzmri.errors import EnvironmentFault
from alzmri.models.forward import choose, normalise
from alzmri.params import PARAMS_FILE, Params, load, validated
from alzmri.phantom.simulate import generate
from alzmri.training.batches import Batches
from alzmri.training.loop import TrainingState, step

ROOT = Path(__file__).parent.parent
THREADS = len(os.sched_getaffinity(0))


def params(image_size: int, batch_size: int, precision: str, epochs: int = 100) -> Params:
    """The committed parameters, with these values; 100 epochs are the protocol's."""
    return changed(
        {
            "data": {"image_size": image_size},
            "train": {"batch_size": batch_size, "precision": precision, "epochs": epochs},
            "track": {"mode": "disabled"},
            "compute": {"portable": False, "threads": 0},
        }
    )


def changed(changes: dict[str, dict[str, object]]) -> Params:
    """The committed parameters with ``changes``, by section."""
    content = load(ROOT / PARAMS_FILE).model_dump()
    for section, values in changes.items():
        content[section].update(values)
    return validated(Params, content, "bench")


def draw(folder: Path) -> None:
    """Simulate 640 slices, the same bytes everywhere."""
    generate(folder, subjects=20, slices=8, seed=20, difficulty=0.12)


def packed(source: Path, folder: Path, settings: Params) -> Prepared:
    """Make ``folder`` a place for stages to run in: ``params.yaml`` and ``data/prepared``."""
    directory = folder / PREPARED
    directory.mkdir(parents=True)
    (folder / PARAMS_FILE).write_text(settings.model_dump_json(indent=1))  # JSON is YAML
    pack(source, directory, settings, folder / "subjects.png")
    return Prepared.open(settings, directory)


def prepare(
    source: Path, folder: Path, settings: Params, images: int, validation: int = 32
) -> None:
    """``packed``, repeated to so many slices, so that an epoch is a whole number of batches."""
    found = packed(source, folder, settings)
    order = np.random.default_rng(0).permutation(len(found.rows))
    chosen = np.resize(order, images + validation)
    rows = [
        replace(found.rows[old], index=new, split="train" if new < images else "val")
        for new, old in enumerate(chosen)
    ]
    np.save(folder / PREPARED / "images.npy", found.images[chosen])
    write_manifest(folder / PREPARED / "manifest.csv", rows)


class Training:
    """A run on ``folder/data/prepared``, set up as ``src/train.py`` does."""

    def __init__(self, folder: Path, image_size: int, batch_size: int, precision: str) -> None:
        torch.set_num_threads(THREADS)
        settings, device = params(image_size, batch_size, precision), choose()
        prepared = Prepared.open(settings, folder / PREPARED)
        self._train, self._batches = settings.train, Batches(prepared, settings, device)
        self.run = TrainingState.start(prepared, settings, device)
        self.run.epoch = 0
        self.images = len(prepared.indices("train"))
        chosen = prepared.indices("train")[:batch_size]
        self._fixed = (
            normalise(torch.from_numpy(prepared.images[chosen]).to(device)),
            torch.from_numpy(prepared.labels[chosen]).to(device),
        )

    def epoch(self) -> Iterator[None]:
        """The steps of one more epoch."""
        self.run.epoch, self.run.steps = self.run.epoch + 1, 0
        self.run.replica.train()
        for batch in self._batches.epoch(self.run.epoch):
            yield step(self.run, batch, self._batches, self._train)

    def bare_steps(self, count: int) -> Iterator[None]:
        """``count`` times the step without anything around it, on one batch that is in memory."""
        images, labels = self._fixed
        self.run.replica.train()
        for _ in range(count):
            with self.run.precision:
                logits = self.run.replica(images)
            loss = F.cross_entropy(logits.float(), labels, self._batches.weights)
            self.run.optimizer.zero_grad()
            loss.backward()
            yield self.run.optimizer.step()

    def timed(self, steps: Iterator[None]) -> float:
        """Seconds that ``steps`` take."""
        synchronize()
        begin = time.perf_counter()
        for _ in steps:
            pass
        synchronize()
        return time.perf_counter() - begin

    def alternating(self, steps: int) -> tuple[float, float]:
        """Seconds that ``steps`` bare steps take, and an epoch of as many.

        On a CPU they take turns after each: a shared machine changes its speed while an epoch runs.
        A GPU would have to be waited for after each, which hides none of the next step's start:
        there they take one turn each.
        """
        alone = in_epoch = 0.0
        epoch = self.epoch()
        at_once = steps if torch.cuda.is_available() else 1
        for done in range(0, steps, at_once):
            alone += self.timed(self.bare_steps(at_once))
            last = done + at_once >= steps  # with what follows the last step
            in_epoch += self.timed(epoch if last else islice(epoch, at_once))
        return alone, in_epoch


def synchronize() -> None:
    """Wait for what a GPU has still to do."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def run_stage(name: str, folder: Path) -> None:
    """Run a stage of the pipeline in ``folder``."""
    run((sys.executable, str(ROOT / f"src/{name}.py")), folder)


def run(command: Sequence[str], folder: Path, **environment: str) -> None:
    """Run ``command`` in ``folder``.

    Raises:
        EnvironmentFault: it failed; with what it printed.
    """
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise EnvironmentFault(f"{shlex.join(command)} failed:\n{done.stdout}")
