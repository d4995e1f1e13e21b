"""A study's experiments: what they will take is said, then those that are missing run."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from ruamel.yaml import YAML

from alzmri import git, terminal
from alzmri.classes import merged
from alzmri.experiments import runs
from alzmri.experiments.runner import Runner
from alzmri.experiments.runs import Experiment, Run
from alzmri.models import build
from alzmri.models.device import autocast, choose
from alzmri.models.forward import normalise
from alzmri.params import Params

_STEPS = 3
"""Timed, after one that is not."""
_OTHER_SECONDS, _OTHER_BYTES = 40, 1_500_000
"""Of each experiment, besides training: the other stages; pictures and tables."""


def run(experiments: Sequence[Experiment], jobs: int, note: str) -> dict[str, Run]:
    """Run what is missing of a study's ``experiments``, ``jobs`` at once; all of them by name.

    One of such a name with other parameters or code is replaced. ``note`` says what was scaled.

    Raises:
        UserError: before anything runs, with all that is wrong with the settings.
        EnvironmentFault: at the end, when experiments failed.
    """
    runner = Runner(jobs, len(experiments), "macro_f1")
    wanted = {experiment.name: experiment.params for experiment in experiments}
    before = {name: one for name, one in runs.finished(runner.baseline).items() if name in wanted}
    replaced = [name for name, one in before.items() if not one.is_of(wanted[name])]
    missing = [used for name, used in wanted.items() if name not in before or name in replaced]
    terminal.say(f"{len(experiments)} experiments, {len(missing)} of them to run, {jobs} at once")
    if missing:
        terminal.say(_cost(missing[0], len(missing), jobs))
    if note:
        terminal.say(note)
    for name in replaced:
        start = f"refs/exps/{runner.baseline[:2]}/{runner.baseline[2:]}"
        git.run("update-ref", "-d", f"{start}/{name}")
    results = runner.run(experiments)
    runner.complain()
    return {result.name: result for result in results}


def _cost(used: Params, count: int, jobs: int) -> str:
    """What ``count`` experiments like ``used`` take: a few steps of training are timed for it."""
    device, size = choose(), used.data.image_size
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // jobs))
    classes = len(merged(used.data.merge))
    model = build(used.model.name, classes=classes, image_size=size, dropout=0.0).to(device)
    slices = torch.zeros(used.train.batch_size, size, size, dtype=torch.uint8, device=device)
    labels = torch.zeros(used.train.batch_size, dtype=torch.int64, device=device)
    began = 0.0
    for step in range(_STEPS + 1):
        with autocast(used.train.precision, device):
            loss = F.cross_entropy(model(normalise(slices)).float(), labels)
        loss.backward()
        loss.item()  # returns when a GPU has done its part
        began = began if step else time.perf_counter()
    images = _images(used)
    epoch = images * used.split.fractions[0] / used.train.batch_size
    seconds = epoch * used.train.epochs * (time.perf_counter() - began) / _STEPS + _OTHER_SECONDS
    weights = sum(weight.numel() for weight in model.parameters()) * 4
    hours, minutes = divmod(round(count * seconds / jobs / 60) or 1, 60)
    return (
        f"about {f'{hours} h ' * bool(hours)}{minutes} min on this machine, by {_STEPS} steps of"
        " training; DVC's cache grows by about"
        f" {(count * (weights + _OTHER_BYTES) + images * size**2) / 1e9:.1f} GB"
    )


def _images(used: Params) -> int:
    """Images in the collection of ``used``, before any is rejected."""
    folder, tracked = (Path(f"data/{used.data.source}{suffix}") for suffix in ("", ".dvc"))
    if used.data.source == "phantom":
        return 4 * used.phantom.subjects * used.phantom.slices
    if tracked.exists():
        (out,) = YAML(typ="safe").load(tracked.read_text(encoding="utf-8"))["outs"]
        return int(out.get("nfiles", 0))
    return sum(path.is_file() for path in folder.rglob("*"))
