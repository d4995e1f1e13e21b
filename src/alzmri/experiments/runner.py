"""Run experiments, several at once, each as one ``dvc exp run --temp`` of all stages.

The processes of an experiment have a mark in their environment. Ctrl-C, or the next call after a
kill, finds them by the mark and ends them; a training saves its work and resumes.
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
from alzmri.files import write_json
from alzmri.params import Params

AGAIN = 3  # maximum number of restarts of a killed experiment
LOCK_SECONDS = 180
"""Time to retry an experiment while another process holds the lock of DVC or git."""
STOP_SECONDS = 60  # time for experiments to save their training
_POLL_SECONDS = 0.5
_FOLDER = Path(".dvc/tmp/sweep")  # each experiment's log and settings
_MARK = "ALZMRI_SWEEP"
"""An environment variable of each experiment: ROOT/NAME, with the repository's root."""
_LOCKED = re.compile(r"Unable to acquire lock|is being blocked by|index\.lock|FileLocked|lock ref")
"""Messages of DVC and git while another process uses the repository."""
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
            known = isinstance(content.get(section), dict) and name
            (content[section] if known else content)[name if known else key] = value
        return params.check(content, f"params.yaml with the settings of {self.name}")


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
            raise UserError(f"-S {word}: write KEY=VALUE, a value of YAML, such as train.lr=0.001")
    return settings


def on_this_machine(jobs: int) -> Settings:
    """Settings by which ``jobs`` experiments share the machine; the committed run has others."""
    threads = max(1, (os.cpu_count() or 1) // jobs) if jobs > 1 else 0
    return {"compute.portable": False, "compute.threads": threads}


def require_source(name: str) -> None:
    """Raise UserError when there is no collection data/``name``."""
    if name != "phantom" and not any(map(os.path.lexists, (f"data/{name}", f"data/{name}.dvc"))):
        raise UserError(
            f"data/{name} not found: import it with `alzmri data import SOURCE --name {name}`"
        )


class Board:
    """Progress of experiments: a live table on a terminal, occasional lines in a log."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._rows: dict[str, tuple[str, str, str]] = {}
        self._said: dict[str, float] = {}
        self.live: AbstractContextManager[object] = nullcontext()  # shows the table
        if terminal.out.is_terminal:
            self.live = Live(console=terminal.out, get_renderable=self._table)

    def put(self, name: str, status: str, where: str, score: str = "") -> None:
        """Show an experiment: its status, its stage or epoch, and its latest score."""
        before = self._rows.get(name, ("", "", ""))
        self._rows[name] = row = (status, where or before[1], score or before[2])
        quiet = time.monotonic() - self._said.get(name, 0) < terminal.SECONDS_BETWEEN_LINES
        if not terminal.out.is_terminal and (status != before[0] or (row != before and not quiet)):
            self._said[name] = time.monotonic()
            terminal.say("  ".join(filter(None, (name, *row))))

    def _table(self) -> Table:
        rows = dict(self._rows)  # another thread draws
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
    """A ``dvc exp run --temp`` of ``experiment``; creating the object starts it."""

    def __init__(self, experiment: Experiment, baseline: str) -> None:
        name, self._root, self._folder = experiment.name, str(Path.cwd().resolve()), ""
        self._log = _FOLDER / f"{name}.log"
        self._epochs = experiment.params.train.epochs
        end(name)  # processes that a kill left
        record = {"baseline": baseline, "settings": experiment.settings}
        write_json(_FOLDER / f"{name}.json", record)
        words = [f"--set-param={key}={value}" for key, value in experiment.settings.items()]
        # Stages must use the `python` of this program.
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
        with self._log.open("w") as log:
            self.process = psutil.Popen(
                [sys.executable, "-m", "dvc", "exp", "run", "--temp", "--name", name, *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PATH": path, _MARK: f"{self._root}/{name}"},
                start_new_session=True,
            )

    def is_starting(self) -> bool:
        """Whether DVC may be changing the workspace before it moves to a temporary copy."""
        with suppress(psutil.Error, OSError):  # it has ended
            self._folder = here if (here := self.process.cwd()) != self._root else ""
        return self.process.poll() is None and not self._folder

    def progress(self) -> tuple[str, str]:
        """The running stage or epoch, and the latest validation macro F1."""
        stage = (_STAGE.findall(self._text()) or ["starting"])[-1]
        if stage in ("starting", "phantom", "prepare"):
            return stage, ""  # the history still belongs to the run before
        try:
            with Path(self._folder, "plots/history.csv").open(newline="") as file:
                *_, last = csv.DictReader(file)
            where = f"epoch {last['epoch']}/{self._epochs}" if stage == "train" else stage
            return where, f"validation macro F1 {float(last['val_macro_f1']):.3f}"
        except (OSError, ValueError, LookupError):
            return stage, ""

    def why(self) -> tuple[bool, str]:
        """Whether to start it again after it ended without a result, and the reason."""
        code = [self.process.returncode, *map(int, _EXIT.findall(self._text()))][-1]
        if code == 0:
            return True, "its result was lost"
        killed = 128 - code if 128 < code < 160 else code  # as a shell reports a signal
        return killed < 0, f"killed by signal {-killed}" if killed < 0 else f"exit status {code}"

    def said(self) -> str:
        """The last lines that it printed."""
        lines = (line.rstrip() for line in self._text().splitlines() if line.strip())
        return "\n  ".join([line for line, _ in itertools.groupby(lines)][-8:])  # DVC repeats some

    def _text(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")


def begun(name: str, baseline: str) -> dict[str, object]:
    """The settings of the last start of the experiment ``name``, with which it resumes."""
    path = _FOLDER / f"{name}.json"
    record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return dict(record["settings"]) if record.get("baseline") == baseline else {}


def end(name: str = "*") -> bool:
    """End the processes of the experiment ``name``, or of all; return whether there were any."""
    root, deadline = Path.cwd().resolve(), time.monotonic() + STOP_SECONDS
    asked, folders = set(), set()

    def left() -> Iterator[psutil.Process]:
        for process in psutil.process_iter(["environ", "cwd"]):
            place, _, one = (process.info["environ"] or {}).get(_MARK, "").rpartition("/")
            if place == str(root) and name in ("*", one):
                folders.add(Path(process.info["cwd"] or root))
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
            whole = next(
                (one for one in (folder, *folder.parents) if (one / ".git").exists()), root
            )
            if root / ".dvc/tmp" in whole.parents:
                shutil.rmtree(whole, ignore_errors=True)
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
        _FOLDER.mkdir(parents=True, exist_ok=True)
        self._alone = FileLock(_FOLDER / "lock")
        try:
            self._alone.acquire(timeout=0)
        except Timeout:
            raise UserError(
                "another sweep or study runs in this repository: wait for it, or stop it"
            ) from None
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            # Ignored, as for a shell's background job; experiments inherit that, but no handler.
            signal.signal(signal.SIGINT, lambda *_: None)
        if end():
            terminal.say(
                "ended the experiments of an earlier call: they resume from their checkpoints"
            )
        self._code = _code()

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
                    score = f"{METRICS[self._metric]} {result.score(self._metric):.3f}"
                    self._board.put(
                        name, DONE, f"best epoch {result.training['best_epoch']}", score
                    )

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
        name, tries, locked_since = experiment.name, 0, 0.0
        while True:
            with self._workspace:
                if self._stopping:
                    return None
                if _code() != self._code:
                    why = "code, data or parameters changed meanwhile: see `git status`"
                    break
                child, tries = _Child(experiment, self.baseline), tries + 1
                while child.is_starting():
                    self._board.put(name, RUNNING, "starting")
                    time.sleep(_POLL_SECONDS)
            while child.process.poll() is None:
                locked_since = 0.0
                self._board.put(name, RUNNING, *child.progress())
                time.sleep(_POLL_SECONDS)
            result = finished(self.baseline).get(name)
            if result or self._stopping:
                return result
            said, (killed, why) = child.said(), child.why()
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
                " Repeat the command to run the missing ones"
            )


def _code() -> str:
    """The code of experiments: the commit and the changes in the workspace."""
    return git.head() + git.run("diff", "HEAD", "--", "src", "data", "dvc.yaml", "params.yaml")
