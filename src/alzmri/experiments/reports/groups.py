"""Runs read once, and grouped: those that differ only in a seed or a fold are one."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from alzmri.evaluation.intervals import Classified, Interval, mean_macro_f1, quantiles
from alzmri.evaluation.metrics import Ints
from alzmri.experiments import metrics
from alzmri.experiments.crossvalidation import Predictions
from alzmri.experiments.lock import Lock
from alzmri.experiments.runs import Finished

REPEATED = ("train.seed", "split.seed", "split.fold")
"""The keys that repeat an experiment; runs that differ in these alone are one line of a table."""

_WITHOUT_EFFECT = ("compute.", "track.", "train.checkpoint_every", "train.keep_last")
"""Keys that change no score."""


@dataclass(frozen=True)
class Run:
    """One run, read from its commit and DVC's cache.

    Attributes:
        name: of the experiment, branch or tag.
        settings: every key of its params.yaml with a dot, and the value.
        prepare, train, test: the content of its metrics/{prepare,train,evaluate}.json.
        history: the rows of its plots/history.csv.
        predictions: of the test part, slices ordered by path.
        lock: its dvc.lock.
        stale: stages whose results are not of its parameters or code.
    """

    name: str
    settings: Mapping[str, Any]
    prepare: Mapping[str, Any]
    train: Mapping[str, Any]
    test: Mapping[str, Any]
    history: Sequence[Mapping[str, str]]
    predictions: Predictions
    lock: Lock
    stale: Sequence[str]

    @classmethod
    def of(cls, run: Finished) -> "Run":
        """Read ``run``.

        Raises:
            UserError: when something that it wrote is not there.
        """
        return cls(
            name=run.name,
            settings=run.settings,
            prepare=run.metrics("prepare"),
            train=run.metrics("train"),
            test=run.metrics("evaluate"),
            history=run.table("plots/history.csv"),
            predictions=Predictions.of(run).by_path(),
            lock=run.lock,
            stale=run.stale,
        )

    @property
    def repetition(self) -> tuple[Any, ...]:
        """Its seeds and fold."""
        return tuple(self.settings.get(key) for key in REPEATED)

    @property
    def leaks(self) -> bool:
        """Whether its test people were, or may have been, in training."""
        split = self.test["split"]
        return bool(split["unit"] == "slice" or split["shared_subjects"])

    @property
    def classified(self) -> Classified:
        """Its test, to be resampled."""
        told = self.predictions
        return Classified(told.truth, told.predicted, told.subjects)

    def score(self, metric: str) -> float:
        """The value of one of ``METRICS``; NaN where it is undefined."""
        return metrics.score(metric, self.train, self.test)


@dataclass(frozen=True)
class Group:
    """Runs that repeat one experiment with other seeds or folds.

    Attributes:
        name: what tables, legends and folders call it.
        runs: one at least, ordered by seeds and fold.
    """

    name: str
    runs: Sequence[Run]

    @property
    def folder(self) -> str:
        """Of its pictures: its name, but for characters that a path should not have."""
        return re.sub(r"[^\w.-]+", "-", self.name)

    @property
    def settings(self) -> Mapping[str, Any]:
        """As in :class:`Run`, of the first."""
        return self.runs[0].settings

    @property
    def leaks(self) -> bool:
        """Whether one of its tests leaks."""
        return any(run.leaks for run in self.runs)

    def scores(self, metric: str) -> list[float]:
        """One of ``METRICS``, run by run."""
        return [run.score(metric) for run in self.runs]

    def mean(self, metric: str) -> float:
        """The mean over its runs."""
        return float(np.mean(self.scores(metric)))

    def spread(self, metric: str) -> float:
        """The standard deviation over its runs; NaN for a single one."""
        scores = self.scores(metric)
        return float(np.std(scores, ddof=1)) if len(scores) > 1 else math.nan

    def told(self, metric: str) -> str:
        """Mean and spread, such as ``0.700 ± 0.010``."""
        spread = self.spread(metric)
        known = "" if math.isnan(spread) else f" ± {spread:.3f}"
        return f"{self.mean(metric):.3f}{known}"

    @cached_property
    def interval(self) -> Interval:
        """95 % over people, of the mean macro F1 of its runs."""
        tests = [run.classified for run in self.runs]
        classes = len(self.runs[0].predictions.classes)
        _, samples = mean_macro_f1(tests, classes, self.settings["split.seed"])
        return quantiles(samples)

    @property
    def confusion(self) -> Ints:
        """Test slices of all runs, int64 ``[actual, predicted]``."""
        classes = len(self.runs[0].predictions.classes)
        counts = np.zeros((classes, classes), dtype=np.int64)
        for run in self.runs:
            np.add.at(counts, (run.predictions.truth, run.predictions.predicted), 1)
        return counts


def grouped(runs: Sequence[Run]) -> list[Group]:
    """``runs`` by what they set, but for ``REPEATED``."""
    alike: dict[str, list[Run]] = {}
    for run in runs:
        alike.setdefault(identity(run.settings), []).append(run)
    groups = [sorted(group, key=lambda run: run.repetition) for group in alike.values()]
    keys = varying([group[0] for group in groups])
    names = [_name(group, keys) for group in groups]
    return [
        # Two groups with one name would be one line to a reader.
        Group(name if names.count(name) == 1 else _described(group[0], keys), group)
        for name, group in zip(names, groups, strict=True)
    ]


def varying(runs: Sequence[Run | Group]) -> list[str]:
    """The keys that are not the same in all of ``runs``, but for ``REPEATED``."""
    keys = dict.fromkeys(key for run in runs for key in run.settings if _counts(key))
    return [key for key in keys if len({str(run.settings.get(key)) for run in runs}) > 1]


def identity(settings: Mapping[str, Any]) -> str:
    """Equal for settings that differ in seeds and fold at most."""
    return str(sorted((key, value) for key, value in settings.items() if _counts(key)))


def _counts(key: str) -> bool:
    return key not in REPEATED and not key.startswith(_WITHOUT_EFFECT)


def _name(runs: Sequence[Run], keys: Sequence[str]) -> str:
    """What is left of the names without seed and fold, if it is the same for all."""
    if len(runs) == 1:
        return runs[0].name
    names = {re.sub(r"-(seed|fold)\d+(?=-|$)", "", run.name) for run in runs}
    return names.pop() if len(names) == 1 else _described(runs[0], keys)


def _described(run: Run, keys: Sequence[str]) -> str:
    words = [f"{key.rpartition('.')[2]}{run.settings.get(key)}" for key in keys]
    return "-".join(words) or run.name
