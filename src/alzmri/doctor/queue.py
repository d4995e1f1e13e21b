"""Check of DVC's experiment queue: a task that nobody works on stays "Running" for ever."""

from pathlib import Path

from alzmri.doctor.finding import Finding, ok, warn
from alzmri.experiments.sweeps.queue import State, tasks, workers


def stranded_tasks(root: Path) -> Finding:
    """Tasks taken from the queue, without a result, whose worker is gone."""
    crew = workers(root)
    running = [task for task in tasks(root) if task.state is State.RUNNING]
    names = " ".join(sorted(task.name for task in running if task.stranded(crew)))
    if not names:
        return ok("queue", f"{len(running)} experiments running")
    remedy = f"run `dvc queue kill {names}`, or the `alzmri sweep` that they are of"
    return warn("queue", f"shown as running, but their worker is gone: {names}", remedy)
