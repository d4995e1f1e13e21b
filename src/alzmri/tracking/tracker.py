"""Report a stage to W&B, or to a file on disk. The stage waits for W&B only at its end."""

import csv
import hashlib
import json
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any

import psutil

from alzmri import git, terminal
from alzmri.data.prepared import numbered
from alzmri.errors import UserError
from alzmri.params import Params, Track
from alzmri.store import remotes

if TYPE_CHECKING:  # the thread of a `WandbTracker` imports it
    import wandb

# The longest wait for W&B at the end of a stage that is complete, and of one that failed.
COMPLETE_SECONDS, STOP_SECONDS = 14, 5
START_SECONDS, FINISH_SECONDS = 4, 8  # for the server's first answer, and for the last upload
TRAINING = "training"  # an empty file in the folder of an offline training, not of an evaluation

# The client must send nothing but what this module logs, and print nothing.
_ON = """silent finish_timeout_raises sagemaker_disable disable_git disable_code x_disable_meta
x_disable_stats x_disable_machine_info"""
_SETTINGS: dict[str, Any] = {
    **dict.fromkeys(_ON.split(), True),
    "init_timeout": START_SECONDS,
    "finish_timeout": FINISH_SECONDS,
    "console": "off",
    "host": "-",
    "program": "alzmri",
    "x_save_requirements": False,
    "use_dot_wandb": False,
}


class Tracker:
    """Takes the reports of a stage and does nothing with them: tracking is disabled."""

    def __init__(self) -> None:
        self._orders: SimpleQueue[Callable[[Any], None] | None] = SimpleQueue()

    def epoch(self, values: Mapping[str, float]) -> None:
        """Report one row of ``plots/history.csv``, by column name."""
        self._orders.put(lambda run: run.epoch(values))

    def evaluation(self, classes: Sequence[str], after: int) -> None:
        """Report the outputs of evaluate; ``after`` is the last possible epoch."""
        self._orders.put(lambda run: run.evaluation(classes, after + 1))


class WandbTracker(Tracker):
    """Reports one stage to W&B: a thread makes the calls of :class:`WandbRun` one by one."""

    def __init__(self, track: Track, mode: str, config: Mapping[str, Any]) -> None:
        super().__init__()
        self._done = self._given_up = False
        # A daemon thread, so that the stage can end while it waits.
        self._thread = Thread(target=self._follow, args=(track, mode, config), daemon=True)
        self._thread.start()

    def end(self, *, complete: bool, seconds: float) -> None:
        """Wait at most ``seconds`` until everything is saved."""
        self._orders.put(lambda run: run.finish(complete=complete))
        self._orders.put(None)
        self._thread.join(seconds)
        self._given_up = self._thread.is_alive()
        if self._given_up and complete:
            terminal.warn(f"W&B: tracking is incomplete (not done after {seconds} s)")
        if not self._done:
            # Python's exit would wait for the client's core; terminated, it saves its file.
            cores = [core for core in psutil.Process().children() if core.name() == "wandb-core"]
            for core in cores:
                core.terminate()
            for core in psutil.wait_procs(cores, timeout=1)[1]:
                core.kill()
            with suppress(Exception, SystemExit):  # or Python would try it again
                sys.modules["wandb"].teardown()

    def _follow(self, track: Track, mode: str, config: Mapping[str, Any]) -> None:
        try:
            run = WandbRun(track, mode, config)
            for order in iter(self._orders.get, None):
                order(run)
            self._done = True
        except (Exception, SystemExit) as error:  # noqa: BLE001  # the client may raise anything
            if not self._given_up:
                terminal.warn(f"W&B: tracking stopped early ({_reason(error)})")


@contextmanager
def following(params: Params, run: str, data_sha256: str) -> Iterator[Tracker]:
    """Yield the tracker of a stage. Its failures are warnings, never exceptions.

    ``run``, the fingerprint, is the run's id on W&B, so that a resumed training continues its run.
    For "", of an older model, the tracker does nothing.
    """
    track = params.track
    mode = os.environ.get("WANDB_MODE", "auto") if track.mode == "auto" else track.mode
    if mode == "disabled" or not run:
        yield Tracker()
        return
    config = params.model_dump(exclude={"track"}) | {"data_sha256": data_sha256, "run": run}
    tracker = WandbTracker(track, mode, config)
    try:
        yield tracker
    except BaseException:
        tracker.end(complete=False, seconds=STOP_SECONDS)
        raise
    tracker.end(complete=True, seconds=COMPLETE_SECONDS)


class WandbRun:
    """The run on W&B or on disk; its id is ``config["run"]``."""

    def __init__(self, track: Track, mode: str, config: Mapping[str, Any]) -> None:
        import wandb

        self._wandb = wandb
        self._root = Path(os.environ.get("DVC_ROOT", Path.cwd())).resolve()
        place = Path(os.environ.get("WANDB_DIR") or self._root)
        # Keep tables and artifacts for the upload here, not in the home directory.
        os.environ.setdefault("WANDB_DATA_DIR", str(place / "wandb" / "data"))
        logging.raiseExceptions = False  # else a full disk prints many tracebacks
        settings = wandb.Settings(root_dir=str(place), stop_fn=lambda: None, **_SETTINGS)
        wandb.setup(settings)
        failure = ""
        try:
            if mode == "auto":
                mode = "online" if wandb.login(prompt=False, verify=False) else "offline"
            self._run = self._begin(track, mode, config, settings)
        except Exception as error:
            if mode == "offline":
                raise
            failure = f"not reached ({_reason(error)})"
            wandb.teardown()  # the client still uses the id
            self._run = self._begin(track, "offline", config, settings)
        self._folder = Path(self._run.dir).parent
        runs = self._folder.parent / f"{self._run.settings.run_mode}-*-{self._run.id}"
        runs = runs.relative_to(self._root) if runs.is_relative_to(self._root) else runs
        self._upload = f"to upload it: wandb sync {runs}"
        self._warned = bool(failure)
        if failure:
            terminal.warn(f"W&B: {failure}; {self._upload}")
        elif not self._run.offline:
            terminal.say(f"W&B: {self._run.name} is at {self._run.url}")

    def _begin(
        self, track: Track, mode: str, config: Mapping[str, Any], settings: "wandb.Settings"
    ) -> "wandb.Run":
        commit = "".join(git.lines("rev-parse", "HEAD"))
        # The name of the experiment, or else of the branch, as in `dvc exp show`.
        name = os.environ.get("DVC_EXP_NAME") or "".join(git.lines("branch", "--show-current"))
        return self._wandb.init(
            project=track.project,
            entity=track.entity or None,
            group=track.group or os.environ.get("DVC_EXP_BASELINE_REV", commit)[:7],
            name=name or commit[:7] or config["run"],
            id=config["run"],
            resume="allow" if mode == "online" else None,
            job_type="train",
            tags=["LEAKS"] if config["split"]["unit"] == "slice" else None,
            config={**config, "git_commit": commit},
            mode=mode,  # type: ignore[arg-type]  # WANDB_MODE may have any value; the client refuses bad ones
            settings=settings.model_copy(),
        )

    def epoch(self, values: Mapping[str, float]) -> None:
        """Log a row of the history unless W&B has it; the step is the epoch."""
        mark = self._folder / TRAINING
        if self._run.offline and not mark.exists():
            # A resumed training reports all of its epochs: those in earlier folders would be there
            # twice, and the folder of a killed one is incomplete.
            for old in self._folder.parent.glob(f"offline-run-*-{self._run.id}*/{TRAINING}"):
                shutil.rmtree(old.parent)
            mark.touch()
        # Online, a resumed run begins after the last step that W&B has.
        if (step := int(values["epoch"])) >= self._run.step:
            self._run.log(dict(values), step=step)

    def evaluation(self, classes: Sequence[str], step: int) -> None:
        """Log the outputs of evaluate in the current directory."""
        wandb, labels = self._wandb, numbered(classes)
        rows = list(csv.DictReader(Path("plots/confusion.csv").read_text("utf-8").splitlines()))
        truth, said = ([labels.index(row[key]) for row in rows] for key in ("actual", "predicted"))
        media = {
            "confusion_matrix": wandb.plot.confusion_matrix(
                y_true=truth, preds=said, class_names=labels, title="Confusion matrix"
            ),
            "confusion": wandb.Image("plots/confusion.png"),
            "mistakes": wandb.Image("plots/mistakes.png"),
        }
        # Online, W&B knows the last step and accepts only later ones; a file does not.
        self._run.log(media, step=step if self._run.offline else None)
        self._run.summary.update(json.loads(Path("models/evaluation.json").read_bytes()))
        # The model's artifact only refers to the DVC remote.
        about = "In the DVC remote after `dvc push`; `dvc pull models` fetches it"
        artifact = wandb.Artifact(f"model-{self._run.id}", type="model", description=about)
        try:
            remote = remotes.default(self._root)
            artifact.metadata = {"remote": remote.url, "endpoint": remote.endpoint}
            for name in ("model.safetensors", "model.json"):
                content = Path("models", name).read_bytes()
                digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
                address = f"{remote.url}/files/md5/{digest[:2]}/{digest[2:]}"
                artifact.add_reference(address, name=name, checksum=False)
        except (UserError, wandb.Error):
            return  # no S3 remote, or no boto3, which the client always needs
        self._run.log_artifact(artifact)

    def finish(self, *, complete: bool) -> None:
        """Wait until W&B or the disk has everything."""
        try:
            self._run.finish(exit_code=0 if complete else 1)
        except TimeoutError:
            late = f"the upload did not finish within {FINISH_SECONDS} s"
            raise TimeoutError(f"{late}; {self._upload}") from None
        self._wandb.teardown()  # completes the file
        if complete and self._run.offline and not self._warned:
            terminal.say(f"W&B: {self._run.name} is kept offline; {self._upload}")


def _reason(error: BaseException) -> str:
    """The error as one line of at most 200 characters."""
    return " ".join(str(error).split())[:200] or type(error).__name__
