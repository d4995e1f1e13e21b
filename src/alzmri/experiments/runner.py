"""Running experiments: each is one ``dvc exp run --temp`` of all stages, several at once."""

import csv
import fcntl
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from alzmri import git, terminal
from alzmri.errors import EnvironmentFault
from alzmri.experiments import runs
from alzmri.experiments.board import Board, Line, Status
from alzmri.experiments.metrics import METRICS
from alzmri.experiments.runs import Experiment, Finished

AGAIN = 3
"""How often an experiment that was killed is started again."""
LOCK_SECONDS = 180
"""How long an experiment is tried again because another process holds DVC's or git's lock."""
STOP_SECONDS = 60
"""How long an experiment may take to save its training after Ctrl-C."""
_POLL_SECONDS = 0.5
_FOLDER = Path(".dvc/tmp/sweep")
"""Of each experiment's log, and the record of the process that runs it."""
_CODE = ("src", "data", "dvc.yaml", "params.yaml")

_LOCKED = re.compile(r"Unable to acquire lock|is being blocked by|index\.lock|FileLocked|lock ref")
"""What DVC and git say when another process is at work in the repository."""
_EXIT = re.compile(r"exited with (-?\d+)")
"""What DVC says of a stage that failed: -9 or 137 when it was killed."""


class Child:
    """One ``dvc exp run --temp``: of this call, or one that a killed call left running.

    A lock on the record is held by whoever runs the experiment: this process and the child that
    inherits it. The system releases it with the last of them, whatever ends them.

    Attributes:
        folder: the temporary copy that it works in, once it has left the workspace alone.
        tries: how often it was started by this call.
    """

    def __init__(self, experiment: Experiment, baseline: str) -> None:
        self._baseline = baseline
        self.name, self.settings = experiment.name, experiment.settings
        self.epochs = experiment.params.train.epochs
        self.log = _FOLDER / f"{self.name}.log"
        self.folder: Path | None = None
        self.tries = 0
        self.first_locked = 0.0
        self._root = Path.cwd().resolve()
        _FOLDER.mkdir(parents=True, exist_ok=True)
        self._record = _record(self.name).open("a+", encoding="utf-8")
        self._process: psutil.Process | None = None

    def claim(self) -> bool:
        """Whether nobody runs it; if so, nobody else does before this process lets it go."""
        with suppress(BlockingIOError):
            fcntl.flock(self._record, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        if self._process is None:
            with suppress(psutil.Error, KeyError):
                process = psutil.Process(self._recorded()["pid"])
                if self.name in process.cmdline():
                    self._process = process
                    folder = self._recorded().get("folder")
                    self.folder = Path(folder) if folder else None
        return False

    def start(self) -> None:
        """Run it; what a killed try left is removed first."""
        self._clear()
        words = ["dvc", "exp", "run", "--temp", "--name", self.name]
        words += itertools.chain(
            *(("-S", f"{key}={value}") for key, value in self.settings.items())
        )
        with self.log.open("w") as log:
            self._process = psutil.Popen(
                [sys.executable, "-m", *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=runs.environment(),
                start_new_session=True,
                pass_fds=(self._record.fileno(),),
            )
        self.tries += 1
        self._note()

    @property
    def ended(self) -> bool:
        """Whether its process has ended."""
        if isinstance(self._process, psutil.Popen):
            return self._process.poll() is not None
        return self.claim()

    @property
    def is_starting(self) -> bool:
        """Whether DVC may be changing the workspace, from which it takes the experiment."""
        if self._process is None or self.folder is not None:
            return False
        try:
            here = Path(self._process.cwd())
        except (psutil.Error, OSError):
            return False  # it has ended
        if here != self._root:
            self.folder = here
            self._note()
        return self.folder is None

    def progress(self) -> tuple[str, str]:
        """The stage that runs, or the epoch; and the latest validation macro F1."""
        if self.folder is None or self._process is None:
            return "starting" if self._process else "of an earlier call", ""
        stage = ""
        with suppress(psutil.Error):
            for process in self._process.children(recursive=True):
                for word in process.cmdline():
                    if word.startswith("src/") and word.endswith(".py"):
                        stage = Path(word).stem
        if stage in ("", "phantom", "prepare"):
            return stage, ""  # the history there is that of the run before
        try:
            with (self.folder / "plots/history.csv").open(newline="") as file:
                *_, last = csv.DictReader(file)
            score = f"validation macro F1 {float(last['val_macro_f1']):.3f}"
        except (OSError, ValueError, LookupError):
            return stage, ""
        return f"epoch {last['epoch']}/{self.epochs}" if stage == "train" else stage, score

    def why(self) -> tuple[bool, str]:
        """Why it ended without a result: whether a signal did it, and in words."""
        code = self._process.poll() if isinstance(self._process, psutil.Popen) else 0
        if stages := _EXIT.findall(self.said):
            status = int(stages[-1])
            code = 128 - status if 128 < status < 160 else status  # as a shell tells a signal
        if code == -signal.SIGINT:
            return False, "interrupted"
        if code < 0:
            return True, f"killed by signal {-code}"
        return code == 0, "its result was lost" if code == 0 else f"exit status {code}"

    @property
    def said(self) -> str:
        """All that it has printed."""
        try:
            return self.log.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    def signal(self, number: int) -> None:
        """Send ``number`` to it and to all that it has started."""
        if self._process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

    def close(self) -> None:
        """Let it go: it has ended."""
        self._clear()
        self._record.close()

    def _note(self) -> None:
        assert self._process
        known = {
            "pid": self._process.pid,
            "folder": str(self.folder or ""),
            "baseline": self._baseline,
            "settings": dict(self.settings),
        }
        self._record.seek(0)
        self._record.truncate()
        json.dump(known, self._record)
        self._record.flush()

    def _recorded(self) -> dict[str, Any]:
        self._record.seek(0)
        with suppress(ValueError):
            return dict(json.load(self._record))
        return {}

    def _clear(self) -> None:
        """End what a killed DVC left running in its temporary copy, and remove the copy."""
        folder = self.folder or Path(self._recorded().get("folder") or "/")
        self.folder = None
        if self._root / ".dvc/tmp" not in folder.parents or not folder.exists():
            return
        left = [one for one in psutil.process_iter(["cwd"]) if one.info["cwd"] == str(folder)]
        for process in left:
            with suppress(psutil.Error):
                process.terminate()  # a training saves its work
        for process in psutil.wait_procs(left, STOP_SECONDS)[1]:
            with suppress(psutil.Error):
                process.kill()
        whole = next(one for one in (folder, *folder.parents) if (one / ".git").exists())
        if whole != self._root and self._root in whole.parents:
            shutil.rmtree(whole, ignore_errors=True)


def begun(name: str, baseline: str) -> dict[str, object]:
    """What the experiment ``name`` from ``baseline`` set when it was last started; empty if never.

    It may have a checkpoint: with the same settings it goes on from there.
    """
    with suppress(OSError, ValueError, LookupError):
        known = json.loads(_record(name).read_text(encoding="utf-8"))
        if known["baseline"] == baseline:
            return dict(known["settings"])
    return {}


def _wait_for_workspace() -> None:
    """Return when no experiment of an earlier call is being taken from the workspace.

    DVC changes ``params.yaml`` there for a moment, and puts back what it was.
    """
    for path in _FOLDER.glob("*.json"):
        with suppress(OSError, ValueError, LookupError, psutil.Error):
            known = json.loads(path.read_text(encoding="utf-8"))
            process = psutil.Process(known["pid"])
            while not known["folder"] and path.stem in process.cmdline():
                if Path(process.cwd()) != Path.cwd().resolve():
                    break
                time.sleep(_POLL_SECONDS)


class Runner:
    """Runs what is missing of a set of experiments.

    Args:
        jobs: how many run at once.
        total: how many there will be.
        metric: of :data:`alzmri.experiments.metrics.METRICS`, to show.

    Attributes:
        results: of what has ended, by name; None for what failed.
    """

    def __init__(self, jobs: int, total: int, metric: str) -> None:
        git.require_whole()
        _wait_for_workspace()
        self.baseline = git.head()
        self.results: dict[str, Finished | None] = {}
        self._jobs, self._metric = jobs, metric
        self._board = Board(total)
        self._children: list[Child] = []
        self._failed: dict[str, str] = {}
        self._code = _code()

    def run(self, experiments: Iterable[Experiment]) -> list[Finished]:
        """Run each of ``experiments`` that has not finished; those that have, in their order.

        The next one is asked for when there is room for it, and when DVC is not changing the
        workspace: only then can it be read.

        Raises:
            KeyboardInterrupt: likewise SystemExit, after what runs has saved its training.
        """
        waiting: Iterator[Experiment] | None = iter(experiments)
        asked: list[str] = []
        before = runs.finished(self.baseline)
        try:
            with self._board:
                while waiting or self._children:
                    for child in list(self._children):
                        self._look_at(child)
                    if waiting and self._has_room():
                        if (experiment := next(waiting, None)) is None:
                            waiting = None
                            continue
                        asked.append(experiment.name)
                        if experiment.name in before:
                            self._end(experiment.name, before[experiment.name])
                        else:
                            self._begin(Child(experiment, self.baseline))
                        continue
                    time.sleep(_POLL_SECONDS)
        except BaseException:
            self._stop()
            raise
        return [result for name in asked if (result := self.results[name])]

    def complain(self) -> None:
        """Raise EnvironmentFault when experiments failed."""
        if self._failed:
            raise EnvironmentFault(
                f"{len(self._failed)} of {len(self.results)} experiments failed:"
                f" {', '.join(self._failed)}. All that one said:"
                f" {_FOLDER / next(iter(self._failed))}.log. The same command runs what is missing"
            )

    def _has_room(self) -> bool:
        return len(self._children) < self._jobs and not self._is_starting

    @property
    def _is_starting(self) -> bool:
        return any(child.is_starting for child in self._children)

    def _begin(self, child: Child) -> None:
        self._children.append(child)
        if child.claim():
            self._start(child)
        else:
            self._board.say(f"{child.name}: an earlier call left it running; waiting for it")

    def _start(self, child: Child) -> None:
        if _code() == self._code:
            child.start()
        else:
            self._fail(child, "code, data or parameters were changed meanwhile: see `git status`")

    def _look_at(self, child: Child) -> None:
        if not child.ended:
            if not child.is_starting:
                child.first_locked = 0.0
            where, score = child.progress()
            self._board.put(Line(child.name, Status.RUNNING, where, score))
            return
        if result := runs.finished(self.baseline).get(child.name):
            self._children.remove(child)
            child.close()
            self._end(child.name, result)
            return
        killed, why = child.why()
        last = _last(child.said)
        if _LOCKED.search("\n".join(last)):
            child.first_locked = child.first_locked or time.monotonic()
            again = time.monotonic() - child.first_locked < LOCK_SECONDS
            self._board.put(Line(child.name, Status.RUNNING, "waits for another process's lock"))
        else:
            again = killed and child.tries <= AGAIN
        if not again:
            self._board.say("\n  ".join((f"{child.name} failed; its last lines:", *last)))
            self._fail(child, why)
        elif not self._is_starting:
            if killed and child.tries:
                self._board.say(f"{child.name}: {why}; it goes on from its checkpoint")
            self._start(child)

    def _end(self, name: str, result: Finished) -> None:
        self.results[name] = result
        where = f"best epoch {result.training['best_epoch']}"
        score = f"{METRICS[self._metric]} {result.score(self._metric):.3f}"
        self._board.put(Line(name, Status.DONE, where, score))

    def _fail(self, child: Child, why: str) -> None:
        self._children.remove(child)
        child.close()
        self.results[child.name], self._failed[child.name] = None, why
        self._board.put(Line(child.name, Status.FAILED, why))

    def _stop(self) -> None:
        """End what runs, as Ctrl-C does, and say how to go on."""
        if not self._children:
            return
        terminal.err.print(f"stopping {len(self._children)} experiments, which save their training")
        try:
            for child in self._children:
                child.signal(signal.SIGINT)
            deadline = time.monotonic() + STOP_SECONDS
            while time.monotonic() < deadline:
                if all(child.ended for child in self._children):
                    break
                time.sleep(0.1)
        finally:  # also after a second Ctrl-C
            for child in self._children:
                child.signal(signal.SIGKILL)
                child.close()
        terminal.err.print("the same command goes on: what has finished is not run again")


def _record(name: str) -> Path:
    return _FOLDER / f"{name}.json"


def _code() -> str:
    """What experiments are taken from: the commit, and what the workspace changes of it."""
    return git.head() + git.run("diff", "HEAD", "--", *_CODE)


def _last(said: str, count: int = 8) -> Sequence[str]:
    """The last lines that are not blank; those that DVC says twice, once."""
    lines = (line.rstrip() for line in said.splitlines() if line.strip())
    return [line for line, _ in itertools.groupby(lines)][-count:]
