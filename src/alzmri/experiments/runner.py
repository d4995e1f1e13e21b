"""Running experiments: each is one ``dvc exp run --temp`` of all stages, several at once."""

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from alzmri import git, terminal
from alzmri.errors import EnvironmentFault
from alzmri.experiments import runs
from alzmri.experiments.board import DONE, FAILED, RUNNING, Board
from alzmri.experiments.metrics import METRICS
from alzmri.experiments.runs import Experiment, Run, Settings
from alzmri.files import write_json

AGAIN = 3
"""How often an experiment that was killed is started again."""
LOCK_SECONDS = 180
"""How long an experiment is tried again because another process holds DVC's or git's lock."""
STOP_SECONDS = 60
"""How long an experiment may take to save its training after Ctrl-C."""
_POLL_SECONDS = 0.5
_FOLDER = Path(".dvc/tmp/sweep")
"""It holds each experiment's log, and what the experiment was begun with."""
_LOCKED = re.compile(r"Unable to acquire lock|is being blocked by|index\.lock|FileLocked|lock ref")
"""What DVC and git say when another process is at work in the repository."""
_EXIT = re.compile(r"exited with (-?\d+)")
"""What DVC says of a stage that failed: -9 or 137 when it was killed."""
_STAGE = re.compile(r"^Running stage '(\w+)", re.MULTILINE)
_EPOCH = re.compile(r"^epoch +(\d+/\d+) .* macro F1 ([\d.]+)", re.MULTILINE)


@dataclass
class _Child:
    """One ``dvc exp run --temp``, of this call or left running by one that was killed.

    Attributes:
        tries: how often this call has started it.
        locked_since: when another process's lock first stopped it; 0 when none does.
    """

    name: str
    settings: Settings
    process: psutil.Process | None
    tries: int = 0
    locked_since: float = 0.0

    @property
    def said(self) -> str:
        with suppress(FileNotFoundError):
            return Path(f"{_FOLDER}/{self.name}.log").read_text("utf-8", errors="replace")
        return ""

    @property
    def runs(self) -> bool:
        with suppress(psutil.NoSuchProcess):
            return bool(self.process and self.process.status() != psutil.STATUS_ZOMBIE)
        return False

    def start(self, baseline: str) -> None:
        begun = {"baseline": baseline, "settings": self.settings}
        write_json(_FOLDER / f"{self.name}.json", begun)
        words = ["dvc", "exp", "run", "--temp", "--name", self.name]
        for key, value in self.settings.items():
            words += ["-S", f"{key}={value}"]
        # The `python` of the stages is the one of this program.
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
        deaf = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        if deaf:  # as a shell makes what it puts in the background: DVC is to hear Ctrl-C
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        with Path(f"{_FOLDER}/{self.name}.log").open("w") as log:
            self.process = psutil.Popen(
                [sys.executable, "-m", *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1"},
                start_new_session=True,
            )
        if deaf:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.tries += 1

    def signal(self, number: int) -> None:
        """Send ``number`` to it and to all that it has started."""
        with suppress(ProcessLookupError, PermissionError):
            if self.process:
                os.killpg(self.process.pid, number)

    def progress(self) -> tuple[str, str]:
        """The stage that runs, or the epoch; and the latest validation macro F1."""
        said = self.said
        *_, stage = ["starting", *_STAGE.findall(said)]
        *_, (epoch, score) = [("", ""), *_EPOCH.findall(said)]
        where = f"epoch {epoch}" if epoch and stage == "train" else stage
        return where, f"validation macro F1 {score}" if score else ""

    def why(self) -> tuple[bool, str]:
        """Why it ended without a result: whether it was killed, and in words."""
        code = self.process.wait() if isinstance(self.process, psutil.Popen) else 0
        if stages := _EXIT.findall(self.said):
            status = int(stages[-1])
            code = 128 - status if 128 < status < 160 else status  # as a shell tells a signal
        if code in (0, -signal.SIGINT):
            return not code, "interrupted" if code else "its result was lost"
        return code < 0, f"killed by signal {-code}" if code < 0 else f"exit status {code}"


def begun(name: str, baseline: str) -> dict[str, object]:
    """What the experiment ``name`` from ``baseline`` set when it was last started; empty if never.

    It may have a checkpoint: with the same settings it goes on from there.
    """
    with suppress(OSError, ValueError):
        recorded = json.loads((_FOLDER / f"{name}.json").read_text(encoding="utf-8"))
        return dict(recorded["settings"]) if recorded["baseline"] == baseline else {}
    return {}


class Runner:
    """Runs what is missing of a set of experiments.

    Args:
        jobs: how many run at once.
        total: how many there will be.
        metric: of :data:`alzmri.experiments.metrics.METRICS`, to show.

    Attributes:
        baseline: the commit that they start from.
        results: of what has ended, by name; None for what failed.

    Raises:
        UserError: when git cannot be asked, or in a shallow clone.
    """

    def __init__(self, jobs: int, total: int, metric: str) -> None:
        git.require_whole()
        while _is_one_starting():
            time.sleep(_POLL_SECONDS)
        self.baseline, self._code = git.head(), _code()
        self.results: dict[str, Run | None] = {}
        self._jobs, self._metric, self._board = jobs, metric, Board(total)
        self._children: list[_Child] = []

    def run(self, experiments: Iterable[Experiment]) -> list[Run]:
        """Run each of ``experiments`` that has not finished; return all that have, in their order.

        The next one is asked for when there is room for it, and when DVC is not changing the
        workspace: only then can it be read.

        Raises:
            KeyboardInterrupt: likewise SystemExit, after what runs has saved its training.
        """
        waiting, before, asked = iter(experiments), runs.finished(self.baseline), []
        try:
            with self._board.live:
                while True:
                    for child in list(self._children):
                        self._look_at(child)
                    if len(self._children) >= self._jobs or _is_one_starting():
                        time.sleep(_POLL_SECONDS)
                    elif experiment := next(waiting, None):
                        asked.append(experiment.name)
                        if experiment.name in before:
                            self._done(before[experiment.name])
                        else:
                            self._begin(experiment)
                    elif self._children:
                        time.sleep(_POLL_SECONDS)
                    else:
                        _remove_copies()
                        break
        except BaseException:
            self._stop()
            raise
        return [result for name in asked if (result := self.results[name])]

    def complain(self) -> None:
        """Raise EnvironmentFault when experiments failed."""
        if failed := [name for name, result in self.results.items() if result is None]:
            raise EnvironmentFault(
                f"{len(failed)} of {len(self.results)} experiments failed: {', '.join(failed)}."
                f" All that one said: {_FOLDER / failed[0]}.log."
                " The same command runs what is missing"
            )

    def _begin(self, experiment: Experiment) -> None:
        earlier = (one for one, _, words in _at_work() if {"--temp", experiment.name} <= {*words})
        child = _Child(experiment.name, dict(experiment.settings), next(earlier, None))
        self._children.append(child)
        if child.process:
            terminal.out.print(f"{child.name}: an earlier call left it running", markup=False)
        else:
            self._start(child)

    def _start(self, child: _Child) -> None:
        if _code() == self._code:
            _remove_copies()
            child.start(self.baseline)
        else:
            self._fail(child, "code, data or parameters were changed meanwhile: see `git status`")

    def _look_at(self, child: _Child) -> None:
        if child.runs:
            where, score = child.progress()
            child.locked_since *= where == "starting"
            self._board.put(child.name, RUNNING, where, score)
            return
        if result := runs.finished(self.baseline).get(child.name):
            self._children.remove(child)
            self._done(result)
            return
        again, why = child.why()
        again = again and child.tries <= AGAIN
        lines = (line.rstrip() for line in child.said.splitlines() if line.strip())
        last = "\n  ".join([line for line, _ in itertools.groupby(lines)][-8:])  # DVC repeats some
        if _LOCKED.search(last):
            child.locked_since = child.locked_since or time.monotonic()
            again = time.monotonic() - child.locked_since < LOCK_SECONDS
            why = "another process holds the lock of DVC or git"
        if not again:
            terminal.out.print(f"{child.name} failed; its last lines:\n  {last}", markup=False)
            self._fail(child, why)
        elif not _is_one_starting():
            self._board.put(child.name, RUNNING, f"again: {why}")
            self._start(child)

    def _done(self, result: Run) -> None:
        self.results[result.name] = result
        score = f"{METRICS[self._metric]} {result.score(self._metric):.3f}"
        self._board.put(result.name, DONE, f"best epoch {result.training['best_epoch']}", score)

    def _fail(self, child: _Child, why: str) -> None:
        self._children.remove(child)
        self.results[child.name] = None
        self._board.put(child.name, FAILED, why)

    def _stop(self) -> None:
        """End what runs, as Ctrl-C does, and say how to go on."""
        if not self._children:
            return
        terminal.err.print(f"stopping {len(self._children)}, which save their training")
        try:
            for child in self._children:
                child.signal(signal.SIGINT)
            deadline = time.monotonic() + STOP_SECONDS
            while time.monotonic() < deadline and any(child.runs for child in self._children):
                time.sleep(0.1)
        finally:  # also after a second Ctrl-C
            for child in self._children:
                if child.runs:
                    child.signal(signal.SIGKILL)
        terminal.err.print("the same command goes on: what has finished is not run again")


def _code() -> str:
    """What experiments are taken from: the commit, and what the workspace changes of it."""
    changes = git.run("diff", "HEAD", "--", "src", "data", "dvc.yaml", "params.yaml")
    return git.head() + changes


def _at_work() -> Iterator[tuple[psutil.Process, Path, list[str]]]:
    """Yield each process that works in the workspace or a copy of it, its folder, its words."""
    root = Path.cwd().resolve()
    for process in psutil.process_iter(["cmdline", "cwd"]):
        folder = Path(process.info["cwd"] or "/")
        if folder.is_relative_to(root):
            yield process, folder, process.info["cmdline"] or []


def _is_one_starting() -> bool:
    """Whether a DVC takes an experiment from the workspace, and changes ``params.yaml`` for it.

    It puts back what it was, and moves to a temporary copy for everything else.
    """
    root = Path.cwd().resolve()
    return any(folder == root and "--temp" in words for _, folder, words in _at_work())


def _remove_copies() -> None:
    """End what a killed DVC left running in its temporary copy, and remove the copy."""
    for copy in Path(".dvc/tmp/exps/standalone").resolve().glob("tmp*"):
        inside = [(one, words) for one, folder, words in _at_work() if folder.is_relative_to(copy)]
        if any("--temp" in words for _, words in inside):
            continue
        left = [process for process, _ in inside]
        for process in left:
            with suppress(psutil.Error):
                process.terminate()  # a training saves its work
        for process in psutil.wait_procs(left, STOP_SECONDS)[1]:
            with suppress(psutil.Error):
                process.kill()
        shutil.rmtree(copy, ignore_errors=True)
