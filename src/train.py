"""Stage train: learn from data/prepared; write models, plots/history.csv, metrics/train.json."""

import torch

from alzmri import params, terminal
from alzmri.data.prepared import Prepared
from alzmri.models.device import choose
from alzmri.training import results
from alzmri.training.checkpoints import Checkpoints, alone, default_store, fingerprint
from alzmri.training.loop import train


def main() -> None:
    settings = params.load()
    prepared = Prepared.open(settings)
    device = choose()
    terminal.out.print(
        f"{settings.model.name}, {len(prepared.indices('train'))} training slices"
        f" of {len(prepared.subjects('train'))} people, on {device}"
        f" ({torch.get_num_threads()} threads)"
    )
    if settings.split.unit == "slice":
        terminal.warn("slice split: people are in training and validation alike, scores LEAK")
    name = fingerprint(settings, prepared, device)
    checkpoints = Checkpoints(default_store(), name)
    with alone(name), results.reporting(settings.train.epochs) as (on_step, on_epoch):
        run = train(prepared, settings, device, checkpoints, on_step, on_epoch)
        results.write(run, prepared, settings)
        checkpoints.clear()


if __name__ == "__main__":
    terminal.start(main)
