"""Runs read once, and grouped: those that differ only in a seed or a fold are one.

Is one group better than another? A :class:`Verdict`, in words that a reviewer can use.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alzmri.evaluation.intervals import (
    Classified,
    Difference,
    Interval,
    difference,
    mean_macro_f1,
    quantiles,
)
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
        training, evaluation: the content of its metrics/train.json and models/evaluation.json.
        history: the rows of its plots/history.csv.
        predictions: of the test part, slices ordered by path.
        lock: its dvc.lock.
        stale: stages whose results are not of its parameters or code.
    """

    name: str
    settings: Mapping[str, Any]
    training: Mapping[str, Any]
    evaluation: Mapping[str, Any]
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
            training=run.training,
            evaluation=run.evaluation,
            history=run.table("plots/history.csv"),
            predictions=Predictions.of(run),
            lock=run.lock,
            stale=run.stale,
        )

    @property
    def repetition(self) -> tuple[Any, ...]:
        """Its seeds and fold."""
        return tuple(self.settings.get(key) for key in REPEATED)

    @property
    def leaks(self) -> bool:
        """Whether its test subjects were, or may have been, in training."""
        split = self.evaluation["split"]
        return bool(split["unit"] == "slice" or split["shared_subjects"])

    @property
    def best_epoch(self) -> str:
        """Such as ``7 of 10``."""
        return f"{self.training['best_epoch']} of {len(self.history)}"

    @property
    def classified(self) -> Classified:
        """Its test, to be resampled."""
        test = self.predictions
        return Classified(test.truth, test.predicted, test.subjects)

    def score(self, metric: str) -> float:
        """The value of one of ``METRICS``; NaN where it is undefined."""
        return metrics.score(metric, self.training, self.evaluation)

    def shown(self, metric: str) -> str:
        """The score with its interval over subjects, where it has one."""
        value = f"{self.score(metric):.3f}"
        *part, key = metric.split(".")
        ci95 = (self.evaluation[part[0]] if part else self.evaluation)["ci95"]
        return f"{value} [{ci95[key][0]:.3f}, {ci95[key][1]:.3f}]" if key in ci95 else value


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

    def mean(self, metric: str) -> float:
        """The mean of one of ``METRICS`` over its runs."""
        return float(np.mean([run.score(metric) for run in self.runs]))

    def spread(self, metric: str) -> float:
        """The standard deviation over its runs; NaN for a single one."""
        scores = [run.score(metric) for run in self.runs]
        return float(np.std(scores, ddof=1)) if len(scores) > 1 else math.nan

    def shown(self, metric: str) -> str:
        """Mean and spread, such as ``0.700 ± 0.010``."""
        spread = self.spread(metric)
        known = "" if math.isnan(spread) else f" ± {spread:.3f}"
        return f"{self.mean(metric):.3f}{known}"

    @cached_property
    def interval(self) -> Interval:
        """95 % over subjects, of the mean macro F1 of its runs."""
        tests = [run.classified for run in self.runs]
        classes = len(self.runs[0].predictions.classes)
        _, samples = mean_macro_f1(tests, classes, self.settings["split.seed"])
        return quantiles(samples)

    def history(self, column: str) -> NDArray[np.float64]:
        """``[runs, epochs]`` of a column of plots/history.csv, up to the last epoch of all."""
        scores = [[float(row[column]) for row in run.history] for run in self.runs]
        shortest = min(map(len, scores))
        return np.array([run[:shortest] for run in scores])


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


@dataclass(frozen=True)
class Verdict:
    """What is known of ``A`` against ``B``.

    Attributes:
        difference: of macro F1, A less B; None when their tests are not of the same slices.
        why_not: the reason for None, as a clause.
        pairs: of runs that were compared, seed by seed.
        runs: of the group that has more.
        subjects: in their tests.
    """

    difference: Difference | None = None
    why_not: str = ""
    pairs: int = 0
    runs: int = 0
    subjects: int = 0

    @classmethod
    def of(cls, a: Group, b: Group) -> "Verdict":
        """Compare ``a`` with ``b`` on the subjects that both were tested on, seed by seed."""
        others = {run.repetition: run for run in b.runs}
        pairs = [(run, others[run.repetition]) for run in a.runs if run.repetition in others]
        # One by one where no seeds are the same.
        pairs = pairs or list(zip(a.runs, b.runs, strict=False))
        for one, other in pairs:
            if reason := _incomparable(one.predictions, other.predictions):
                return cls(why_not=reason)
        first = [one.classified for one, _ in pairs]
        # A subject may be called otherwise in the other run; the slices are the same.
        second = [
            ours._replace(predicted=other.predictions.predicted)
            for ours, (_, other) in zip(first, pairs, strict=True)
        ]
        classes = len(a.runs[0].predictions.classes)
        found = difference(first, second, classes, a.settings["split.seed"])
        subjects = {subject for test in first for subject in test.subjects}
        return cls(found, "", len(pairs), max(len(a.runs), len(b.runs)), len(subjects))

    @property
    def better(self) -> bool:
        """Whether A is better: the whole interval is above zero."""
        return self.difference is not None and self.difference.interval[0] > 0

    @property
    def worse(self) -> bool:
        """Whether A is worse: the whole interval is below zero."""
        return self.difference is not None and self.difference.interval[1] < 0

    @property
    def identical(self) -> bool:
        """Whether no resample tells them apart: they make the same mistakes."""
        return self.difference is not None and self.difference.interval == [0, 0]

    @property
    def alike(self) -> bool:
        """Whether they were compared, and cannot be told apart."""
        return self.difference is not None and not (self.better or self.worse)

    @property
    def known(self) -> str:
        """In a word or a few."""
        if self.difference is None:
            return "not comparable"
        if self.identical:
            return "the same"
        return "better" if self.better else "worse" if self.worse else "cannot be told apart"

    @property
    def words(self) -> str:
        """Such as ``better: +0.080 [+0.020, +0.140]``."""
        if self.difference is None or self.identical:
            return self.known
        return f"{self.known}: {_signed(self.difference)}"

    @property
    def evidence(self) -> str:
        """The difference in a sentence; of those that were compared."""
        assert self.difference is not None
        pairs = ""
        if self.pairs < self.runs:
            pairs = f", on the {self.pairs} of {self.runs} runs that have a counterpart"
        elif self.pairs > 1:
            pairs = f", in {self.pairs} pairs of runs"
        return (
            f"{_signed(self.difference)} macro F1, ahead in {100 * self.difference.ahead:.0f} % of"
            f" the resamples of {self.subjects} test subjects{pairs}"
        )

    @property
    def content(self) -> dict[str, Any]:
        """It for a program to read; the same keys whatever is known."""
        found = self.difference
        return {
            "verdict": self.known,
            "difference": found and found.value,
            "ci95": found and found.interval,
            "ahead": found and found.ahead,
            "subjects": self.subjects,
            "why_not": self.why_not or None,
        }


def _signed(found: Difference) -> str:
    low, high = found.interval
    return f"{found.value:+.3f} [{low:+.3f}, {high:+.3f}]"


def _incomparable(ours: Predictions, theirs: Predictions) -> str:
    """Why two tests are not the same; empty when they are."""
    if ours.classes != theirs.classes:
        return "other classes"
    if ours.paths != theirs.paths:
        subjects = set(theirs.subjects)
        known = len(subjects & set(ours.subjects))
        return f"other test subjects ({known} of {len(subjects)} in common)"
    if (ours.truth != theirs.truth).any():
        return "other labels"
    return ""
