"""What is done to DVC's experiment queue, by DVC: put, start workers, clear what is stranded."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from alzmri import terminal
from alzmri.errors import EnvironmentFault
from alzmri.experiments.runs import Experiment, environment
from alzmri.experiments.sweeps import queue
from alzmri.experiments.sweeps.queue import Task

STARTS = 5
"""Of workers, while no task moves: then something is wrong with them."""
SECONDS_BETWEEN_STARTS = 5
"""A worker that finds another of its name alive leaves at once, also when that one is leaving."""
IDLE_SECONDS = 120
"""For which live workers may leave a queue as it is before they are stopped and started anew."""
_LOCK_SECONDS = 180
"""How long workers may hold DVC's lock on the queue: its own commands try as long."""
_WRITE_SECONDS = 10
"""DVC writes a reference, or a file of an experiment, in milliseconds: a lock or half a file that
is older was left by a killed process."""
_SAVE_SECONDS = 60
"""How long a training may take to save its work."""


def put(root: Path, experiment: Experiment) -> None:
    """Queue ``experiment`` with the workspace's code, as `dvc exp run --queue` does.

    Raises:
        EnvironmentFault: with DVC's reason when it refuses.
    """
    from dvc.repo import Repo

    settings = [f"{key}={value}" for key, value in experiment.settings.items()]

    def run() -> None:
        with Repo(str(root)) as repo:
            # With a target, DVC leaves out stages that it does not need, such as an unused phantom.
            repo.experiments.run(
                targets=["evaluate"], queue=True, name=experiment.name, params=settings
            )

    _patiently(run, f"queue {experiment.name}")


def forget(task: Task) -> None:
    """Take ``task``, which has ended, out of the queue, as `dvc queue remove` does."""
    from dvc.repo import Repo

    def remove() -> None:
        with Repo(str(task.root)) as repo:
            repo.experiments.celery_queue.remove([task.rev])

    _patiently(remove, f"clear {task.name} from the queue")


def release(task: Task) -> None:
    """Stop what is left of a stranded task, which saves its training, and clear it away.

    As `dvc queue kill` does, until nothing is left, and with its temporary workspace.
    """
    from dvc.repo import Repo

    workspace = task.workspace

    def kill() -> None:
        with Repo(str(task.root)) as repo:
            tasks = repo.experiments.celery_queue
            if task.process is not None:
                tasks.kill([task.rev])  # as Ctrl-C
                _await_end(task)
            if information := tasks.proc.get(task.rev):
                # Its worker cannot note that it ended, and its number may be another program's by
                # now, which killing would reach.
                information.returncode = -1
                tasks.proc[task.rev] = information
            tasks.kill([task.rev])  # without a process, this marks it as failed

    _patiently(kill, f"clear {task.name} from the queue")
    if workspace is not None:
        shutil.rmtree(workspace, ignore_errors=True)


def _await_end(task: Task) -> None:
    deadline = time.monotonic() + _SAVE_SECONDS
    while (process := task.process) is not None:
        if time.monotonic() > deadline:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        time.sleep(0.1)


class Crew:
    """Keeps DVC's workers at the queue; they outlive this program.

    Args:
        root: the repository.
        jobs: how many experiments may run at once.
    """

    def __init__(self, root: Path, jobs: int) -> None:
        self._root, self._jobs = root, jobs
        self._starts = 0
        self._next_start = 0.0
        self._moved_at = time.monotonic()
        self._seen: object = None

    def keep(self, queued: int, running: int) -> None:
        """Start workers where some are missing, stop those that do nothing.

        Args:
            queued: tasks that wait, whoever's.
            running: tasks that are taken, whoever's.

        Raises:
            EnvironmentFault: when no worker stays.
        """
        now = time.monotonic()
        if (queued, running) != self._seen:
            self._seen, self._moved_at, self._starts = (queued, running), now, 0
        workers = queue.workers(self._root)
        if workers and queued and not running and now - self._moved_at > IDLE_SECONDS:
            terminal.warn(f"the workers took nothing for {IDLE_SECONDS} s: starting others")
            for worker in workers:
                with suppress(psutil.NoSuchProcess):
                    worker.kill()
            self._moved_at = now
            return
        wanted = min(self._jobs, queued + running)
        if not queued or len(workers) >= wanted or now < self._next_start:
            return
        if self._starts == STARTS:
            log = queue.worker_log(self._root)
            said = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
            raise EnvironmentFault(
                "\n  ".join(
                    (
                        f"DVC's worker was started {STARTS} times and does not stay; the last of"
                        f" {log}:",
                        *queue.last_lines(said),
                        "mend that, then run this again: what is queued stays queued",
                    )
                )
            )
        self._starts += 1
        self._next_start = now + SECONDS_BETWEEN_STARTS
        self._start(wanted)

    def _start(self, jobs: int) -> None:
        variables = environment()
        if jobs > 1:
            # With as many threads each as there are cores, trainings wait for each other.
            variables.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
        # No pipe: the worker would hold it open after the command has ended.
        done = subprocess.run(
            [sys.executable, "-m", "dvc", "queue", "start", "--quiet", "--jobs", str(jobs)],
            cwd=self._root,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
        if done.returncode:
            raise EnvironmentFault(
                f"`dvc queue start` failed with exit status {done.returncode}: run it to see why"
            )


def _patiently(action: Callable[[], None], what: str) -> None:
    from dulwich.file import FileLocked
    from dvc.exceptions import DvcException
    from dvc.lock import LockError
    from dvc.utils.serialize import ParseError
    from scmrepo.exceptions import SCMError

    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            return action()
        except LockError as error:
            if time.monotonic() > deadline:
                raise EnvironmentFault(f"DVC cannot {what}: {error}") from None
        except FileLocked as error:
            _unlink_if_left(Path(os.fsdecode(error.lockfilename)))
        except (DvcException, SCMError) as error:
            if not (isinstance(error, ParseError) and error.path.endswith(".run")):
                raise EnvironmentFault(f"DVC cannot {what}: {error}") from None
            # Without it, DVC takes the experiment for one that failed before it began.
            _unlink_if_left(Path(error.path))
        time.sleep(0.5)


def _unlink_if_left(path: Path) -> None:
    with suppress(FileNotFoundError):
        if time.time() - path.stat().st_mtime > _WRITE_SECONDS:
            path.unlink()
