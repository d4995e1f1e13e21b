"""Run experiments, several at once, each as one ``dvc exp run --temp`` of all stages.

The processes of an experiment have a mark in their environment. Ctrl-C, or the next call after a
kill, finds them by the mark and ends them; a training saves its work and resumes.
"""

import csv
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import psutil
from filelock import FileLock, Timeout
from rich.live import Live
from rich.table import Table
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from alzmri import git, params, terminal
from alzmri.errors import EnvironmentFault, UserError
from alzmri.experiments.finished_runs import METRICS, FinishedRun, finished
from alzmri.params import Params

AGAIN = 3  # maximum number of restarts of a killed experiment
LOCK_SECONDS = 180  # of retries while another process holds the lock of DVC or git
STOP_SECONDS = 60  # time for experiments to save their training
_POLL_SECONDS = 0.5
FOLDER = Path(".dvc/tmp/sweep")  # each experiment's log, each search's journal
_MARK = "ALZMRI_SWEEP"
"""An environment variable of each experiment: ROOT/NAME, with the repository's root."""
_LOCKED = re.compile(r"Unable to acquire lock|is being blocked by|index\.lock|FileLocked|lock ref")
_STAGE = re.compile(r"^Running stage '(\w+)", re.MULTILINE)
_EXIT = re.compile(r"exited with (-?\d+)")
"""DVC's message about a failed stage: -9 or 137 if it was killed."""
RUNNING, FAILED, DONE = "running", "failed", "done"
_COLOURS = {RUNNING: "cyan", FAILED: "red", DONE: "green"}

Settings = Mapping[str, object]
"""Keys of ``params.yaml`` with a dot, such as ``train.lr``, and their values."""


@dataclass(frozen=True)
class Experiment:
    """An experiment to run: its name, and its settings of ``params.yaml``."""

    name: str
    settings: Settings

    @property
    def params(self) -> Params:
        """The parameters that it runs with; UserError when they do not fit the schema."""
        content = params.load().model_dump()
        for key, value in self.settings.items():
            section, _, name = key.partition(".")
            content.setdefault(section, {})[name] = value
        return params.validated(
            params.Params, content, f"params.yaml with the settings of {self.name}"
        )


def parse_settings(words: Sequence[str]) -> dict[str, object]:
    """Parse ``KEY=VALUE`` like DVC's command line, values as YAML; UserError for anything else."""
    settings: dict[str, object] = {}
    for word in words:
        key, equals, value = word.partition("=")
        try:
            settings[key] = YAML(typ="safe").load(value)
        except YAMLError:
            equals = ""
        if not (key and equals):
            raise UserError(f"-S {word}: write KEY=VALUE, such as train.lr=0.001")
    return settings


def on_this_machine(jobs: int) -> Settings:
    """Settings by which ``jobs`` experiments share the machine; the committed run has others."""
    threads = max(1, (os.cpu_count() or 1) // jobs) if jobs > 1 else 0
    return {"compute.portable": False, "compute.threads": threads}


def require_source(name: str) -> None:
    """Raise UserError when there is no collection data/``name``."""
    if name != "phantom" and not any(map(os.path.lexists, (f"data/{name}", f"data/{name}.dvc"))):
        raise UserError(f"data/{name} not found: `alzmri data import SOURCE --name {name}` first")


class Board:
    """Progress of experiments: a live table on a terminal, a line for each change in a log."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._rows: dict[str, tuple[str, str, str]] = {}
        self.live: AbstractContextManager[object] = nullcontext()  # shows the table
        if terminal.out.is_terminal:
            self.live = Live(console=terminal.out, get_renderable=self._table)

    def put(self, name: str, status: str, where: str, score: str = "") -> None:
        """Show an experiment: its status, its stage or epoch, and its latest score."""
        before = self._rows.get(name, ("", "", ""))
        self._rows[name] = row = (status, where or before[1], score or before[2])
        if row != before and not terminal.out.is_terminal:
            terminal.say("  ".join(filter(None, (name, *row))))

    def _table(self) -> Table:
        order = [*_COLOURS]
        rows = sorted(self._rows.copy().items(), key=lambda row: order.index(row[1][0]))
        done = sum(status == DONE for _, (status, *_) in rows)
        caption = f"{done} of {self._total} experiments are done"
        table = Table("experiment", "", "where", "score", caption=caption, caption_justify="left")
        for name, (status, *rest) in rows:
            table.add_row(name, f"[{_COLOURS[status]}]{status}[/]", *rest)
        return table


def _start(experiment: Experiment, root: Path, log: Path) -> psutil.Popen:
    """Start ``dvc exp run --temp``."""
    name = experiment.name
    words = [f"--set-param={key}={value}" for key, value in experiment.settings.items()]
    # Stages must use the `python` of this program.
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    with log.open("w") as output:
        return psutil.Popen(
            [sys.executable, "-m", "dvc", "exp", "run", "--temp", "--name", name, *words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PATH": path, _MARK: f"{root}/{name}"},
            start_new_session=True,
        )


def _progress(log: str, folder: Path, epochs: int) -> tuple[str, str]:
    """The running stage or epoch, and the latest validation macro F1."""
    stage = (_STAGE.findall(log) or ["starting"])[-1]
    if stage not in ("starting", "phantom", "prepare"):  # whose history is of the run before
        with suppress(OSError, ValueError, LookupError):
            text = (folder / "plots/history.csv").read_text(encoding="utf-8")
            *_, last = csv.DictReader(text.splitlines())
            where = f"epoch {last['epoch']}/{epochs}" if stage == "train" else stage
            return where, f"validation macro F1 {float(last['val_macro_f1']):.3f}"
    return stage, ""


def end(name: str = "*") -> bool:
    """End the processes of the experiment ``name``, or of all; return whether there were any."""
    root, deadline = Path.cwd().resolve(), time.monotonic() + STOP_SECONDS
    asked, folders = set(), set()

    def left() -> Iterator[psutil.Process]:
        for process in psutil.process_iter(["environ", "cwd"]):
            place, _, one = (process.info["environ"] or {}).get(_MARK, "").rpartition("/")
            if place == str(root) and name in ("*", one):
                folder = Path(process.info["cwd"] or root)
                folders.update((folder, *folder.parents))
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
        for folder in folders:
            if root / ".dvc/tmp" in folder.parents and (folder / ".git").exists():
                shutil.rmtree(folder, ignore_errors=True)  # the temporary copy
    return bool(asked)


class Runner:
    """Runs the missing ones of ``total`` experiments, ``jobs`` at once; shows their ``metric``.

    ``results`` has the ended experiments by name, None for failed ones. Raises UserError in a
    shallow clone, or when another call runs in this repository.
    """

    def __init__(self, jobs: int, total: int, metric: str) -> None:
        git.require_whole()
        self.baseline = git.head()
        self.results: dict[str, FinishedRun | None] = {}
        self._jobs, self._metric, self._board = jobs, metric, Board(total)
        self._workspace, self._stopping = Lock(), False
        FOLDER.mkdir(parents=True, exist_ok=True)
        self._alone = FileLock(FOLDER / "lock")
        try:
            self._alone.acquire(timeout=0)
        except Timeout:
            raise UserError(
                "another sweep or study runs in this repository: wait or stop it"
            ) from None
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as for a shell's background job
            signal.signal(signal.SIGINT, lambda *_: None)  # experiments do not inherit a handler
        if end():
            terminal.say("ended the experiments of an earlier call: they resume where they were")
        self._code = _code()

    def outdated(self, planned: Mapping[str, Experiment | None]) -> list[str]:
        """Names of ``planned`` that finished with other parameters, code or data.

        A name with None has no parameters yet: what finished under it is another experiment.
        """
        done = finished(self.baseline)
        return [
            name
            for name, one in planned.items()
            if name in done and not (one and done[name].is_of(one.params))
        ]

    def run(self, experiments: Iterable[Experiment]) -> list[FinishedRun]:
        """Run each of ``experiments`` that has not finished; return all finished ones, in order.

        It takes the next one when a job is free and DVC is not changing the workspace, because only
        then is the workspace readable. Ctrl-C first ends the running ones.
        """
        waiting, before, asked = iter(experiments), finished(self.baseline), []

        def work() -> None:
            while True:
                with self._workspace:
                    if self._stopping or (experiment := next(waiting, None)) is None:
                        return
                    asked.append(name := experiment.name)
                self.results[name] = result = before.get(name) or self._run(experiment)
                if result:
                    epoch = f"best epoch {result.training['best_epoch']}"
                    score = f"{METRICS[self._metric]} {result.score(self._metric):.3f}"
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
                terminal.err.print("the same command continues with what has not finished")
                raise
        return [result for name in asked if (result := self.results[name])]

    def _run(self, experiment: Experiment) -> FinishedRun | None:
        name, tries, locked_since = experiment.name, 0, 0.0
        root, log, said = Path.cwd().resolve(), FOLDER / f"{name}.log", ""
        while True:
            end(name)  # processes that a kill left
            with self._workspace:
                if self._stopping:
                    return None
                if _code() != self._code:
                    why = "code, data or parameters changed meanwhile: see `git status`"
                    break
                epochs = experiment.params.train.epochs
                child, folder, tries = _start(experiment, root, log), root, tries + 1
                # DVC may be changing the workspace until it moves to a temporary copy.
                while child.poll() is None and folder == root:
                    self._board.put(name, RUNNING, "starting")
                    time.sleep(_POLL_SECONDS)
                    with suppress(psutil.Error, OSError):  # it has ended
                        folder = Path(child.cwd())
            while child.poll() is None:
                locked_since = 0.0
                self._board.put(name, RUNNING, *_progress(_text(log), folder, epochs))
                time.sleep(_POLL_SECONDS)
            result = finished(self.baseline).get(name)
            if result or self._stopping:
                return result
            text = _text(log)
            lines = filter(None, map(str.rstrip, text.splitlines()))
            said = "\n  ".join([line for line, _ in itertools.groupby(lines)][-8:])
            code = [child.returncode, *map(int, _EXIT.findall(text))][-1]
            code = 128 - code if 128 < code < 160 else code  # as a shell reports a signal
            why = f"exit status {code}" if code else "DVC lost its result"
            why = f"killed by signal {-code}" if code < 0 else why
            again = code <= 0 and tries <= AGAIN
            if _LOCKED.search(said):
                locked_since = locked_since or time.monotonic()
                again = time.monotonic() - locked_since < LOCK_SECONDS
                why = "another process holds the lock of DVC or git"
            if not again:
                break
            self._board.put(name, RUNNING, f"again: {why}")
        if said:
            terminal.out.print(f"{name} failed; its last lines:\n  {said}", markup=False)
        end(name)
        self._board.put(name, FAILED, why)
        return None

    def complain(self) -> None:
        """Raise EnvironmentFault when experiments failed."""
        if failed := [name for name, result in self.results.items() if result is None]:
            raise EnvironmentFault(
                f"{len(failed)} of {len(self.results)} experiments failed: {', '.join(failed)}."
                f" The log of the first: {FOLDER / failed[0]}.log."
                " Repeat the command to run the missing ones"
            )


def _code() -> str:
    """The code of experiments: the commit and the changes in the workspace."""
    return git.head() + git.run("diff", "HEAD", "--", "src", "data", "dvc.yaml", "params.yaml")


def _text(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")
