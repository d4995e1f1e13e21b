"""`alzmri sweep`: run what is missing of a grid or a search, then compare all of it."""

from collections.abc import Sequence

from alzmri import terminal
from alzmri.errors import UserError
from alzmri.evaluation.markdown import interval, table
from alzmri.experiments import runs
from alzmri.experiments.metrics import LESS_IS_BETTER, METRICS
from alzmri.experiments.reports import comparison, document
from alzmri.experiments.runner import Runner
from alzmri.experiments.runs import Run
from alzmri.experiments.sweeps.grid import Grid
from alzmri.experiments.sweeps.search import Search


def sweep(plan: Grid | Search, jobs: int, metric: str) -> None:
    """Run what is missing of ``plan``; print its table, write its page.

    Args:
        plan: the experiments.
        jobs: how many run at once.
        metric: of :data:`alzmri.experiments.metrics.METRICS`, to sort by.

    Raises:
        UserError: before anything runs, when an experiment of such a name is another one.
        EnvironmentFault: at the end, when experiments failed.
    """
    runner = Runner(jobs, plan.total, metric)
    finished = runs.finished(runner.baseline)
    others = [one.name for one in plan.known(finished) if not finished[one.name].is_of(one.params)]
    if others:
        raise UserError(
            "there are experiments of these names, with other parameters, code or data: give this"
            f" sweep another --name, or remove them:\n  dvc exp remove {' '.join(others)}"
        )
    if results := runner.run(plan.ask(runner.baseline, runner.results)):
        best = sorted(
            results, key=lambda run: run.score(metric), reverse=metric not in LESS_IS_BETTER
        )
        terminal.out.print(_table(best, metric), markup=False)
        document.say(comparison.write(best, plan.name, metric))
    runner.complain()


def _table(best: Sequence[Run], metric: str) -> str:
    rows = []
    for run in best:
        score, span = run.score(metric), run.evaluation["ci95"].get(metric)
        settings = run.params
        rows.append(
            (
                run.name + (" LEAKS" if settings.split.unit == "slice" else ""),
                interval(score, span) if span else f"{score:.3f}",
                f"{run.training['best_epoch']} of {settings.train.epochs}",
            )
        )
    return table(("experiment", METRICS[metric], "best epoch"), rows)
