"""``alzmri review``: what a change does, and whether to merge it, for a pull request."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from alzmri.evaluation.markdown import table
from alzmri.experiments.metrics import LESS_IS_BETTER, METRICS
from alzmri.experiments.reports import document
from alzmri.experiments.reports.charts import Line, Role
from alzmri.experiments.reports.comparison_report import VALIDATION, confusion, matrices, validation
from alzmri.experiments.reports.document import Draw, code
from alzmri.experiments.reports.groups import Group, Run
from alzmri.experiments.reports.revisions import Workspace, revision
from alzmri.experiments.reports.verdict import Verdict, judge
from alzmri.experiments.reports.warnings import warnings

_INTERVALS = ("macro_f1", "accuracy", "subject.macro_f1", "subject.accuracy")
_PARTS = {"train": "training", "val": "validation", "test": "test"}


def write(base: str, head: str | None) -> Path:
    """Write ``reports/review-BASE-HEAD/index.html`` and, with its pictures, ``README.md``.

    Args:
        base: a branch, tag, commit or experiment: what there is.
        head: what would replace it; None for the workspace.

    Returns:
        The path of the HTML.

    Raises:
        UserError: when there is no such revision, or a file of its results is not there.
    """
    before = Run.of(revision(base))
    after = Run.of(revision(head) if head else Workspace())
    change = Change(Group(before.name, (before,)), Group(after.name, (after,)))
    folder = f"review-{change.base.folder}-{change.head.folder}"
    title = f"{after.name} against {before.name}"
    return document.write(document.REPORTS / folder, title, change.text(title), change.figures)


@dataclass(frozen=True)
class Change:
    """One run that would replace another.

    Attributes:
        base: the run that there is, a group of one.
        head: the run that would replace it, likewise.
    """

    base: Group
    head: Group

    @property
    def runs(self) -> tuple[Run, Run]:
        """Base and head."""
        return self.base.runs[0], self.head.runs[0]

    @cached_property
    def verdict(self) -> Verdict:
        """Head against base."""
        return judge(self.head, self.base)

    def text(self, title: str) -> str:
        """The report as Markdown; its pictures are those of :attr:`figures`."""
        sections = [f"# {title}", f"> {self.conclusion}"]
        if found := warnings(*self.runs):
            sections += ["## Warnings", "\n".join(f"- {warning}" for warning in found)]
        sections += ["## Scores", self._scores()]
        both = (code(self.base.name), code(self.head.name))
        for heading, header, rows in (
            ("Parameters", ("parameter", *both), self.parameters),
            ("Images (people)", ("class", *_PARTS.values()), self.data),
            ("Code and sources of the stages", ("stage", "differs in"), self.stages),
        ):
            sections.append(f"## {heading}")
            sections.append(table(header, rows) if rows else f"{self._same(heading)}.")
        sections += [confusion((self.base, self.head)), VALIDATION]
        return "\n\n".join(sections) + "\n"

    @property
    def unchanged(self) -> bool:
        """Whether parameters, data, code and scores are the same."""
        before, after = self.runs
        return not (self.parameters or self.data or self.stages) and before.test == after.test

    @property
    def conclusion(self) -> str:
        """Which of the two to keep, and why."""
        base, head = code(self.base.name), code(self.head.name)
        verdict = self.verdict
        if stale := self.runs[1].stale:
            return (
                f"**No conclusion.** The results of {head} are not of its parameters and code:"
                f" {', '.join(stale)} ran with others. Run `dvc repro` and commit."
            )
        if self.unchanged:
            return (
                f"**Nothing changed.** Parameters, data, code of the stages and scores of {head}"
                f" are those of {base}."
            )
        if self.head.leaks and not self.base.leaks:
            return (
                f"**Do not merge {head} for its score: it LEAKS.** Its test people were in training"
                f" too, those of {base} were not."
            )
        if verdict.difference is None:
            return (
                f"**The scores cannot be compared**: {verdict.why_not}. Run both on one test part,"
                " or merge for another reason."
            )
        warning = " **Both LEAK: this says nothing about new people.**" if self.head.leaks else ""
        if verdict.better:
            return f"**Merge {head}: better than {base}**, {verdict.evidence}.{warning}"
        if verdict.worse:
            return f"**Keep {base}: {head} is worse**, {verdict.evidence}.{warning}"
        if verdict.identical:
            return (
                f"**As good as {base}:** every prediction is the same class. Merge {head} for"
                f" another reason.{warning}"
            )
        return (
            f"**Keep {base}, unless {head} is wanted for another reason: the scores cannot be told"
            f" apart**, {verdict.evidence}.{warning}"
        )

    @property
    def parameters(self) -> list[tuple[str, ...]]:
        """Keys of params.yaml that differ, with both values."""
        before, after = (run.settings for run in self.runs)
        return [
            (code(key), *(_shown(settings.get(key)) for settings in (before, after)))
            for key in dict.fromkeys((*before, *after))
            if before.get(key) != after.get(key)
        ]

    @property
    def data(self) -> list[tuple[str, ...]]:
        """Images (people) of each class in each part, if any differ."""
        before, after = (run.prepare["split"] for run in self.runs)
        if before == after:
            return []
        names = dict.fromkeys(name for split in (before, after) for name in split["train"])
        return [
            (
                name,
                *(
                    _arrow(*(_count(split[part], name) for split in (before, after)))
                    for part in _PARTS
                ),
            )
            for name in names
        ]

    @property
    def stages(self) -> list[tuple[str, str]]:
        """The stages that ran on other code or data, and what differs."""
        before, after = (run.lock for run in self.runs)
        rows = []
        for stage in dict.fromkeys((*before.stages, *after.stages)):
            one, other = before.inputs(stage), after.inputs(stage)
            different = [
                code(path)
                for path in dict.fromkeys((*one, *other))
                if one.get(path) != other.get(path)
            ]
            if different:
                rows.append((code(stage), ", ".join(different)))
        return rows

    @property
    def figures(self) -> dict[str, Draw]:
        """What draws each picture of the text."""
        roles: Sequence[tuple[Group, Role]] = ((self.head, "best"), (self.base, "baseline"))
        lines = [Line(group, role, said=False) for group, role in roles]
        return {**validation(lines), **matrices((self.base, self.head))}

    def _same(self, heading: str) -> str:
        if not heading.startswith("Images"):
            return "The same in both"
        prepare = self.runs[1].prepare
        return f"The same in both: {prepare['images']} images of {prepare['subjects']} people"

    def _scores(self) -> str:
        before, after = self.runs
        rows: list[tuple[str, ...]] = []
        for metric, name in METRICS.items():
            old, new = before.score(metric), after.score(metric)
            better = (new < old) if metric in LESS_IS_BETTER else (new > old)
            change = "same" if new == old else f"{new - old:+.3f} {'better' if better else 'worse'}"
            if metric == "macro_f1":
                change = self.verdict.words
            elif self.verdict.difference is None:
                change = ""
            rows.append(
                (name, _with_interval(before, metric), _with_interval(after, metric), change)
            )
        epochs = (f"{run.train['best_epoch']} of {run.train['epochs']}" for run in self.runs)
        rows.append(("best epoch", *epochs, ""))
        header = ("", code(self.base.name), code(self.head.name), "change")
        return table(header, rows)


def _with_interval(run: Run, metric: str) -> str:
    value = f"{run.score(metric):.3f}"
    if metric not in _INTERVALS:
        return value
    *person, key = metric.split(".")
    low, high = (run.test["subject"] if person else run.test)["ci95"][key]
    return f"{value} [{low:.3f}, {high:.3f}]"


def _count(part: Mapping[str, Any], name: str) -> str:
    count = part.get(name)
    return f"{count['images']} ({count['subjects']})" if count else "–"


def _arrow(before: str, after: str) -> str:
    return before if before == after else f"{before} → {after}"


def _shown(value: object) -> str:
    return "–" if value is None else str(value)
