"""``alzmri compare``: a set of experiments on one page."""

from collections.abc import Sequence
from pathlib import Path

from alzmri import terminal
from alzmri.errors import UserError
from alzmri.experiments.metrics import check_metric
from alzmri.experiments.reports import comparison_report, document
from alzmri.experiments.reports.comparison import BASELINE, Comparison
from alzmri.experiments.reports.groups import Group, Run, grouped, identity
from alzmri.experiments.reports.revisions import Revision, revision
from alzmri.experiments.reports.verdict import judge
from alzmri.experiments.runs import Finished


def write(finished: Sequence[Finished], name: str, metric: str) -> Path:
    """Write ``reports/NAME/index.html`` and, with its pictures, ``README.md``.

    Runs that differ in seeds or fold only are one line. The committed run is added as the baseline
    if it was tested on the same people.

    Args:
        finished: one at least.
        name: of the report.
        metric: what sorts it, one of :data:`alzmri.experiments.metrics.METRICS`.

    Returns:
        The path of the HTML.

    Raises:
        UserError: when a run's files are not there, or the metric is not known.
    """
    check_metric(metric)
    runs = [Run.of(run) for run in finished]
    fresh = [run for run in runs if not run.stale]
    for run in runs:
        if run.stale:
            terminal.warn(f"{run.name} is left out: {', '.join(run.stale)} did not run in it")
    if not fresh:
        raise UserError("no experiment ran the whole pipeline: `dvc exp run`")
    comparison = Comparison(*_with_baseline(grouped(fresh)), metric)
    return document.write(
        document.REPORTS / name,
        name,
        comparison_report.text(comparison, name),
        comparison_report.figures(comparison),
    )


def chosen(finished: dict[str, Finished], words: Sequence[str]) -> list[Finished]:
    """Those of ``finished`` whose names are, or begin with, one of ``words``; all without words.

    Raises:
        UserError: when a word fits none.
    """
    if not finished:
        raise UserError(
            "no experiment started from this commit: `dvc exp run -S train.lr=0.0005` makes one,"
            " `dvc exp list -A` shows those of other commits"
        )
    if missing := [word for word in words if not any(name.startswith(word) for name in finished)]:
        raise UserError(
            f"{', '.join(missing)}: no experiment of this commit begins so; there are"
            f" {', '.join(sorted(finished))}"
        )
    return [run for name, run in finished.items() if name.startswith(tuple(words) or "")]


def _with_baseline(groups: list[Group]) -> tuple[list[Group], str | None]:
    """``groups`` and the committed run, unless one of them repeats it; and the baseline's name."""
    committed = Revision(BASELINE, revision("HEAD").commit)
    for group in groups:
        if identity(group.settings) == identity(committed.settings):
            return groups, group.name
    if any(group.name == BASELINE for group in groups):
        return groups, None
    try:
        run = Run.of(committed)
    except UserError as error:
        terminal.warn(f"shown without the committed run: {error}")
        return groups, None
    alone = Group(BASELINE, (run,))
    if run.stale or all(judge(group, alone).difference is None for group in groups):
        return groups, None
    return [*groups, alone], BASELINE
