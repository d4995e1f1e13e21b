"""What W&B costs training: `PYTHONPATH=src python bench/tracking.py`, after `dvc repro`.

Trains on data/prepared by params.yaml, offline, in a temporary folder. Prints the share of an
epoch that training stands still to be tracked; the client works on a thread beside it.
"""

import os
import statistics
import tempfile
import time
from dataclasses import asdict
from itertools import pairwise

from alzmri import params
from alzmri.data.prepared import Prepared
from alzmri.models.device import choose
from alzmri.tracking import Tracker, following
from alzmri.training.checkpoints import Checkpoints
from alzmri.training.loop import Run, train

ALLOWED = 0.02


def main() -> None:
    """Measure, print, and exit with 1 when it is more than ``ALLOWED``."""
    settings = params.load()
    prepared, device = Prepared.open(settings), choose()
    still, ends = [], [time.perf_counter()]
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(WANDB_DIR=folder, WANDB_MODE="offline")
        with following(settings, "0123456789abcdef", prepared.digest) as tracked:
            assert type(tracked) is not Tracker, "track.mode is disabled in params.yaml"

            def on_epoch(run: Run, _: bool) -> None:
                began = time.perf_counter()
                tracked.epoch(asdict(run.history[-1]))
                ends.append(time.perf_counter())
                still.append(ends[-1] - began)

            store = Checkpoints(folder, "bench")
            train(prepared, settings, device, store, lambda *_: None, on_epoch)
    epochs = [end - begin for begin, end in pairwise(ends)]
    worst = max(wait / epoch for wait, epoch in zip(still, epochs, strict=True))
    print(
        f"tracking: {worst:.1e} of an epoch at most, {ALLOWED} allowed"
        f" ({statistics.median(epochs):.1f} s an epoch, {device.type})"
    )
    raise SystemExit(worst > ALLOWED)


if __name__ == "__main__":
    main()
