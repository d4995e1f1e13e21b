"""Is one group of runs better than another, in words that a reviewer can use."""

from collections.abc import Sequence
from dataclasses import dataclass

from alzmri.evaluation.intervals import Difference, difference
from alzmri.experiments.reports.groups import Group, Run


@dataclass(frozen=True)
class Verdict:
    """What is known of ``A`` against ``B``.

    Attributes:
        difference: of macro F1, A less B; None when their tests are not of the same slices.
        why_not: the reason for None, as a clause.
        pairs: of runs that were compared, seed by seed.
        runs: of the group that has more.
        people: in their tests.
    """

    difference: Difference | None = None
    why_not: str = ""
    pairs: int = 0
    runs: int = 0
    people: int = 0

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
    def words(self) -> str:
        """Such as ``better: +0.080 [+0.020, +0.140]``."""
        if self.difference is None:
            return "not comparable"
        if self.identical:
            return "the same"
        known = "better" if self.better else "worse" if self.worse else "cannot be told apart"
        return f"{known}: {_signed(self.difference)}"

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
            f" the resamples of {self.people} test people{pairs}"
        )


def _signed(found: Difference) -> str:
    low, high = found.interval
    return f"{found.value:+.3f} [{low:+.3f}, {high:+.3f}]"


def judge(a: Group, b: Group) -> Verdict:
    """Compare ``a`` with ``b`` on the people that both were tested on, seed by seed."""
    pairs = _pairs(a, b)
    for one, other in pairs:
        if reason := _incomparable(one, other):
            return Verdict(why_not=reason)
    first = [one.classified for one, _ in pairs]
    # A person may be called otherwise in the other run; the slices are the same.
    second = [
        other.classified._replace(subjects=one.classified.subjects, truth=one.classified.truth)
        for one, other in pairs
    ]
    classes = len(a.runs[0].predictions.classes)
    found = difference(first, second, classes, a.settings["split.seed"])
    people = {person for test in first for person in test.subjects}
    return Verdict(found, pairs=len(pairs), runs=max(len(a.runs), len(b.runs)), people=len(people))


def _pairs(a: Group, b: Group) -> Sequence[tuple[Run, Run]]:
    """Runs with the same seeds and fold; one by one where no seeds are the same."""
    others = {run.repetition: run for run in b.runs}
    same = [(run, others[run.repetition]) for run in a.runs if run.repetition in others]
    return same or list(zip(a.runs, b.runs, strict=False))


def _incomparable(one: Run, other: Run) -> str:
    """Why their tests are not the same; empty when they are."""
    ours, theirs = one.predictions, other.predictions
    if ours.classes != theirs.classes:
        return "other classes"
    if ours.paths != theirs.paths:
        people = set(theirs.subjects)
        known = len(people & set(ours.subjects))
        return f"other test people ({known} of {len(people)} in common)"
    if (ours.truth != theirs.truth).any():
        return "other labels"
    return ""
