"""`alzmri sweep`: run what is missing of a grid or a search, then compare all of it."""

from alzmri import terminal
from alzmri.errors import UserError
from alzmri.evaluation.markdown import table
from alzmri.experiments import runs
from alzmri.experiments.metrics import LESS_IS_BETTER, METRICS
from alzmri.experiments.reports import comparison, document
from alzmri.experiments.runner import Runner
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
        sign = 1 if metric in LESS_IS_BETTER else -1
        best = sorted(results, key=lambda run: sign * run.score(metric))
        rows = (
            (run.name + " LEAKS" * run.leaks, run.shown(metric), run.best_epoch) for run in best
        )
        header = ("experiment", METRICS[metric], "best epoch")
        terminal.out.print(table(header, rows), markup=False)
        document.say(comparison.write(best, plan.name, metric))
    runner.complain()
