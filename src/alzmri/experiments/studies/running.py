"""A study's experiments: what they will take is said, then those that are missing run."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from ruamel.yaml import YAML

from alzmri import terminal
from alzmri.data.classes import merged
from alzmri.experiments import runs
from alzmri.experiments.runner import Runner
from alzmri.experiments.runs import Experiment, Finished
from alzmri.models import build
from alzmri.models.device import autocast, choose
from alzmri.models.forward import normalise
from alzmri.params import Params

_STEPS = 3
"""Timed, after one that is not."""
_OTHER_SECONDS, _OTHER_BYTES = 40, 1_500_000
"""Of each experiment, besides training: the other stages; pictures and tables."""


def run(experiments: Sequence[Experiment], jobs: int, note: str) -> dict[str, Finished]:
    """Run what is missing of ``experiments``, ``jobs`` at once; all of them by name.

    Args:
        experiments: of a study. One of such a name with other parameters or code is replaced.
        jobs: how many run at once.
        note: what was scaled down; may be empty.

    Raises:
        UserError: before anything runs, with all that is wrong with the settings.
        EnvironmentFault: at the end, when experiments failed.
    """
    wanted = {experiment.name: experiment.params for experiment in experiments}
    runner = Runner(jobs, len(experiments), "macro_f1")
    finished = runs.finished(runner.baseline)
    replaced = [
        name for name in wanted if name in finished and not finished[name].is_of(wanted[name])
    ]
    missing = [used for name, used in wanted.items() if name not in finished or name in replaced]
    terminal.say(f"{len(experiments)} experiments, {len(missing)} of them to run, {jobs} at once")
    if missing:
        terminal.say(_cost(missing, jobs))
    if note:
        terminal.say(note)
    if replaced:
        runs.remove(replaced)
    results = runner.run(experiments)
    runner.complain()
    return {result.name: result for result in results}


def _cost(missing: Sequence[Params], jobs: int) -> str:
    """What ``missing`` will take, in a sentence: a few steps of training are timed for it."""
    seconds = size = 0.0
    known: dict[object, tuple[float, float]] = {}
    for used in missing:
        kind = (used.model.name, used.data.image_size, used.train.batch_size, used.train.precision)
        if kind not in known:
            known[kind] = _step(used, jobs)
        step, model = known[kind]
        images = _images(used)
        share = 1 - 2 / used.split.folds if used.split.folds else used.split.fractions[0]
        steps = used.train.epochs * max(1, images * share / used.train.batch_size)
        seconds += steps * step + _OTHER_SECONDS
        size += model + _OTHER_BYTES
    size += max(_images(used) * used.data.image_size**2 for used in missing)
    hours, minutes = divmod(round(seconds / jobs / 60) or 1, 60)
    return (
        f"about {f'{hours} h ' * bool(hours)}{minutes} min on this machine, by {_STEPS} steps of"
        f" training; DVC's cache grows by about {size / 1e9:.1f} GB"
    )


def _step(used: Params, jobs: int) -> tuple[float, float]:
    """Seconds of one step of training, with ``jobs`` at once; and bytes of the model."""
    device, before = choose(), torch.get_num_threads()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // jobs))
    size, classes = used.data.image_size, len(merged(used.data.merge))
    model = build(used.model.name, classes=classes, image_size=size, dropout=used.model.dropout)
    model = model.to(device)
    slices = torch.zeros(used.train.batch_size, size, size, dtype=torch.uint8, device=device)
    labels = torch.zeros(used.train.batch_size, dtype=torch.int64, device=device)
    began = 0.0
    for step in range(_STEPS + 1):
        with autocast(used.train.precision, device):
            loss = F.cross_entropy(model(normalise(slices)).float(), labels)
        loss.backward()
        loss.item()  # returns when a GPU has done its part
        began = time.perf_counter() if step == 0 else began
    seconds = (time.perf_counter() - began) / _STEPS
    torch.set_num_threads(before)
    return seconds, float(sum(weight.numel() for weight in model.parameters()) * 4)


def _images(used: Params) -> int:
    """Images in the collection of ``used``, before any is rejected."""
    if used.data.source == "phantom":
        return 4 * used.phantom.subjects * used.phantom.slices
    tracked = Path(f"data/{used.data.source}.dvc")
    if tracked.exists():
        (out,) = YAML(typ="safe").load(tracked.read_text(encoding="utf-8"))["outs"]
        return int(out.get("nfiles", 0))
    return sum(path.is_file() for path in Path(f"data/{used.data.source}").rglob("*"))
