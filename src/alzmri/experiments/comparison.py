"""``alzmri compare``: groups of runs on one page, ranked, the best against each of the others."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np

from alzmri import git, terminal
from alzmri.errors import UserError
from alzmri.evaluation.markdown import records, table
from alzmri.experiments import charts
from alzmri.experiments.charts import Curve
from alzmri.experiments.document import Page, code, folded
from alzmri.experiments.groups import Group, Verdict, compare, grouped, varying, warnings
from alzmri.experiments.runs import REPEATED, FinishedRun
from alzmri.experiments.scores import LESS_IS_BETTER, METRICS, number

BASELINE = "baseline"
"""The name of the committed run that the experiments started from."""

_NAMED = 3
"""Experiments named in a sentence at most."""
_MATRICES = 12
"""Confusion matrices shown at most, the best first."""

_REMARKS = """\
± is the standard deviation over seeds and folds. The interval is of macro F1, over the test
subjects, the fitted models held fixed. *Best − this* is the difference in macro F1 with the same
weights of the subjects for both, seed by seed: with zero inside its interval, the difference is not
significant."""


def write(finished: Sequence[FinishedRun], name: str, metric: str) -> dict[str, Any]:
    """Write the report ``name`` on one run at least; return what :meth:`Page.write` does.

    Runs that differ in seeds or fold only are one line. The committed run is added as the baseline
    if it was tested on the same subjects. The best by ``metric`` comes first.

    Raises:
        UserError: when a run's files are not there.
    """
    for run in (run for run in finished if run.stale):
        terminal.warn(f"{run.name} is left out: {', '.join(run.stale)} did not run in it")
    fresh = [run for run in finished if not run.stale]
    if not fresh:
        raise UserError("no experiment ran the whole pipeline: `dvc exp run`")
    for run in fresh:
        run.load()
    return report(*_with_baseline(grouped(fresh)), metric, name).write(name)


def _with_baseline(groups: list[Group]) -> tuple[list[Group], str | None]:
    """``groups`` and the committed run, unless one of them repeats it; and the baseline's name."""
    committed = FinishedRun(BASELINE, git.head(), is_experiment=False)
    alone = Group(BASELINE, (committed,))
    try:
        for group in groups:
            if group.runs[0].identity == committed.identity:
                return groups, group.name
        comparable = any(compare(group, alone).difference for group in groups)
        taken = any(group.name == BASELINE for group in groups)
        committed.load()
        if comparable and not taken and not committed.stale:
            return [*groups, alone], BASELINE
    except UserError as error:
        terminal.warn(f"shown without the committed run: {error}")
    return groups, None


def ranked(groups: Sequence[Group], metric: str) -> list[Group]:
    """The best first; those that leak after all that do not."""
    sign = 1 if metric in LESS_IS_BETTER else -1

    def rank(group: Group) -> tuple[bool, float, str]:
        score = sign * group.mean(metric)
        return group.leaks, np.inf if np.isnan(score) else score, group.name

    return sorted(groups, key=rank)


def report(groups: Sequence[Group], baseline: str | None, metric: str, title: str) -> Page:
    """The page on ``groups``, one at least, the best by ``metric`` first.

    ``baseline`` is the name of the one that the others are changes of; None when it is not known.
    """
    groups = ranked(groups, metric)
    best, keys, runs = groups[0], varying(groups), [run for group in groups for run in group.runs]
    verdicts = {group.name: compare(best, group) for group in groups[1:]}
    page = Page(
        title,
        _conclusion(best, verdicts, baseline, metric),
        [*warnings(groups, best, verdicts), *_warnings(groups, metric)],
        metric=metric,
        baseline=baseline,
        experiments=[
            {
                "name": group.name,
                "runs": [run.name for run in group.runs],
                "leaks": group.leaks,
                "parameters": {key: group.settings.get(key) for key in keys},
                "scores": {key: number(group.mean(key)) for key in METRICS},
                "spread": {key: number(group.spread(key)) for key in METRICS},
                "ci95": {"macro_f1": group.interval},
                "best_against_this": asdict(one) if one else None,
            }
            for group in groups
            for one in [verdicts.get(group.name)]
        ],
    )
    rows = []
    for group in groups:
        bold = "" if group.name in verdicts else "**"
        name = code(group.name) + " baseline" * (group.name == baseline != BASELINE)
        # Each score is there once: what sorts, what the verdicts are about, what chose the epoch.
        row: dict[str, object] = {
            "experiment": bold + name + " **LEAKS**" * group.leaks + bold,
            METRICS[metric]: bold + group.shown(metric) + bold,
        }
        row.setdefault(METRICS["macro_f1"], group.shown("macro_f1"))
        row["95 % over subjects"] = "–".join(f"{bound:.3f}" for bound in group.interval)
        row["best − this"] = "" if bold else verdicts[group.name].words
        row |= {key.removeprefix("train."): group.settings.get(key) for key in keys}
        row["runs"] = len(group.runs)
        row.setdefault(METRICS["val_macro_f1"], group.shown("val_macro_f1"))
        rows.append(row)
    alone = [
        {
            "run": code(run.name) + " **LEAKS**" * run.leaks,
            **dict(zip(REPEATED, run.repetition, strict=True)),
            "macro F1": run.shown("macro_f1"),
            "accuracy": run.shown("accuracy"),
            "best epoch": run.best_epoch,
        }
        for run in runs
    ]
    differ = {*keys, *REPEATED}
    common = [(code(key), value) for key, value in best.settings.items() if key not in differ]
    page.add(
        f"By {METRICS[metric]}",
        records(rows),
        _REMARKS,
        folded(f"The {len(runs)} runs one by one", records(alone)),
        folded("Parameters in common", table(("parameter", "value"), common)),
    )
    alike = [one for one in groups if one.leaks == best.leaks and one.name != BASELINE]
    if len(axes := varying(alike)) == 2 and not np.isnan(best.mean(metric)):
        draw = partial(charts.heat_map, alike, axes, metric)
        alt = f"{METRICS[metric]}; the best is framed"
        page.add(f"{axes[0]} by {axes[1]}", page.picture("heatmap.png", alt, draw))
    roles: Mapping[str | None, charts.Role] = {baseline: "baseline", best.name: "best"}
    curves = [Curve(group, roles.get(group.name, "other")) for group in groups]
    charts.add(page, curves, groups[:_MATRICES])
    return page


def _conclusion(
    best: Group, verdicts: Mapping[str, Verdict], baseline: str | None, metric: str
) -> str:
    """Which experiment to merge, and why."""
    name, (low, high) = code(best.name), best.interval
    scores = f"{METRICS[metric]} {best.shown(metric)}"
    scores += f" over {len(best.runs)} runs, " if len(best.runs) > 1 else ", "
    scores += "" if metric == "macro_f1" else f"macro F1 {best.mean('macro_f1'):.3f} "
    scores += f"[{low:.3f}, {high:.3f}] over subjects"
    if best.leaks:
        return (
            "**Merge nothing by these scores: every run LEAKS.** Their test subjects were in"
            f" training too. {name} scores highest: {scores}."
        )
    base = "the baseline " * (baseline != BASELINE) + code(baseline)
    if baseline == best.name:
        return f"**Keep {base}.** Nothing scores higher: {scores}."
    first = verdicts[baseline].advice(name, base) if baseline else "**No baseline.**"
    said = f"{first} {name} scores best: {scores}."
    same = ("the same", "not significantly different")
    if alike := [code(other) for other, one in verdicts.items() if one.known in same]:
        more = f" and {len(alike) - _NAMED} more" if len(alike) > _NAMED else ""
        said += f" It is not significantly different from {', '.join(alike[:_NAMED])}{more}."
    return said


def _warnings(groups: Sequence[Group], metric: str) -> list[str]:
    """Warnings about the ranking of ``groups``."""
    best, found = groups[0], []
    if others := [code(g.name) for g in groups if g.runs[0].sources != best.runs[0].sources]:
        found.append(
            f"Other code or data than {code(best.name)} ran in {', '.join(others)}:"
            " `alzmri review` lists what differs."
        )
    if len(groups) > 2 and not metric.startswith("val_"):
        found.append(
            f"The best of {len(groups)} by its test score owes some of it to luck."
            " `--metric val_macro_f1` chooses by validation and leaves the test alone."
        )
    return found
