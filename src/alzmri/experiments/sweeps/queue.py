"""DVC's experiment queue as its files tell it: tasks, their processes, their logs, the workers.

Read from the files of the broker: importing it, or asking `dvc queue status`, takes seconds.
"""

import base64
import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import psutil

_EXPERIMENTS = Path(".dvc/tmp/exps")
_CELERY = _EXPERIMENTS / "celery"
_BROKEN = (ValueError, LookupError, TypeError, OverflowError)
"""What reading a file of the broker raises when it is not as it should be."""
_TAIL = 65_536
"""Bytes of a log that are read, from its end."""


class State(Enum):
    """Where a task is; ENDED says nothing about how."""

    QUEUED = "queued"
    RUNNING = "running"
    ENDED = "ended"


@dataclass(frozen=True)
class Task:
    """One entry of the queue: an experiment once to be run.

    Attributes:
        root: the repository.
        id: the broker's name of it.
        name: of the experiment; where it has none, the beginning of ``rev``.
        rev: the commit that the queue holds of its code and parameters.
        baseline: the commit that it started from; empty when not known.
        state: queued, running or ended.
    """

    root: Path
    id: str
    name: str
    rev: str
    baseline: str
    state: State

    @property
    def _run(self) -> Path:
        return self.root / _EXPERIMENTS / "run" / self.rev

    @property
    def workspace(self) -> Path | None:
        """The temporary copy of the repository that it runs in, once there is one."""
        folders = self.root / _EXPERIMENTS
        info = _json(self._run / f"{self.rev}.run")
        folder = Path(str(info.get("root_dir") or ""))
        # Whatever the file says, no other folder is ever taken for it.
        if folder.parent == folders:
            return folder
        # A kill while DVC wrote the file left it empty.
        for merged in folders.glob("tmp*/.git/refs/exps/exec/EXEC_MERGE"):
            with suppress(OSError):
                if merged.read_text().strip() == self.rev:
                    return folders / merged.relative_to(folders).parts[0]
        return None

    @property
    def exit_code(self) -> int | None:
        """Of its process, negative for a signal; None before it has one that ended."""
        code = _json(self._run / f"{self.rev}.json").get("returncode")
        return code if isinstance(code, int) else None

    @property
    def process(self) -> psutil.Process | None:
        """Its live process: `dvc exp exec-run`, the parent of the stages."""
        pid = _json(self._run / f"{self.rev}.json").get("pid")
        if not isinstance(pid, int):
            return None
        try:
            process = psutil.Process(pid)
            # The number may belong to another program by now.
            mine = any(self.rev in word for word in process.cmdline())
        except (psutil.Error, *_BROKEN):
            return None
        return process if mine else None

    @property
    def was_started(self) -> bool:
        """Whether it ever had a process."""
        return (self._run / f"{self.rev}.json").exists()

    @property
    def log(self) -> str:
        """The end of what it has said; empty when it has said nothing."""
        try:
            with (self._run / f"{self.rev}.out").open("rb") as file:
                file.seek(max(0, file.seek(0, 2) - _TAIL))
                return file.read().decode("utf-8", "replace")
        except OSError:
            return ""

    @property
    def traceback(self) -> str:
        """What DVC itself failed with, before there was a process; empty when it did not."""
        return str(_json(_result(self.root, self.id)).get("traceback") or "")

    def stranded(self, workers: Sequence[psutil.Process]) -> bool:
        """Whether nobody works on it or waits for its process any more, though it is "running".

        With a live worker this is certain only of what had a process: it is preparing the
        workspace, or collecting the result, without one.
        """
        if self.state is not State.RUNNING:
            return False
        process = self.process
        if process is not None:
            try:
                return process.ppid() not in {worker.pid for worker in workers}
            except psutil.Error:
                return False  # it ended at this moment: the next look tells
        if self.was_started and self.exit_code is None:
            return True
        return not workers


def tasks(root: Path) -> list[Task]:
    """All entries of the queue of the repository ``root``, the oldest first.

    What is damaged, or taken away at this moment, is left out.
    """
    broker = root / _CELERY / "broker"
    found = {}
    # In this order: one that is taken meanwhile is seen twice, not overlooked.
    for folder in ("in", "processed"):
        for path in sorted((broker / folder).glob("*.celery.msg")):
            for task in _read(root, path, queued=folder == "in"):
                found[task.id] = task
    return list(found.values())


def workers(root: Path) -> list[psutil.Process]:
    """The live workers of the repository ``root``."""
    # By their names and not by their files: a second worker of a name overwrites the first's file,
    # and then leaves.
    digest = hashlib.sha256(str(root / _CELERY).encode()).hexdigest()[:6]
    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
        except psutil.Error:
            continue
        if "queue-worker" in words and any(f"dvc-exp-{digest}-" in word for word in words):
            found.append(process)
    return found


def worker_log(root: Path) -> Path:
    """Where the first worker writes what it does."""
    return root / _CELERY / "dvc-exp-worker-1.out"


_EPOCH = re.compile(r"^epoch +(\d+)/(\d+) .*macro F1 ([\d.]+)", re.MULTILINE)
_STAGE = re.compile(r"^Running stage '(\w+)'", re.MULTILINE)


def progress(log: str) -> tuple[str, str]:
    """How far the experiment with this log is, and its latest macro F1 on validation."""
    stages, epochs = _STAGE.findall(log), _EPOCH.findall(log)
    stage = stages[-1] if stages else "starting"
    if not epochs:
        return stage, ""
    epoch, of, score = epochs[-1]
    return (f"epoch {epoch}/{of}" if stage == "train" else stage), score


def last_lines(text: str, count: int = 8) -> list[str]:
    """The last lines that are not blank; those that DVC says twice, once."""
    lines = (line.rstrip() for line in text.splitlines() if line.strip())
    return [line for line, _ in itertools.groupby(lines)][-count:]


def _read(root: Path, path: Path, *, queued: bool) -> Iterator[Task]:
    try:
        message = json.loads(path.read_text(encoding="utf-8"))
        [[entry], *_] = json.loads(base64.b64decode(message["body"]))
        task = str(message["headers"]["id"])
        rev = str(entry.get("stash_rev") or "")
        name = str(entry["name"] or entry["stash_rev"][:7])
        baseline = str(entry.get("baseline_rev") or "")
    except (OSError, AttributeError, *_BROKEN):
        return  # being written or taken away at this moment, or nobody's task
    ended = _result(root, task).exists()
    state = State.QUEUED if queued else State.ENDED if ended else State.RUNNING
    yield Task(root, task, name, rev, baseline, state)


def _result(root: Path, task: str) -> Path:
    return root / _CELERY / "result" / f"celery-task-meta-{task}"


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
