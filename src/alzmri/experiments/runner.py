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
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from alzmri import git, terminal
from alzmri.errors import EnvironmentFault
from alzmri.experiments import runs
from alzmri.experiments.board import DONE, FAILED, RUNNING, Board
from alzmri.experiments.metrics import METRICS
from alzmri.experiments.runs import Experiment, Run

AGAIN = 3
"""How often an experiment that was killed is started again."""
LOCK_SECONDS = 180
"""How long an experiment is tried again because another process holds DVC's or git's lock."""
STOP_SECONDS = 60
"""How long an experiment may take to save its training after Ctrl-C."""
_POLL_SECONDS = 0.5
_FOLDER = Path(".dvc/tmp/sweep")
"""Each experiment's log, and the record of the process that runs it."""
_LOCKED = re.compile(r"Unable to acquire lock|is being blocked by|index\.lock|FileLocked|lock ref")
"""What DVC and git say when another process is at work in the repository."""
_EXIT = re.compile(r"exited with (-?\d+)")
"""What DVC says of a stage that failed: -9 or 137 when it was killed."""


class Child:
    """One ``dvc exp run --temp``, of this call or left running by one that was killed.

    Whoever runs it holds a lock on its record: this process, and the child, which inherits it.
    The system releases it with the last of them, whatever ends them.

    Attributes:
        tries: how often this call has started it.
        locked_since: when another process's lock first stopped it; 0 when none does.
    """

    def __init__(self, experiment: Experiment, baseline: str) -> None:
        self.name, self.log = experiment.name, _FOLDER / f"{experiment.name}.log"
        self.tries, self.locked_since = 0, 0.0
        self._epochs, self._root = experiment.params.train.epochs, Path.cwd().resolve()
        self._known: dict[str, Any] = {"baseline": baseline, "settings": dict(experiment.settings)}
        self._folder: Path | None = None
        self._process: psutil.Process | None = None
        _FOLDER.mkdir(parents=True, exist_ok=True)
        self._record = (_FOLDER / f"{self.name}.json").open("a+", encoding="utf-8")

    def claim(self) -> bool:
        """Whether nobody runs it; if so, nobody else does before this process lets it go."""
        with suppress(BlockingIOError):
            fcntl.flock(self._record, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        if self._process is None:
            recorded = _recorded(self.name)
            self._process = _process(recorded, self.name)
            self._folder = Path(recorded["folder"]) if recorded.get("folder") else None
        return False

    def start(self) -> None:
        """Run it; what a killed try left is removed first."""
        self._clear()
        words = ["dvc", "exp", "run", "--temp", "--name", self.name]
        for key, value in self._known["settings"].items():
            words += ["-S", f"{key}={value}"]
        # The `python` of the stages is the one of this program.
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
        with self.log.open("w") as log, _hearing_interrupts():
            self._process = psutil.Popen(
                [sys.executable, "-m", *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PATH": path},
                start_new_session=True,
                pass_fds=(self._record.fileno(),),
            )
        self.tries += 1
        self._note(pid=self._process.pid, folder="")

    @property
    def ended(self) -> bool:
        """Whether its process has ended."""
        if isinstance(self._process, psutil.Popen):
            return self._process.poll() is not None
        return self.claim()

    @property
    def is_starting(self) -> bool:
        """Whether DVC may be changing the workspace, from which it takes the experiment.

        It moves to a temporary copy for everything else.
        """
        if self._process is None or self._folder:
            return False
        try:
            here = Path(self._process.cwd())
        except (psutil.Error, OSError):
            return False  # it has ended
        if here != self._root:
            self._folder = here
            self._note(folder=str(here))
        return self._folder is None

    def progress(self) -> tuple[str, str]:
        """The stage that runs, or the epoch; and the latest validation macro F1."""
        if self._process is None or self._folder is None:
            return "starting", ""
        stage = ""
        with suppress(psutil.Error):
            for process in self._process.children(recursive=True):
                for word in process.cmdline():
                    if word.startswith("src/") and word.endswith(".py"):
                        stage = Path(word).stem
        if stage in ("", "phantom", "prepare"):
            return stage, ""  # the history is still that of the run before
        try:
            with (self._folder / "plots/history.csv").open(newline="") as file:
                *_, last = csv.DictReader(file)
            where = f"epoch {last['epoch']}/{self._epochs}" if stage == "train" else stage
            return where, f"validation macro F1 {float(last['val_macro_f1']):.3f}"
        except (OSError, ValueError, LookupError):
            return stage, ""

    def why(self) -> tuple[bool, str]:
        """Why it ended without a result: whether it was killed, and in words."""
        code = self._process.poll() if isinstance(self._process, psutil.Popen) else 0
        if stages := _EXIT.findall(self.said):
            status = int(stages[-1])
            code = 128 - status if 128 < status < 160 else status  # as a shell tells a signal
        if code in (0, -signal.SIGINT):
            return not code, "interrupted" if code else "its result was lost"
        return code < 0, f"killed by signal {-code}" if code < 0 else f"exit status {code}"

    @property
    def said(self) -> str:
        """The end of what it has printed."""
        if not self.log.exists():
            return ""
        text = self.log.read_text(encoding="utf-8", errors="replace")
        lines = (line.rstrip() for line in text.splitlines() if line.strip())
        return "\n  ".join([line for line, _ in itertools.groupby(lines)][-8:])  # DVC repeats some

    def signal(self, number: int) -> None:
        """Send ``number`` to it and to all that it has started."""
        if self._process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

    def close(self) -> None:
        """Let it go: it has ended."""
        self._clear()
        self._record.close()

    def _note(self, **more: object) -> None:
        self._known |= more
        self._record.seek(0)
        self._record.truncate()
        json.dump(self._known, self._record)
        self._record.flush()

    def _clear(self) -> None:
        """End what a killed DVC left running in its temporary copy, and remove the copy."""
        folder = self._folder or Path(_recorded(self.name).get("folder") or "/")
        self._folder = None
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
        if self._root in whole.parents:
            shutil.rmtree(whole, ignore_errors=True)


def begun(name: str, baseline: str) -> dict[str, object]:
    """What the experiment ``name`` from ``baseline`` set when it was last started; empty if never.

    It may have a checkpoint: with the same settings it goes on from there.
    """
    recorded = _recorded(name)
    return dict(recorded["settings"]) if recorded.get("baseline") == baseline else {}


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
        _wait_for_workspace()
        self.baseline, self._code = git.head(), _code()
        self.results: dict[str, Run | None] = {}
        self._jobs, self._metric, self._board = jobs, metric, Board(total)
        self._children: list[Child] = []

    def run(self, experiments: Iterable[Experiment]) -> list[Run]:
        """Run each of ``experiments`` that has not finished; those that have, in their order.

        The next one is asked for when there is room for it, and when DVC is not changing the
        workspace: only then can it be read.

        Raises:
            KeyboardInterrupt: likewise SystemExit, after what runs has saved its training.
        """
        waiting: Iterator[Experiment] | None = iter(experiments)
        before, asked = runs.finished(self.baseline), []
        try:
            with self._board.live:
                while waiting or self._children:
                    for child in list(self._children):
                        self._look_at(child)
                    if waiting is None or len(self._children) == self._jobs or self._is_starting:
                        time.sleep(_POLL_SECONDS)
                    elif (experiment := next(waiting, None)) is None:
                        waiting = None
                    else:
                        asked.append(experiment.name)
                        if experiment.name in before:
                            self._done(before[experiment.name])
                        else:
                            self._begin(Child(experiment, self.baseline))
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

    @property
    def _is_starting(self) -> bool:
        return any(child.is_starting for child in self._children)

    def _begin(self, child: Child) -> None:
        self._children.append(child)
        if child.claim():
            self._start(child)
        else:
            terminal.out.print(f"{child.name}: an earlier call left it running", markup=False)

    def _start(self, child: Child) -> None:
        if _code() == self._code:
            child.start()
        else:
            self._fail(child, "code, data or parameters were changed meanwhile: see `git status`")

    def _look_at(self, child: Child) -> None:
        if not child.ended:
            if not child.is_starting:
                child.locked_since = 0.0
            self._board.put(child.name, RUNNING, *child.progress())
            return
        if result := runs.finished(self.baseline).get(child.name):
            self._children.remove(child)
            child.close()
            self._done(result)
            return
        (killed, why), said = child.why(), child.said
        if _LOCKED.search(said):
            child.locked_since = child.locked_since or time.monotonic()
            again = time.monotonic() - child.locked_since < LOCK_SECONDS
            why = "another process holds the lock of DVC or git"
        else:
            again = killed and child.tries <= AGAIN
        if not again:
            terminal.out.print(f"{child.name} failed; its last lines:\n  {said}", markup=False)
            self._fail(child, why)
        elif not self._is_starting:
            self._board.put(child.name, RUNNING, f"again: {why}")
            self._start(child)

    def _done(self, result: Run) -> None:
        self.results[result.name] = result
        score = f"{METRICS[self._metric]} {result.score(self._metric):.3f}"
        self._board.put(result.name, DONE, f"best epoch {result.training['best_epoch']}", score)

    def _fail(self, child: Child, why: str) -> None:
        self._children.remove(child)
        child.close()
        self.results[child.name] = None
        self._board.put(child.name, FAILED, why)

    def _stop(self) -> None:
        """End what runs, as Ctrl-C does, and say how to go on."""
        if self._children:
            terminal.err.print(f"stopping {len(self._children)}, which save their training")
        try:
            for child in self._children:
                child.signal(signal.SIGINT)
            deadline = time.monotonic() + STOP_SECONDS
            while time.monotonic() < deadline and not all(one.ended for one in self._children):
                time.sleep(0.1)
        finally:  # also after a second Ctrl-C
            for child in self._children:
                if not child.ended:
                    child.signal(signal.SIGKILL)
                child.close()
        terminal.err.print("the same command goes on: what has finished is not run again")


@contextmanager
def _hearing_interrupts() -> Iterator[None]:
    """Let what is started hear Ctrl-C: a shell makes what it puts in the background deaf to it."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _code() -> str:
    """What experiments are taken from: the commit, and what the workspace changes of it."""
    changes = git.run("diff", "HEAD", "--", "src", "data", "dvc.yaml", "params.yaml")
    return git.head() + changes


def _recorded(name: str) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        return dict(json.loads((_FOLDER / f"{name}.json").read_text(encoding="utf-8")))
    return {}


def _process(recorded: dict[str, Any], name: str) -> psutil.Process | None:
    """The live process of a record; its number may be another program's by now."""
    with suppress(psutil.Error, KeyError):
        process = psutil.Process(recorded["pid"])
        if name in process.cmdline():
            return process
    return None


def _wait_for_workspace() -> None:
    """Return when no experiment of an earlier call is being taken from the workspace.

    DVC changes ``params.yaml`` there for a moment, and puts back what it was.
    """
    for path in _FOLDER.glob("*.json"):
        with suppress(psutil.Error, OSError):
            while not (recorded := _recorded(path.stem)).get("folder"):
                process = _process(recorded, path.stem)
                if process is None or Path(process.cwd()) != Path.cwd().resolve():
                    break
                time.sleep(_POLL_SECONDS)
