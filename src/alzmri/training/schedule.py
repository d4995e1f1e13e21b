"""The learning rate as a pure function of the step, so that a resumed run needs no history."""

import math

from alzmri.params import Train

ONECYCLE_START, ONECYCLE_END = 1 / 25, 1 / 10_000
"""First and last rate as fractions of the peak (Smith and Topin, "Super-convergence", 2018)."""

ONECYCLE_WARMUP = 0.3
"""Fraction of steps with rising rate when ``train.warmup`` is 0."""


def learning_rate(train: Train, step: int, steps_per_epoch: int) -> float:
    """The rate of ``step``, counted from 0 over the whole run."""
    total = train.epochs * steps_per_epoch
    warmup = train.warmup * steps_per_epoch
    if train.schedule == "onecycle":
        warmup = warmup or ONECYCLE_WARMUP * total
        if step < warmup:
            return train.lr * _cosine(ONECYCLE_START, 1, step / warmup)
        return train.lr * _cosine(1, ONECYCLE_END, (step - warmup) / max(total - 1 - warmup, 1))
    if step < warmup:
        return train.lr * (step + 1) / (warmup + 1)
    if train.schedule == "cosine":
        return train.lr * _cosine(1, 0, (step - warmup) / (total - warmup))
    return train.lr


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2
