"""What bounds the program: the share of time per operator in the training step.

    python bench/profile_step.py [--image-size 224] [--precision fp32]

Steps come from the real loop on packed slices, so that what loading and augmentation cost the step
shows too. Time is the operator's own, without what it calls.
"""

import argparse
import itertools
import os
import sys
import tempfile
from pathlib import Path

import collection
from torch.profiler import ProfilerActivity, profile
from training import Training

from alzmri import markdown, terminal

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
        sizes = (options.image_size, BATCH, (WARM + STEPS) * BATCH)
        collection.prepare(folder / "phantom", folder, *sizes)
        training = Training(folder, options.image_size, BATCH, options.precision)
        epoch = training.epoch()
        list(itertools.islice(epoch, WARM))
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            list(epoch)
    operators = sorted(profiler.key_averages(), key=lambda each: -each.self_cpu_time_total)
    total = sum(each.self_cpu_time_total for each in operators)
    rows = [
        (each.key, f"{each.self_cpu_time_total / total:.1%}", each.count // STEPS)
        for each in operators[:ROWS]
    ]
    milliseconds = total / STEPS / 1000
    terminal.say(
        f"{milliseconds:.0f} ms a step of {BATCH} slices, {options.image_size} px,"
        f" {options.precision}, {os.cpu_count()} cores"
    )
    terminal.say(markdown.table(("operator", "share", "calls a step"), rows))


if __name__ == "__main__":
    sys.exit(terminal.run(main))
