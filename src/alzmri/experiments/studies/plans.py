"""What ``alzmri honest`` and ``alzmri protocol`` run: full size, and scaled to a CPU.

Every value that matters is spelt out: a default that changes in params.yaml must not change what
the documentation reports.
"""

import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from alzmri import params
from alzmri.experiments import runs
from alzmri.experiments.runs import Experiment, Settings, parse_settings

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
