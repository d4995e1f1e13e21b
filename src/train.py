"""Stage train: learn from data/prepared; write models, plots/history.csv, metrics/train.json.

On several devices: ``torchrun --nproc-per-node 2 src/train.py``.
"""

import os

from alzmri.training import portable

os.environ.update(portable.environment())  # before torch and NumPy are imported

import torch

from alzmri import params, terminal
from alzmri.data.prepared import Prepared
from alzmri.errors import UserError
from alzmri.models.forward import bfloat16, choose
from alzmri.params import Params
from alzmri.tracking.tracker import following
from alzmri.training import initial, results
from alzmri.training.checkpoints import Checkpoints, alone, default_store, fingerprint
from alzmri.training.loop import train
from alzmri.training.processes import joined


def main() -> None:
    settings = params.load()
    if settings.compute.train_on == "sagemaker":
        from alzmri.sagemaker.training_job import train_there

        train_there(settings)
        return
    prepared = Prepared.open(settings)
    device = choose()
    start = initial.find(settings, prepared)
    name = fingerprint(settings, prepared, device, start)
    checkpoints = Checkpoints(default_store(), name)
    with joined(device) as processes:
        if set(processes.of_each(name)) != {name}:
            raise UserError(
                "the processes have different parameters, prepared data, code or torch: use the"
                " same on all hosts, for example with `git pull` and `dvc pull`"
            )
        if not processes.first:
            train(prepared, settings, device, checkpoints, processes=processes, initial=start)
            return
        _announce(settings, prepared, device, processes.size)
        if start:
            terminal.say(start.description)
        with (
            alone(name),
            following(settings, name, prepared.digest) as tracked,
            results.reporting(settings.train, prepared, tracked) as (on_step, on_epoch),
        ):
            state = train(
                prepared, settings, device, checkpoints, on_step, on_epoch, processes, start
            )
            results.write(state, prepared, settings, name)
            checkpoints.clear()


def _announce(settings: Params, prepared: Prepared, device: torch.device, processes: int) -> None:
    threads = torch.get_num_threads()
    several = f"{processes} processes, " if processes > 1 else ""
    fixed = settings.compute.threads and device.type == "cpu"
    idle = portable.idle_cores(processes * threads) if fixed else ""
    subjects = len(prepared.subjects("train")) if prepared.subjects_known else "unknown"
    precision = "bf16" if bfloat16(settings.train.precision, device) else "fp32"
    terminal.say(
        f"{settings.model.name}, {len(prepared.indices('train'))} training slices of {subjects}"
        f" subjects, on {device.type} in {precision} ({several}{threads} threads{idle})"
    )
    if settings.split.unit == "slice":
        terminal.warn("slice split: training and validation share subjects, so scores LEAK")


if __name__ == "__main__":
    terminal.start(main)
