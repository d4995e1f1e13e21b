"""`alzmri sweep`: run what is missing of a grid through DVC's queue, then compare all of it."""

import time
from collections.abc import Sequence
from pathlib import Path

from alzmri import terminal
from alzmri.evaluation.markdown import interval, table
from alzmri.experiments.metrics import LESS_IS_BETTER, METRICS
from alzmri.experiments.reports import compare, document
from alzmri.experiments.runs import Finished
from alzmri.experiments.sweeps import control, queue
from alzmri.experiments.sweeps.board import Board, Status
from alzmri.experiments.sweeps.grid import Sweep
from alzmri.experiments.sweeps.queue import State
from alzmri.experiments.sweeps.scheduler import Scheduler

_POLL_SECONDS = 1


def sweep(plan: Sweep, jobs: int, metric: str) -> None:
    """Run what is missing of ``plan``; print its table, write its page.

    Args:
        plan: the experiments.
        jobs: how many run at once.
        metric: of :data:`alzmri.experiments.metrics.METRICS`, to sort by.

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
            results, key=lambda run: run.score(metric), reverse=metric not in LESS_IS_BETTER
        )
        terminal.out.print(_table(best, metric), markup=False)
        written = compare.write(best, plan.name, metric)
        terminal.say(document.conclusion(written))
        terminal.say(f"written: {written} and README.md beside it")
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
        train = run.metrics("train")
        span = run.metrics("evaluate")["ci95"].get(metric)
        score = run.score(metric)
        rows.append(
            (
                run.name + (" LEAKS" if run.params.split.unit == "slice" else ""),
                interval(score, span) if span else f"{score:.3f}",
                f"{train['best_epoch']} of {train['epochs']}",
            )
        )
    return table(("experiment", METRICS[metric], "best epoch"), rows)
