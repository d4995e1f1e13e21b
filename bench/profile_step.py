"""What bounds the program: the share of time per operator in the training step.

    python bench/profile_step.py [--image-size 224] [--precision fp32]

Steps come from the real loop on packed slices, so that what loading and augmentation cost the step
shows too. Time is the operator's own, without what it calls: on a GPU that of its kernels, beside
the time that the steps took, part of which a GPU may spend waiting for the next kernel.
"""

import argparse
import itertools
import os
import sys
import tempfile
from pathlib import Path

import collection
import torch
from torch.autograd import DeviceType
from torch.profiler import profile
from training import Training

from alzmri import terminal
from alzmri.evaluation import markdown

BATCH, STEPS, ROWS = 128, 3, 12
WARM = 5
"""Steps until the process has the memory that it needs."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--image-size", type=int, choices=(64, 224), default=224)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="alzmri-bench-") as name:
        folder = Path(name)
        collection.draw(folder / "phantom")
        sizes = (options.image_size, BATCH, (WARM + 2 * STEPS) * BATCH)
        collection.prepare(folder / "phantom", folder, *sizes)
        training = Training(folder, options.image_size, BATCH, options.precision)
        on_gpu = training.device.type == "cuda"
        if on_gpu:
            # Replayed kernels would not be known by their operators.
            training.run.replica = training.run.replica.get_submodule("model")
        epoch = training.epoch()
        list(itertools.islice(epoch, WARM))
        seconds = training.timed(itertools.islice(epoch, STEPS))
        with profile() as profiler:
            training.timed(epoch)
    own = {
        # A kernel is an event of its own beside the operator that started it.
        each.key: (each.self_device_time_total if on_gpu else each.self_cpu_time_total, each.count)
        for each in profiler.key_averages()
        if each.device_type == DeviceType.CPU
    }
    total = sum(time for time, _ in own.values())
    rows = [
        (key, f"{time / total:.1%}", count // STEPS)
        for key, (time, count) in sorted(own.items(), key=lambda item: -item[1][0])[:ROWS]
    ]
    where = torch.cuda.get_device_name() if on_gpu else f"{os.cpu_count()} cores"
    terminal.say(
        f"{seconds / STEPS * 1000:.1f} ms a step of {BATCH} slices, {options.image_size} px,"
        f" {options.precision}, {where}; {total / STEPS / 1000:.1f} ms of operators"
    )
    terminal.say(markdown.table(("operator", "share", "calls a step"), rows))


if __name__ == "__main__":
    sys.exit(terminal.run(main))
