"""`alzmri sweep`: run what is missing of a grid through DVC's queue, then compare all of it."""

import time
from collections.abc import Sequence
from pathlib import Path

from alzmri import terminal
from alzmri.experiments import compare, control, queue
from alzmri.experiments.board import Board, Status
from alzmri.experiments.grid import Sweep
from alzmri.experiments.queue import State
from alzmri.experiments.runs import Finished
from alzmri.experiments.scheduler import Scheduler
from alzmri.markdown import interval, table

LOWER_IS_BETTER = {"loss", "ece", "brier"}
_POLL_SECONDS = 1


def sweep(plan: Sweep, jobs: int, metric: str) -> None:
    """Run what is missing of ``plan``; print its table, write its page.

    Args:
        plan: the experiments.
        jobs: how many run at once.
        metric: of ``metrics/evaluate.json``, to sort by.

    Raises:
        UserError: before anything is queued, when an experiment of such a name is another one.
        EnvironmentFault: at the end, when experiments failed; or when no worker stays.
        KeyboardInterrupt: after saying how to go on; DVC's workers do so by themselves.
    """
    board = Board()
    scheduler = Scheduler(Path.cwd().resolve(), plan.experiments, metric, board.say)
    try:
        with board:
            _watch(scheduler, board, jobs)
    except KeyboardInterrupt:
        terminal.err.print(
            "DVC's workers go on without this. To watch again, and queue what is missing: the same"
            " command. To end it: dvc queue stop --kill, dvc queue remove --queued"
        )
        raise
    if results := scheduler.results():
        best = sorted(
            results,
            key=lambda run: float(run.metrics("evaluate")[metric]),
            reverse=metric not in LOWER_IS_BETTER,
        )
        terminal.out.print(_table(best, metric), markup=False)
        terminal.out.print(f"compared: {compare.write(best, plan.name, metric)}", markup=False)
    scheduler.complain()


def _watch(scheduler: Scheduler, board: Board, jobs: int) -> None:
    """Return when everything has ended."""
    crew = control.Crew(scheduler.root, jobs)
    while True:
        lines = scheduler.step()
        board.show(lines)
        if all(line.status in (Status.DONE, Status.FAILED) for line in lines):
            return
        states = [task.state for task in queue.tasks(scheduler.root)]
        waiting = states.count(State.QUEUED) + scheduler.missing
        crew.keep(waiting, states.count(State.RUNNING))
        if not scheduler.missing:
            time.sleep(_POLL_SECONDS)


def _table(best: Sequence[Finished], metric: str) -> str:
    rows = []
    for run in best:
        test, train = run.metrics("evaluate"), run.metrics("train")
        span = test["ci95"].get(metric)
        rows.append(
            (
                run.name + (" LEAKS" if run.params.split.unit == "slice" else ""),
                interval(test[metric], span) if span else f"{test[metric]:.3f}",
                f"{train['best_epoch']} of {train['epochs']}",
            )
        )
    return table(("experiment", f"{metric} on the test set", "best epoch"), rows)
