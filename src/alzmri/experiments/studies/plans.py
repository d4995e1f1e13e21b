"""What ``alzmri honest`` and ``alzmri protocol`` run: full size, and scaled to a CPU.

Every value that matters is spelt out: a default that changes in params.yaml must not change what
the documentation reports.
"""

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from ruamel.yaml import YAML

from alzmri import git, params, terminal
from alzmri.classes import merged
from alzmri.experiments import runs
from alzmri.experiments.runner import Runner
from alzmri.experiments.runs import Experiment, Run, Settings, parse_settings
from alzmri.models import build
from alzmri.params import Params

TASKS = {"none": "4 classes", "three-class": "3 classes", "binary": "2 classes"}
"""The values of ``data.merge`` and what the tables call them."""

PROTOCOL_SETTINGS: Mapping[str, Settings] = {
    "baseline": {"train.lr": 0.0001, "train.momentum": 0.9},
    "best": {"train.lr": 0.0005, "train.momentum": 0.85},
}
"""The protocol's two settings; everything else about them is the same."""

_COMMON = (
    "data.fit=pad data.shuffle_labels=false split.subjects=auto split.seed=0"
    " augment.p=0.2 augment.shift=0.05 augment.scale=0.05 augment.rotate=15"
    " model.name=alexnet model.dropout=0.5 train.weight_decay=0.0001 train.warmup=0"
    " train.label_smoothing=0.0 train.ema=0.0 train.precision=auto train.patience=0 train.seed=0"
    " train.init=''"
    " evaluate.temperature=false "
)
_PROTOCOL = parse_settings(
    (
        _COMMON + "data.merge=none split.unit=slice split.folds=0 train.schedule=constant"
        " train.class_weights=none"
    ).split()
)
_HONEST = parse_settings(
    (
        _COMMON + "train.lr=0.004 train.momentum=0.9 train.schedule=onecycle train.batch_size=32"
        " train.class_weights=sqrt"
    ).split()
)


_CORE, _GPU = 6_000, 1_000_000
"""Images that one of these trains on in a second, divided by the image's size: roughly."""
_OTHER_SECONDS, _OTHER_BYTES = 40, 1_500_000
"""What each experiment takes besides training and model: other stages; pictures and tables."""


class Scale(NamedTuple):
    """How large the studies are run; the notes say what was scaled, for the tables."""

    protocol: Settings
    protocol_note: str
    honest: Settings
    honest_note: str


FULL = Scale(
    {"data.image_size": 224, "train.batch_size": 128, "train.epochs": 100},
    "",
    {"data.image_size": 224, "train.epochs": 20},
    "",
)
SCALED = Scale(
    {"data.image_size": 128, "train.batch_size": 32, "train.epochs": 15},
    "Scaled for a machine without a GPU: 128 px instead of 224; batches of 32 instead of 128"
    " and 15 epochs instead of 100, which are 0.6 of the steps on 15 % of the images.",
    {"data.image_size": 128, "train.epochs": 6},
    "Scaled for a machine without a GPU: 128 px instead of 224, 6 epochs instead of 20.",
)


class Study(NamedTuple):
    """What a study is asked for: its collection and size, what to change, and the command."""

    source: str
    scale: Scale
    overrides: Settings
    jobs: int
    command: str


def study(source: str | None, size: str, jobs: int, settings: Sequence[str] | None) -> Study:
    """Read the command line; ``size`` is full, scaled, or auto: full on a GPU.

    Raises:
        UserError: when there is no such collection, or a setting is not KEY=VALUE.
    """
    source = source or params.load().data.source
    runs.require_source(source)
    full = size == "full" or (size == "auto" and torch.cuda.is_available())
    overrides = {**runs.on_this_machine(jobs), **parse_settings(settings or [])}
    command = shlex.join(["alzmri", *sys.argv[1:]])
    return Study(source, FULL if full else SCALED, overrides, jobs, command)


def protocol(source: str, scale: Scale, overrides: Settings) -> dict[str, Experiment]:
    """The protocol's experiments, by setting; ``overrides`` win."""
    return {
        setting: Experiment(
            f"protocol-{source}-{setting}",
            {"data.source": source, **_PROTOCOL, **values, **scale.protocol, **overrides},
        )
        for setting, values in PROTOCOL_SETTINGS.items()
    }


def honest(
    source: str, task: str, folds: int, scale: Scale, overrides: Settings
) -> dict[int | None, Experiment]:
    """The folds of one task by number; under None the same on the slice split, which leaks."""
    settings = {"data.source": source, **_HONEST, **scale.honest, **overrides, "data.merge": task}
    name = f"honest-{source}-{TASKS[task].replace(' ', '')}"
    slices = {**settings, "split.unit": "slice", "split.folds": 0, "split.fold": 0}
    crossed = {**settings, "split.unit": "subject", "split.folds": folds}
    planned: dict[int | None, Experiment] = {
        fold: Experiment(f"{name}-fold{fold}", {**crossed, "split.fold": fold})
        for fold in range(folds)
    }
    return {**planned, None: Experiment(f"{name}-slices", slices)}


def run(experiments: Sequence[Experiment], jobs: int, note: str) -> list[Run]:
    """Say what a study's ``experiments`` take, run those that are missing; return all, in order.

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
