"""Group runs that differ only in seeds or fold, and compare two groups."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from alzmri.evaluation import intervals
from alzmri.experiments.finished_runs import FinishedRun, counts


@dataclass(frozen=True)
class Group:
    """One or more runs of one experiment that differ only in seeds or fold, sorted by these."""

    name: str
    runs: Sequence[FinishedRun]

    @property
    def settings(self) -> Mapping[str, Any]:
        """Parameters of its first run: every key of params.yaml with a dot, and the value."""
        return self.runs[0].settings

    @property
    def leaks(self) -> bool:
        """Whether one of its runs leaks."""
        return any(run.leaks for run in self.runs)

    def mean(self, metric: str) -> float:
        """The mean of one of ``METRICS`` over its runs."""
        return float(np.mean([run.score(metric) for run in self.runs]))

    def spread(self, metric: str) -> float:
        """The standard deviation over its runs; NaN for a single run."""
        scores = [run.score(metric) for run in self.runs]
        return float(np.std(scores, ddof=1)) if len(scores) > 1 else math.nan

    def shown(self, metric: str) -> str:
        """Mean and spread, such as ``0.700 ± 0.010``."""
        spread = f" ± {self.spread(metric):.3f}" if len(self.runs) > 1 else ""
        return f"{self.mean(metric):.3f}{spread}"

    @cached_property
    def interval(self) -> intervals.Interval:
        """The 95 % interval over subjects of the mean macro F1 of its runs."""
        classes, seed = len(self.runs[0].predictions.classes), self.settings["split.seed"]
        return intervals.mean_macro_f1(list(map(_classified, self.runs)), classes, seed).interval

    def history(self, column: str) -> NDArray[np.float64]:
        """A column of plots/history.csv, ``[runs, epochs]``, up to the last epoch of all runs."""
        scores = [[float(row[column]) for row in run.history] for run in self.runs]
        return np.array(list(zip(*scores, strict=False))).T


def _classified(run: FinishedRun) -> intervals.Classified:
    test = run.predictions
    return intervals.Classified(test.truth, test.predicted, test.subjects)


def grouped(runs: Sequence[FinishedRun]) -> list[Group]:
    """``runs`` grouped by parameters (without ``REPEATED``), code and data."""
    alike: dict[str, list[FinishedRun]] = {}
    for run in runs:
        alike.setdefault(run.identity, []).append(run)
    groups = [sorted(group, key=lambda run: run.repetition) for group in alike.values()]
    names = []
    for group in groups:
        left = {re.sub(r"-(seed|fold)\d+(?=-|$)", "", run.name) for run in group}
        names.append(left.pop() if len(left) == 1 < len(group) else group[0].name)
    return [
        Group(name if names.count(name) == 1 else group[0].name, group)
        for name, group in zip(names, groups, strict=True)
    ]


def varying(runs: Sequence[FinishedRun | Group]) -> list[str]:
    """The keys, without ``REPEATED``, whose values differ between ``runs``."""
    keys = dict.fromkeys(key for run in runs for key in run.settings if counts(key))
    return [key for key in keys if len({str(run.settings.get(key)) for run in runs}) > 1]


Known = Literal["better", "worse", "the same", "not significantly different", "not comparable"]
_ADVICE: Mapping[Known, str] = {
    "better": "**Merge {new}: better than {old}**, {evidence}.",
    "worse": "**Keep {old}: {new} is worse**, {evidence}.",
    "the same": "**Keep {old}, unless you want {new} for another reason: every prediction is the"
    " same class.**",
    "not significantly different": "**Keep {old}, unless you want {new} for another reason: the"
    " two are not significantly different**, {evidence}.",
    "not comparable": "**No conclusion about {old}: not comparable**, {evidence}.",
}


@dataclass(frozen=True)
class Verdict:
    """The comparison of a new group with an old one.

    ``evidence`` is a clause on the ``difference`` of macro F1, new minus old, or on why the two are
    not comparable.
    """

    known: Known
    evidence: str
    difference: intervals.Difference | None = None

    @property
    def words(self) -> str:
        """The verdict for a table, such as ``better: +0.080 [+0.020, +0.140]``."""
        if self.difference is None or self.known == "the same":
            return self.known
        return f"{self.known}: {signed(self.difference)}"

    def advice(self, new: str, old: str) -> str:
        """Whether to replace ``old`` by ``new``, and why."""
        return _ADVICE[self.known].format(new=new, old=old, evidence=self.evidence)


def compare(new: Group, old: Group) -> Verdict:
    """Compare runs of the same seeds and fold on the same test slices."""
    others = {run.repetition: run for run in old.runs}
    pairs = [(run, others[run.repetition]) for run in new.runs if run.repetition in others]
    # Without common seeds, pair the runs in their order.
    pairs = pairs or list(zip(new.runs, old.runs, strict=False))
    first, second = [], []
    for run, other in pairs:
        ours, theirs = run.predictions, other.predictions
        shared, subjects = {*ours.subjects} & {*theirs.subjects}, {*theirs.subjects}
        for same, reason in (
            (ours.classes == theirs.classes, "other classes"),
            (
                ours.paths == theirs.paths,
                f"other test subjects ({len(shared)} of {len(subjects)} in common)",
            ),
            (np.array_equal(ours.truth, theirs.truth), "other labels"),
        ):
            if not same:
                return Verdict("not comparable", reason)
        first.append(_classified(run))
        # The other run may use other names of subjects; the slices are the same.
        second.append(first[-1]._replace(predicted=theirs.predicted))
    classes = len(new.runs[0].predictions.classes)
    found = intervals.difference(first, second, classes, new.settings["split.seed"])
    runs, (low, high) = max(len(new.runs), len(old.runs)), found.interval
    paired = f", in {runs} pairs of runs" * (runs > 1)
    if len(pairs) < runs:
        paired = f", on the {len(pairs)} of {runs} runs that have a counterpart"
    known: Known = "better" if low > 0 else "worse" if high < 0 else "not significantly different"
    if all(np.array_equal(a.predicted, b.predicted) for a, b in zip(first, second, strict=True)):
        known = "the same"
    return Verdict(
        known,
        f"{signed(found)} macro F1, ahead in {100 * found.ahead:.0f} % of the resamples of"
        f" {len({name for test in first for name in test.subjects})} test subjects{paired}",
        found,
    )


def signed(found: intervals.Difference) -> str:
    """Text such as ``+0.080 [+0.020, +0.140]``."""
    low, high = found.interval
    return f"{found.value:+.3f} [{low:+.3f}, {high:+.3f}]"
