"""What checkpoints cost a training at the protocol's size: AlexNet, 224 pixels, 58 million weights.

    python bench/checkpoints.py [FOLDER]

Training waits while the state is copied (``copy``) and handed over (``save``); ``write`` goes on
behind its back until the file is whole on the disk, and takes ``CPU of it`` from the cores. A step
of 32 slices is timed alone and while a checkpoint is being written. All are medians. The peak is
the process's, less what it held before the first checkpoint.
"""

import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

from alzmri import params
from alzmri.models import build
from alzmri.training.checkpoints import Checkpoints
from alzmri.training.loop import Run

REPEATS = 5
STEPS = 2
BATCH = 32
SIDE = 224


def main() -> None:
    settings = params.load(Path(__file__).parents[1] / "params.yaml").train
    torch.manual_seed(0)
    model = build("alexnet", classes=4, image_size=SIDE, dropout=0.5)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(model.parameters(), lr=settings.lr, momentum=0.9, fused=True)
    run = Run(model, None, optimizer, loss=torch.zeros(()))
    images, labels = torch.rand(BATCH, 1, SIDE, SIDE), torch.arange(BATCH) % 4

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    step()  # fills the optimiser's state
    run.best_weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    before = _peak()
    took: dict[str, list[float]] = {}

    def timed(name: str, work: Callable[[], object]) -> None:
        clock = time.perf_counter()
        work()
        took.setdefault(name, []).append(time.perf_counter() - clock)

    with tempfile.TemporaryDirectory(dir=sys.argv[1] if sys.argv[1:] else None) as folder:
        checkpoints = Checkpoints(folder, "bench")
        for position in range(REPEATS):
            for _ in range(STEPS):
                timed("step alone", step)
            state: dict[str, object] = {}
            timed("copy", partial(_copy, run, state))
            processor = time.process_time()
            timed("save", partial(checkpoints.save, position, state))
            timed("write", checkpoints.wait)
            took.setdefault("CPU of it", []).append(time.process_time() - processor)
            checkpoints.save(position, state)
            del state
            for _ in range(STEPS):
                timed("step while writing", step)
            checkpoints.wait()
        size = max(path.stat().st_size for path in Path(folder).rglob("*.checkpoint"))
    print(f"{torch.get_num_threads()} threads, {size / 1e6:.0f} MB a checkpoint")
    for name, values in took.items():
        print(f"{name:<20} {statistics.median(values):7.3f} s")
    print(f"{'peak memory':<20} {_peak() - before:7.0f} MiB")


def _copy(run: Run, state: dict[str, object]) -> None:
    state.update(run.state())


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
