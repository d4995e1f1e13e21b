"""``alzmri compare``: groups of runs on one page, ranked, the best against each of the others."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from alzmri import git, terminal
from alzmri.errors import UserError
from alzmri.evaluation.markdown import records, table
from alzmri.experiments.metrics import LESS_IS_BETTER, METRICS, number
from alzmri.experiments.reports import charts, document
from alzmri.experiments.reports.charts import Line
from alzmri.experiments.reports.document import Page, code, folded, plain
from alzmri.experiments.reports.groups import Group, Verdict, compare, grouped, varying
from alzmri.experiments.runs import REPEATED, Commit, Run

BASELINE = "baseline"
"""What the committed run that the experiments started from is called."""

_ALIKE = ("the same", "cannot be told apart")
_NAMED = 3
"""Experiments named in a sentence at most."""
_MATRICES = 12
"""Confusion matrices shown at most, the best first."""

_REMARKS = """\
± is the standard deviation over seeds and folds. The interval is of macro F1, by resampling the
test subjects within their class. *Best − this* is the difference in macro F1 with the same subjects
drawn for both, seed by seed: where its interval has zero inside, the two cannot be told apart."""


def write(finished: Sequence[Run], name: str, metric: str) -> dict[str, Any]:
    """Write ``reports/NAME/index.html`` and, with its pictures, ``README.md``.

    Runs that differ in seeds or fold only are one line. The committed run is added as the baseline
    if it was tested on the same subjects.

    Args:
        finished: one at least.
        name: of the report.
        metric: of :data:`alzmri.experiments.metrics.METRICS`; the best comes first.

    Returns:
        What the report says, and the paths ``written``, the HTML first.

    Raises:
        UserError: when a run's files are not there.
    """
    for run in finished:
        if not run.stale:
            run.load()
        else:
            terminal.warn(f"{run.name} is left out: {', '.join(run.stale)} did not run in it")
    fresh = [run for run in finished if not run.stale]
    if not fresh:
        raise UserError("no experiment ran the whole pipeline: `dvc exp run`")
    comparison = Comparison(*_with_baseline(grouped(fresh)), metric)
    return {**comparison.content, "written": comparison.page(name).write(document.REPORTS / name)}


def _with_baseline(groups: list[Group]) -> tuple[list[Group], str | None]:
    """``groups`` and the committed run, unless one of them repeats it; and the baseline's name."""
    committed = Commit(BASELINE, git.head())
    alone, taken = Group(BASELINE, (committed,)), any(group.name == BASELINE for group in groups)
    try:
        for group in groups:
            if group.runs[0].identity == committed.identity:
                return groups, group.name
        comparable = any(compare(group, alone).difference for group in groups)
        committed.load()
        if comparable and not taken and not committed.stale:
            return [*groups, alone], BASELINE
    except UserError as error:
        terminal.warn(f"shown without the committed run: {error}")
    return groups, None


def warnings(groups: Sequence[Group], new: Group, verdicts: Mapping[str, Verdict]) -> list[str]:
    """What makes scores mean less than they seem to: leaks, shuffled labels, other tests.

    Args:
        groups: all that are on the page.
        new: one of them.
        verdicts: on ``new`` against each of the others, by name.
    """
    known = [
        f"{code(group.name)} ({test['split']['shared_subjects']} of {test['subject']['n']})"
        for group in groups
        if group.leaks
        for test in [group.runs[0].evaluation]
    ]
    shuffled = [code(group.name) for group in groups if group.settings.get("data.shuffle_labels")]
    apart = [f"{code(k)} ({one.evidence})" for k, one in verdicts.items() if not one.difference]
    found = []
    if known:
        found.append(
            f"**LEAKS: {', '.join(known)} of the test subjects were in training too.** No estimate"
            " for new subjects, whatever the score."
        )
    if shuffled:
        names = ", ".join(shuffled)
        found.append(f"Labels are shuffled between subjects: {names} should score at chance.")
    if apart:
        found.append(
            f"**Not comparable with {code(new.name)}**: {', '.join(apart)}. Their scores are of"
            " another test; no difference is given."
        )
    return found


def _alone(run: Run) -> dict[str, object]:
    return {
        "run": code(run.name) + " **LEAKS**" * run.leaks,
        **dict(zip(REPEATED, run.repetition, strict=True)),
        "macro F1": run.shown("macro_f1"),
        "accuracy": run.shown("accuracy"),
        "best epoch": run.best_epoch,
    }


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
        """The group that is ranked first."""
        return self.ranked[0]

    @cached_property
    def verdicts(self) -> Mapping[str, Verdict]:
        """The best against each of the others, by name."""
        return {group.name: compare(self.best, group) for group in self.ranked[1:]}

    @property
    def conclusion(self) -> str:
        """Which experiment to merge, and why."""
        best, runs, (low, high) = code(self.best.name), len(self.best.runs), self.best.interval
        scores = f"{METRICS[self.metric]} {self.best.shown(self.metric)}"
        scores += f" over {runs} runs, " if runs > 1 else ", "
        scores += "" if self.metric == "macro_f1" else f"macro F1 {self.best.mean('macro_f1'):.3f} "
        scores += f"[{low:.3f}, {high:.3f}] over subjects"
        alike = [name for name, one in self.verdicts.items() if one.known in _ALIKE]
        more = f" and {len(alike) - _NAMED} more" if len(alike) > _NAMED else ""
        others = f" It cannot be told apart from {', '.join(map(code, alike[:_NAMED]))}{more}."
        others = f"{best} scores best: {scores}.{others if alike else ''}"
        base = code(self.baseline)
        base = base if self.baseline == BASELINE else f"the baseline {base}"
        if self.best.leaks:
            return (
                "**Merge nothing by these scores: every run LEAKS.** Their test subjects were in"
                f" training too. {best} scores highest: {scores}."
            )
        if self.baseline is None:
            return f"**No baseline.** {others}"
        if self.baseline == self.best.name:
            return f"**Keep {base}.** Nothing scores higher: {scores}."
        return f"{self.verdicts[self.baseline].advice(best, base)} {others}"

    @property
    def warnings(self) -> list[str]:
        """What to know before believing the ranking."""
        found = warnings(self.groups, self.best, self.verdicts)
        sources = self.best.runs[0].sources
        if others := [code(g.name) for g in self.groups if g.runs[0].sources != sources]:
            found.append(
                f"Other code or data than {code(self.best.name)} ran in {', '.join(others)}:"
                " `alzmri review` lists what differs."
            )
        if len(self.groups) > 2 and not self.metric.startswith("val_"):
            found.append(
                f"The best of {len(self.groups)} by its test score owes some of it to luck."
                " `--metric val_macro_f1` chooses by validation and leaves the test alone."
            )
        return found

    def page(self, title: str) -> Page:
        """The report."""
        page = Page(title, self.conclusion, self.warnings)
        runs = [run for group in self.ranked for run in group.runs]
        different = {*varying(self.groups), *REPEATED}
        settings = self.best.settings.items()
        common = ((code(key), value) for key, value in settings if key not in different)
        page.add(
            f"By {METRICS[self.metric]}",
            records(list(map(self._row, self.ranked))),
            _REMARKS,
            folded(f"The {len(runs)} runs one by one", records(list(map(_alone, runs)))),
            folded("What all of them have in common", table(("parameter", "value"), common)),
        )
        alike = [g for g in self.ranked if g.leaks == self.best.leaks and g.name != BASELINE]
        keys = varying(alike)
        if len(keys) == 2 and not np.isnan(self.best.mean(self.metric)):
            draw = partial(charts.heat_map, alike, keys, self.metric)
            alt = f"{METRICS[self.metric]}; the best is framed"
            page.add(f"{keys[0]} by {keys[1]}", page.picture("heatmap.png", alt, draw))
        roles: dict[str | None, charts.Role] = {self.baseline: "baseline", self.best.name: "best"}
        lines = [Line(group, roles.get(group.name, "other")) for group in self.ranked]
        charts.add(page, lines, self.ranked[:_MATRICES])
        return page

    def _row(self, group: Group) -> dict[str, object]:
        """A row of the ranking.

        Each score is there once: what sorts, what the verdicts are about, what chose the epoch.
        """
        bold, against = ("**", "") if group is self.best else ("", self.verdicts[group.name].words)
        name = code(group.name) + " baseline" * (group.name == self.baseline != BASELINE)
        low, high = group.interval
        row: dict[str, object] = {
            "experiment": bold + name + " **LEAKS**" * group.leaks + bold,
            METRICS[self.metric]: bold + group.shown(self.metric) + bold,
        }
        row.setdefault(METRICS["macro_f1"], group.shown("macro_f1"))
        row |= {"95 % over subjects": f"{low:.3f}–{high:.3f}", "best − this": against}
        row |= {k.removeprefix("train."): group.settings.get(k) for k in varying(self.groups)}
        row["runs"] = len(group.runs)
        row.setdefault(METRICS["val_macro_f1"], group.shown("val_macro_f1"))
        return row

    @property
    def content(self) -> dict[str, Any]:
        """What the report says, for a program to read."""
        return {
            "conclusion": plain(self.conclusion),
            "warnings": [plain(warning) for warning in self.warnings],
            "metric": self.metric,
            "baseline": self.baseline,
            "experiments": [
                {
                    "name": group.name,
                    "runs": [run.name for run in group.runs],
                    "leaks": group.leaks,
                    "parameters": {key: group.settings.get(key) for key in varying(self.groups)},
                    "scores": {metric: number(group.mean(metric)) for metric in METRICS},
                    "spread": {metric: number(group.spread(metric)) for metric in METRICS},
                    "ci95": {"macro_f1": group.interval},
                    "best_against_this": asdict(one) if one else None,
                }
                for group in self.ranked
                for one in [self.verdicts.get(group.name)]
            ],
        }
