"""The experiments of a sweep on their way through DVC's queue: which to queue, also again."""

import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
from filelock import FileLock

from alzmri import git
from alzmri.errors import EnvironmentFault, UserError
from alzmri.experiments import runs
from alzmri.experiments.metrics import METRICS
from alzmri.experiments.runs import Experiment, Finished
from alzmri.experiments.sweeps import control, queue
from alzmri.experiments.sweeps.board import Line, Status
from alzmri.experiments.sweeps.queue import State, Task

AGAIN = 3
"""How often an experiment is queued again after it was killed."""
STRANDED_SECONDS = 5
"""For which a task must look stranded: its worker may be about to note the end of its process."""
_EXIT = re.compile(r"exited with (-?\d+)")
"""What DVC says of a stage that failed: -9 or 137 when it was killed."""


class Scheduler:
    """Sees to it that each of ``experiments`` is run once from the current commit.

    Args:
        root: the repository.
        experiments: all of different names.
        metric: of :data:`alzmri.experiments.metrics.METRICS`, to show.
        say: is told what happens.

    Attributes:
        missing: how many are still to be queued.

    Raises:
        UserError: when there is an experiment of such a name with other parameters or code.
    """

    def __init__(
        self,
        root: Path,
        experiments: Sequence[Experiment],
        metric: str,
        say: Callable[[str], None],
    ) -> None:
        self.root, self.missing = root, len(experiments)
        self._metric, self._say = metric, say
        self._baseline = git.head()
        self._experiments = {experiment.name: experiment for experiment in experiments}
        self._wanted = {name: one.params for name, one in self._experiments.items()}
        # Two sweeps at once must not both queue what they both miss.
        (root / ".dvc/tmp").mkdir(exist_ok=True)
        self._lock = FileLock(root / ".dvc/tmp/sweep.lock")
        entries = queue.tasks(root)
        self._refuse_others(entries)
        self._before = {task.id for task in entries if task.state is State.ENDED}
        self._known: set[str] = set()
        self._again: Counter[str] = Counter()
        self._failed: dict[str, str] = {}
        self._stranded: dict[str, float] = {}
        self._outcomes: dict[str, Line] = {}
        active = [task for task in entries if task.state is not State.ENDED]
        if others := sum(not self._is_ours(task) for task in active):
            say(f"others in DVC's queue, which run too: {others}")

    def step(self) -> list[Line]:
        """Queue one that is missing, clear what is stranded; where everything is now."""
        with self._lock:
            workers = queue.workers(self.root)
            # Where there are several of a name, the one that is not over.
            entries = sorted(queue.tasks(self.root), key=lambda task: task.state is not State.ENDED)
            tasks = {task.name: task for task in entries if self._is_ours(task)}
            # Looked at after the tasks: what ends in between has its result.
            done = runs.finished(self._baseline)
            lines, absent = [], []
            for name in self._experiments:
                task = tasks.get(name)
                if name in done:
                    lines.append(self._outcome(done[name]))
                elif name in self._failed:
                    lines.append(Line(name, Status.FAILED, self._failed[name]))
                elif task is not None and task.id not in self._before:
                    self._known.add(name)
                    lines.append(self._under_way(task, workers))
                elif name in self._known:
                    lines.append(self._fail(name, "taken out of the queue"))
                else:
                    absent.append(name)
                    lines.append(Line(name, Status.QUEUED, "soon"))
            # One at a time: workers start at the first, and what goes on is shown.
            for name in absent[:1]:
                self._put(name, tasks.get(name))
            self.missing = len(absent[1:])
            return lines

    def results(self) -> list[Finished]:
        """What has finished."""
        done = runs.finished(self._baseline)
        return [done[name] for name in self._experiments if name in done]

    def complain(self) -> None:
        """Raise EnvironmentFault when there are experiments that failed."""
        if self._failed:
            raise EnvironmentFault(
                f"{len(self._failed)} of {len(self._wanted)} experiments failed:"
                f" {', '.join(self._failed)}. All that one said: `dvc queue logs"
                f" {next(iter(self._failed))}`. When it is mended, the same command runs what is"
                " missing"
            )

    def _is_ours(self, task: Task) -> bool:
        return task.baseline == self._baseline and task.name in self._experiments

    def _refuse_others(self, entries: Sequence[Task]) -> None:
        remedies = {
            name: "dvc exp remove"
            for name, result in runs.finished(self._baseline).items()
            if name in self._wanted and not result.is_of(self._wanted[name])
        }
        verbs = {State.QUEUED: "remove", State.RUNNING: "kill"}
        for task in filter(self._is_ours, entries):
            if task.state in verbs and not self._is_unchanged(task):
                remedies[task.name] = f"dvc queue {verbs[task.state]}"
        if remedies:
            commands = (
                " ".join((verb, *(name for name in remedies if remedies[name] == verb)))
                for verb in dict.fromkeys(remedies.values())
            )
            raise UserError(
                "\n  ".join(
                    (
                        "there are experiments of these names, with other parameters, code or data:"
                        " give this sweep another --name, or remove them:",
                        *commands,
                    )
                )
            )

    def _is_unchanged(self, task: Task) -> bool:
        """Whether the workspace still gives what was queued."""
        experiment = self._experiments[task.name]
        return git.head() == self._baseline and Finished(task.name, task.rev).is_of(
            experiment.params
        )

    def _under_way(self, task: Task, workers: Sequence[psutil.Process]) -> Line:
        if task.state is State.QUEUED:
            return Line(task.name, Status.QUEUED)
        if task.state is State.ENDED:
            killed, why = _end(task)
            if killed:
                return self._put_again(task, why)
            self._say("\n  ".join((f"{task.name} failed; its last lines:", *_last_lines(task))))
            return self._fail(task.name, why)
        now = time.monotonic()
        if not task.stranded(workers):
            self._stranded.pop(task.id, None)
        elif now - self._stranded.setdefault(task.id, now) >= STRANDED_SECONDS:
            control.release(task)
            return self._put_again(task, "its worker was killed")
        place, score = queue.progress(task.log)
        return Line(task.name, Status.RUNNING, place, score and f"validation macro F1 {score}")

    def _put_again(self, task: Task, why: str) -> Line:
        if self._again[task.name] == AGAIN:
            return self._fail(task.name, f"{why}, {AGAIN + 1} times")
        if not self._is_unchanged(task):
            return self._fail(task.name, f"{why}, and the workspace has changed since")
        self._again[task.name] += 1
        self._put(task.name, task)
        self._say(f"{task.name}: {why}; queued again, goes on from its checkpoint")
        return Line(task.name, Status.QUEUED, "again")

    def _put(self, name: str, ended: Task | None) -> None:
        if ended is not None:
            control.forget(ended)
        control.put(self.root, self._experiments[name])
        self._known.add(name)

    def _fail(self, name: str, why: str) -> Line:
        self._failed[name] = why
        return Line(name, Status.FAILED, why)

    def _outcome(self, result: Finished) -> Line:
        if result.commit not in self._outcomes:
            train = result.metrics("train")
            place = f"best epoch {train['best_epoch']}/{train['epochs']}"
            score = f"{METRICS[self._metric]} {result.score(self._metric):.3f}"
            self._outcomes[result.commit] = Line(result.name, Status.DONE, place, score)
        return self._outcomes[result.commit]


def _end(task: Task) -> tuple[bool, str]:
    """Whether ``task``, which has no result, was killed rather than failed; and how it ended."""
    code = task.exit_code
    if stages := _EXIT.findall(task.log):
        status = int(stages[-1])
        code = 128 - status if 128 < status < 160 else status  # as a shell tells a signal
    if code is None:
        return False, "did not start"
    if code == -signal.SIGINT:
        return False, "stopped, as by `dvc queue kill`"
    if code < 0:
        return True, f"killed by signal {-code}"
    if code == 0:
        return True, "its result was not collected"
    return False, f"exit status {code}"


def _last_lines(task: Task) -> Iterator[str]:
    yield from queue.last_lines(task.log or task.traceback)
