"""Groups of runs, ranked and judged."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from alzmri.experiments.metrics import LESS_IS_BETTER, METRICS
from alzmri.experiments.reports.document import code
from alzmri.experiments.reports.groups import Group
from alzmri.experiments.reports.verdict import Verdict, judge

BASELINE = "baseline"
"""What the committed run that the experiments started from is called."""

_NAMED = 3
"""Experiments named in a sentence at most."""


@dataclass(frozen=True)
class Comparison:
    """Groups of runs, compared.

    Attributes:
        groups: one at least.
        baseline: the name of the one that the others are changes of; None when it is not known.
        metric: what sorts them, one of :data:`alzmri.experiments.metrics.METRICS`.
    """

    groups: Sequence[Group]
    baseline: str | None
    metric: str

    @cached_property
    def ranked(self) -> Sequence[Group]:
        """The best first; those that leak after all that do not."""
        sign = 1 if self.metric in LESS_IS_BETTER else -1

        def rank(group: Group) -> tuple[bool, float, str]:
            score = sign * group.mean(self.metric)
            return group.leaks, np.inf if np.isnan(score) else score, group.name

        return sorted(self.groups, key=rank)

    @property
    def best(self) -> Group:
        """The first of the ranked."""
        return self.ranked[0]

    @cached_property
    def verdicts(self) -> dict[str, Verdict]:
        """The best against each of the others, by name."""
        return {group.name: judge(self.best, group) for group in self.ranked[1:]}

    @property
    def conclusion(self) -> str:
        """Which experiment to merge, and why."""
        best, scores = self.best, self._score(self.best)
        if best.leaks:
            return (
                "**Merge nothing by these scores: every run LEAKS.** Their test people were in"
                f" training too. {code(best.name)} scores highest: {scores}."
            )
        if self.baseline == best.name:
            return f"**Keep {self._called(best.name)}.** Nothing scores higher: {scores}."
        if self.baseline is None:
            return f"**{code(best.name)} scores best**: {scores}. {self._others()}".strip()
        against, base = self.verdicts[self.baseline], self._called(self.baseline)
        if against.difference is None:
            return (
                f"**No conclusion about {base}**: not comparable, {against.why_not}."
                f" {code(best.name)} scores best: {scores}. {self._others()}".strip()
            )
        if against.better:
            return (
                f"**Merge {code(best.name)}**: {scores}. Better than {base}:"
                f" {against.evidence}. {self._others()}".strip()
            )
        if against.worse:
            return (
                f"**Keep {base}.** {code(best.name)} is best by {METRICS[self.metric]}, {scores},"
                f" and worse in macro F1: {against.evidence}."
            )
        return (
            f"**Keep {base}.** {code(best.name)} scores best, {scores}, but the two cannot be told"
            f" apart: {against.evidence}. More test people or more seeds may tell."
        )

    def _called(self, name: str) -> str:
        return code(name) if name == BASELINE else f"the baseline {code(name)}"

    def _score(self, group: Group) -> str:
        low, high = group.interval
        text = f"{METRICS[self.metric]} {group.told(self.metric)}"
        if len(group.runs) > 1:
            text += f" over {len(group.runs)} runs"
        of = "" if self.metric == "macro_f1" else f"macro F1 {group.mean('macro_f1'):.3f} "
        return f"{text}, {of}[{low:.3f}, {high:.3f}] over people"

    def _others(self) -> str:
        """Who else it could be."""
        alike = [name for name, verdict in self.verdicts.items() if verdict.alike]
        if not alike:
            return ""
        names = ", ".join(map(code, alike[:_NAMED]))
        more = f" and {len(alike) - _NAMED} more" if len(alike) > _NAMED else ""
        return f"It cannot be told apart from {names}{more}."

    @property
    def caveats(self) -> list[str]:
        """What to know before believing the ranking, a sentence or two each."""
        caveats = []
        if leaking := [group.name for group in self.groups if group.leaks]:
            caveats.append(
                f"**LEAKS: {', '.join(map(code, leaking))}.** Test people were in training too:"
                " no estimate for new people, whatever the score. Ranked last."
            )
        if shuffled := [g.name for g in self.groups if g.settings.get("data.shuffle_labels")]:
            caveats.append(f"Labels shuffled between people: {', '.join(map(code, shuffled))}.")
        if apart := [
            f"{code(name)} ({verdict.why_not})"
            for name, verdict in self.verdicts.items()
            if verdict.difference is None
        ]:
            caveats.append(
                f"**Not comparable with {code(self.best.name)}**: {', '.join(apart)}. Their scores"
                " are of another test; no difference is given."
            )
        if len(self.groups) > 2 and not self.metric.startswith("val_"):
            caveats.append(
                f"The best of {len(self.groups)} by its test score owes some of it to luck."
                " `--metric val_macro_f1` chooses by validation and leaves the test alone."
            )
        return caveats
