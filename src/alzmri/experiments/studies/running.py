"""A study's experiments: what they will take is said, then those that are missing run."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from ruamel.yaml import YAML

from alzmri import git, terminal
from alzmri.classes import merged
from alzmri.experiments import runs
from alzmri.experiments.runner import Runner
from alzmri.experiments.runs import Experiment, Run
from alzmri.models import build
from alzmri.params import Params

_CORE, _GPU = 6_000, 1_000_000
"""Images that one of these trains on in a second, divided by the image's size: roughly."""
_OTHER_SECONDS, _OTHER_BYTES = 40, 1_500_000
"""What each experiment takes besides training and model: other stages; pictures and tables."""


def run(experiments: Sequence[Experiment], jobs: int, note: str) -> list[Run]:
    """Run what is missing of a study's ``experiments``, ``jobs`` at once; return all, in order.

    One of such a name with other parameters or code is replaced. ``note`` says what was scaled.

    Raises:
        UserError: before anything runs, with all that is wrong with the settings.
        EnvironmentFault: at the end, when experiments failed.
    """
    runner = Runner(jobs, len(experiments), "macro_f1")
    finished = runs.finished(runner.baseline)
    missing = []
    for name, used in [(experiment.name, experiment.params) for experiment in experiments]:
        if name in finished and not finished[name].is_of(used):
            start = f"refs/exps/{runner.baseline[:2]}/{runner.baseline[2:]}"
            git.run("update-ref", "-d", f"{start}/{name}")
            del finished[name]
        if name not in finished:
            missing.append(used)
    terminal.say(f"{len(experiments)} experiments, {len(missing)} of them to run, {jobs} at once")
    if missing:
        terminal.say(_cost(missing[0], len(missing), jobs))
    if note:
        terminal.say(note)
    results = runner.run(experiments)
    runner.complain()
    return results


def _cost(used: Params, count: int, jobs: int) -> str:
    """Say what ``count`` experiments like ``used`` take."""
    size, images = used.data.image_size, _images(used)
    classes = len(merged(used.data.merge))
    model = build(used.model.name, classes=classes, image_size=size, dropout=0.0)
    speed = (_GPU if torch.cuda.is_available() else _CORE * (os.cpu_count() or 1)) / size
    training = images * used.split.fractions[0] * used.train.epochs / speed
    hours, minutes = divmod(round(count * (training + _OTHER_SECONDS / jobs) / 60) or 1, 60)
    weights = sum(weight.numel() for weight in model.parameters()) * 4
    return (
        f"roughly {f'{hours} h ' * bool(hours)}{minutes} min on this machine; DVC's cache grows"
        f" by about {(count * (weights + _OTHER_BYTES) + images * size**2) / 1e9:.1f} GB"
    )


def _images(used: Params) -> int:
    """Images in the collection of ``used``, before any is rejected."""
    folder, tracked = (Path(f"data/{used.data.source}{suffix}") for suffix in ("", ".dvc"))
    if used.data.source == "phantom":
        return 4 * used.phantom.subjects * used.phantom.slices
    if tracked.exists():
        (out,) = YAML(typ="safe").load(tracked)["outs"]
        return int(out.get("nfiles", 0))
    return sum(path.is_file() for path in folder.rglob("*"))
