"""Running experiments: each is one ``dvc exp run --temp`` of all stages, several at once.

What runs an experiment has a mark in its environment. By that it is found and ended, after Ctrl-C
and by the next call where the sweep was killed; a training saves its work and resumes.
"""

import csv
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from threading import Lock

import psutil
from filelock import FileLock, Timeout
from rich.live import Live
from rich.table import Table

from alzmri import git, terminal
from alzmri.errors import EnvironmentFault, UserError
from alzmri.experiments import runs
from alzmri.experiments.runs import Experiment, FinishedRun
from alzmri.experiments.scores import METRICS
from alzmri.files import write_json
from alzmri.terminal import SECONDS_BETWEEN_LINES

AGAIN = 3
"""How often an experiment that was killed is started again."""
LOCK_SECONDS = 180
"""How long an experiment is tried again because another process holds DVC's or git's lock."""
STOP_SECONDS = 60
"""How long experiments may take to save their training."""
_POLL_SECONDS = 0.5
_FOLDER = Path(".dvc/tmp/sweep")
"""Each experiment's log, and the record of what it set and where DVC runs it."""
_MARK = "ALZMRI_SWEEP"
"""An environment variable of each experiment: the repository's root, /, its name."""
_LOCKED = re.compile(r"Unable to acquire lock|is being blocked by|index\.lock|FileLocked|lock ref")
"""Messages of DVC and git when another process works in the repository."""
_STAGE = re.compile(r"^Running stage '(\w+)", re.MULTILINE)
_EXIT = re.compile(r"exited with (-?\d+)")
"""DVC's message about a failed stage: -9 or 137 if it was killed."""
RUNNING, FAILED, DONE = "running", "failed", "done"
_COLOURS = {RUNNING: "cyan", FAILED: "red", DONE: "green"}


class Board:
    """Progress of ``total`` experiments: a live table on a terminal, a line per change in a log."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._rows: dict[str, tuple[str, str, str]] = {}
        self._said: dict[str, tuple[str, float]] = {}
        self.live: AbstractContextManager[object] = nullcontext()
        """The table shows while this is entered."""
        if terminal.out.is_terminal:
            self.live = Live(console=terminal.out, get_renderable=self._table)

    def put(self, name: str, status: str, where: str, score: str = "") -> None:
        """Show an experiment: its status, how far it is, and its latest score."""
        before = self._rows.get(name, ("", "", ""))
        self._rows[name] = row = (status, where or before[1], score or before[2])
        last, since = self._said.get(name, ("", 0.0))
        due = row != before and time.monotonic() - since >= SECONDS_BETWEEN_LINES
        if not terminal.out.is_terminal and (status != last or due):
            self._said[name] = status, time.monotonic()
            terminal.say("  ".join(filter(None, (name, *row))))

    def _table(self) -> Table:
        rows = dict(self._rows)  # drawn by a thread of its own
        counts = Counter(status for status, *_ in rows.values())
        counts["to come"] = self._total - len(rows)
        parts = ", ".join(f"{counts[n]} {n}" for n in (*_COLOURS, "to come") if counts[n])
        caption = f"{self._total} experiments: {parts}"
        table = Table("experiment", "", "where", "score", caption=caption, caption_justify="left")
        for status, colour in _COLOURS.items():
            for name, (is_in, *rest) in rows.items():
                if is_in == status:
                    table.add_row(name, f"[{colour}]{status}[/]", *rest)
        return table


class _Child:
    """A ``dvc exp run --temp`` of ``experiment``, which starts with this object."""

    def __init__(self, experiment: Experiment, baseline: str) -> None:
        self._name, self._root, self._folder = experiment.name, Path.cwd().resolve(), ""
        self._log = _FOLDER / f"{self._name}.log"
        self._record = {"baseline": baseline, "settings": experiment.settings}
        self._epochs = experiment.params.train.epochs
        end(self._name)  # what a killed one left
        self._note()
        words = ["dvc", "exp", "run", "--temp", "--name", self._name]
        for key, value in experiment.settings.items():
            words += ["-S", f"{key}={value}"]
        # The `python` of the stages is the one of this program.
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
        with self._log.open("w") as log:
            self.process = psutil.Popen(
                [sys.executable, "-m", *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PATH": path, _MARK: f"{self._root}/{self._name}"},
                start_new_session=True,
            )

    @property
    def is_starting(self) -> bool:
        """Whether DVC may be changing the workspace, from which it takes the experiment.

        It moves to a temporary copy for everything else.
        """
        with suppress(psutil.Error, OSError):  # it has ended
            if self.process.poll() is None and (here := self.process.cwd()) != str(self._root):
                self._folder = here
                self._note()
        return self.process.poll() is None and not self._folder

    def progress(self) -> tuple[str, str]:
        """The stage that runs, or the epoch; and the latest validation macro F1."""
        stage = (_STAGE.findall(self._text) or ["starting"])[-1]
        if stage in ("starting", "phantom", "prepare"):
            return stage, ""  # the history is still that of the run before
        try:
            with Path(self._folder, "plots/history.csv").open(newline="") as file:
                *_, last = csv.DictReader(file)
            where = f"epoch {last['epoch']}/{self._epochs}" if stage == "train" else stage
            return where, f"validation macro F1 {float(last['val_macro_f1']):.3f}"
        except (OSError, ValueError, LookupError):
            return stage, ""

    def why(self) -> tuple[bool, str]:
        """Whether to start it again after it ended without a result, and the reason."""
        code = [self.process.returncode, *map(int, _EXIT.findall(self._text))][-1]
        if code == 0:
            return True, "its result was lost"
        killed = 128 - code if 128 < code < 160 else code  # as a shell reports a signal
        return killed < 0, f"killed by signal {-killed}" if killed < 0 else f"exit status {code}"

    @property
    def said(self) -> str:
        """The end of what it has printed."""
        lines = (line.rstrip() for line in self._text.splitlines() if line.strip())
        return "\n  ".join([line for line, _ in itertools.groupby(lines)][-8:])  # DVC repeats some

    @property
    def _text(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def _note(self) -> None:
        record = {**self._record, "folder": self._folder}
        write_json(_FOLDER / f"{self._name}.json", record)


def begun(name: str, baseline: str) -> dict[str, object]:
    """What the experiment ``name`` from ``baseline`` set when it was last started; empty if never.

    It may have a checkpoint: with the same settings it resumes.
    """
    path = _FOLDER / f"{name}.json"
    record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return dict(record["settings"]) if record.get("baseline") == baseline else {}


def end(name: str = "*") -> bool:
    """End what runs of the experiment ``name``, or of all; say whether there was anything.

    Trainings save their work. The copy that a killed DVC left is removed.
    """
    root, asked, deadline = Path.cwd().resolve(), set(), time.monotonic() + STOP_SECONDS

    def left() -> Iterator[psutil.Process]:
        for process in psutil.process_iter(["environ"]):
            place, _, one = (process.info["environ"] or {}).get(_MARK, "").rpartition("/")
            if place == str(root) and name in ("*", one):
                yield process

    try:
        while (processes := list(left())) and time.monotonic() < deadline:
            for process in processes:
                if process.pid not in asked:
                    asked.add(process.pid)
                    with suppress(psutil.Error):
                        process.send_signal(signal.SIGINT)
            time.sleep(0.1)
    finally:  # also after a second Ctrl-C
        for process in left():
            with suppress(psutil.Error):
                process.kill()
        for path in _FOLDER.glob(f"{name}.json"):
            folder = Path(json.loads(path.read_text(encoding="utf-8"))["folder"] or "/")
            if root / ".dvc/tmp" in folder.parents and folder.exists():
                whole = next(one for one in (folder, *folder.parents) if (one / ".git").exists())
                if root in whole.parents:
                    shutil.rmtree(whole, ignore_errors=True)
    return bool(asked)


class Runner:
    """Runs what is missing of ``total`` experiments, ``jobs`` at once; shows their ``metric``.

    Attributes:
        baseline: the commit that they start from.
        results: of what has ended, by name; None for what failed.

    Raises:
        UserError: in a shallow clone, or when another call is at work in this repository.
    """

    def __init__(self, jobs: int, total: int, metric: str) -> None:
        git.require_whole()
        self.baseline = git.head()
        self.results: dict[str, FinishedRun | None] = {}
        self._jobs, self._metric, self._board = jobs, metric, Board(total)
        self._workspace, self._stopping = Lock(), False
        _FOLDER.mkdir(parents=True, exist_ok=True)
        self._alone = FileLock(_FOLDER / "lock")
        try:
            self._alone.acquire(timeout=0)
        except Timeout:
            raise UserError(
                "another sweep or study runs in this repository: wait for it, or stop it"
            ) from None
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            # A shell starts background jobs with SIGINT ignored, which experiments would
            # inherit; they do not inherit a handler.
            signal.signal(signal.SIGINT, lambda *_: None)
        if end():
            terminal.say(
                "ended the experiments of an earlier call: they resume from their checkpoints"
            )
        self._code = _code()

    def run(self, experiments: Iterable[Experiment]) -> list[FinishedRun]:
        """Run each of ``experiments`` that has not finished; return those that have, in order.

        The next one is asked for when there is room for it, and when DVC is not changing the
        workspace: only then can it be read. Ctrl-C ends what runs first.
        """
        waiting, before, asked = iter(experiments), runs.finished(self.baseline), []

        def work() -> None:
            while True:
                with self._workspace:
                    if self._stopping or (experiment := next(waiting, None)) is None:
                        return
                    asked.append(name := experiment.name)
                self.results[name] = result = before.get(name) or self._run(experiment)
                if result:
                    score = f"{METRICS[self._metric]} {result.score(self._metric):.3f}"
                    epoch = f"best epoch {result.training['best_epoch']}"
                    self._board.put(name, DONE, epoch, score)

        with self._board.live, ThreadPoolExecutor(self._jobs) as pool:
            workers = [pool.submit(work) for _ in range(self._jobs)]
            try:
                for worker in as_completed(workers):
                    worker.result()
            except BaseException:
                self._stopping = True
                terminal.err.print("stopping: trainings save their work first")
                while not all(worker.done() for worker in workers):
                    end()
                terminal.err.print(
                    "the same command continues: finished experiments are not repeated"
                )
                raise
        return [result for name in asked if (result := self.results[name])]

    def _run(self, experiment: Experiment) -> FinishedRun | None:
        """Run it, again where that may help."""
        name, tries, locked_since = experiment.name, 0, 0.0
        while True:
            with self._workspace:
                if self._stopping:
                    return None
                if _code() != self._code:
                    why = "code, data or parameters were changed meanwhile: see `git status`"
                    break
                child, tries = _Child(experiment, self.baseline), tries + 1
                while child.is_starting:
                    self._board.put(name, RUNNING, "starting")
                    time.sleep(_POLL_SECONDS)
            while child.process.poll() is None:
                locked_since = 0.0
                self._board.put(name, RUNNING, *child.progress())
                time.sleep(_POLL_SECONDS)
            result = runs.finished(self.baseline).get(name)
            if result or self._stopping:
                return result
            said, (killed, why) = child.said, child.why()
            again = killed and tries <= AGAIN
            if _LOCKED.search(said):
                locked_since = locked_since or time.monotonic()
                again = time.monotonic() - locked_since < LOCK_SECONDS
                why = "another process holds the lock of DVC or git"
            if not again:
                terminal.out.print(f"{name} failed; its last lines:\n  {said}", markup=False)
                break
            self._board.put(name, RUNNING, f"again: {why}")
        end(name)
        self._board.put(name, FAILED, why)
        return None

    def complain(self) -> None:
        """Raise EnvironmentFault when experiments failed."""
        if failed := [name for name, result in self.results.items() if result is None]:
            raise EnvironmentFault(
                f"{len(failed)} of {len(self.results)} experiments failed: {', '.join(failed)}."
                f" The whole log of one: {_FOLDER / failed[0]}.log."
                " The same command runs the missing ones"
            )


def _code() -> str:
    """The source of experiments: the commit and the workspace's changes."""
    return git.head() + git.run("diff", "HEAD", "--", "src", "data", "dvc.yaml", "params.yaml")
