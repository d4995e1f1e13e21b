"""One run on W&B, by its client. Imported by the client's process only."""

import csv
import hashlib
import json
import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit
from urllib.request import getproxies

import wandb
from wandb.sdk.artifacts.artifact_manifest_entry import ArtifactManifestEntry

from alzmri.data.prepared import numbered
from alzmri.errors import UserError
from alzmri.store import settings as store
from alzmri.tracking import transactions

START = 10
"""Seconds that the server has to answer at first; then the run is kept on disk."""

FINISH = 30
"""Seconds that it has at the end to take what is left."""

REST = 20
"""Seconds for all else at the end; the client has been seen to hang when its core was killed."""

MODEL = ("model.safetensors", "model.json")


class Tell(Protocol):
    """Has the stage say one line."""

    def __call__(self, text: str, *, warning: bool = False) -> None: ...


class Followed:
    """The run on W&B.

    Args:
        start: ``track`` as in ``params.yaml``, but with the mode that is wanted in the end;
            ``config`` of the run, its id among it.
        tell: what to say.
    """

    def __init__(self, start: dict[str, Any], tell: Tell) -> None:
        self._tell = tell
        self._track, self._config = start["track"], start["config"]
        self._id = self._config["run"]
        self.root = Path(os.environ.get("DVC_ROOT", Path.cwd())).resolve()
        place = Path(os.environ.get("WANDB_DIR") or self.root)
        self._settings = wandb.Settings(
            root_dir=str(place),
            use_dot_wandb=False,
            silent=True,
            console="off",
            init_timeout=START,
            finish_timeout=FINISH,
            finish_timeout_raises=True,
            stop_fn=lambda: None,
            sagemaker_disable=True,  # it would choose the id
            # Nothing of the machine or its user but what is logged on purpose.
            disable_git=True,
            disable_code=True,
            host="-",
            program="alzmri",
            x_disable_meta=True,
            x_disable_stats=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
        )
        # Reports of its own errors would wait for the server once more.
        os.environ["WANDB_ERROR_REPORTING"] = "false"
        # What tables and artifacts are made of waits for its upload beside the rest, not at home.
        os.environ.setdefault("WANDB_DATA_DIR", str(place / "wandb" / "data"))
        wandb.setup(self._settings)
        self._seen: set[int] = set()
        self._said_how_to_upload = False
        mode = self._track["mode"]
        try:
            if mode == "auto":
                mode = "online" if wandb.login(prompt=False, verify=False) else "offline"
            self._run = self._begin(mode)
        except Exception as error:
            if mode == "offline":
                raise
            wandb.teardown()  # the id is in use there
            self._run = self._begin("offline")
            self._say_how_to_upload(f"not reached ({reason(error)})", warning=True)
        else:
            if mode == "online":
                self._tell(f"{self._run.name} is at {self._run.url}")
        if self._run.offline:
            # An epoch is trained again when a kill came before its checkpoint.
            self._seen = transactions.steps(Path(self._run.settings.wandb_dir), self._id)

    def _begin(self, mode: str) -> wandb.Run:
        if mode == "online":
            require_listener(wandb.setup().settings.base_url)
        commit = _git("rev-parse", "HEAD")
        baseline = os.environ.get("DVC_EXP_BASELINE_REV", commit)
        return wandb.init(
            project=self._track["project"],
            entity=self._track["entity"] or None,
            group=self._track["group"] or baseline[:7],
            # What DVC calls the experiment; else the branch, as in the first column of its table.
            name=os.environ.get("DVC_EXP_NAME")
            or _git("branch", "--show-current")
            or commit[:7]
            or self._id,
            id=self._id,
            resume="allow",
            job_type="train",
            tags=["LEAKS"] if self._config["split"]["unit"] == "slice" else None,
            config={**self._config, "git_commit": commit},
            mode=mode,  # type: ignore[arg-type]  # WANDB_MODE may say anything: it is refused here
            settings=self._settings,
        )

    def epoch(self, values: dict[str, float]) -> None:
        """Log a line of the history; its step is the epoch."""
        step = int(values["epoch"])
        if step not in self._seen:
            self._run.log(values, step=step)

    def evaluation(self, classes: list[str], step: int) -> None:
        """Log what evaluate wrote into the current directory."""
        labels = numbered(tuple(classes))
        with Path("plots/confusion.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        actual, predicted = (
            [labels.index(row[key]) for row in rows] for key in ("actual", "predicted")
        )
        media = {
            "confusion_matrix": wandb.plot.confusion_matrix(
                y_true=actual, preds=predicted, class_names=labels, title="Confusion matrix"
            ),
            "confusion": wandb.Image("plots/confusion.png"),
            "mistakes": wandb.Image("plots/mistakes.png"),
        }
        # W&B takes only what comes after the last step it has, and knows that; a file does not.
        self._run.log(media, step=step if self._run.offline else None)
        metrics = json.loads(Path("models/evaluation.json").read_bytes())
        self._run.summary.update(flat(metrics))
        self._refer_to_model()

    def _refer_to_model(self) -> None:
        """Log the model as an artifact that only says where in the DVC remote it belongs."""
        try:
            remote = store.default(self.root)
        except UserError:
            return  # no S3 remote: there is no address to refer to
        artifact = wandb.Artifact(
            f"model-{self._id}",
            type="model",
            description="In the DVC remote once it is pushed there: `dvc push`, `dvc pull models`",
            metadata={"remote": remote.url, "endpoint": remote.endpoint},
        )
        for name in MODEL:
            content = Path("models", name).read_bytes()
            digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
            # As add_reference does, which wants boto3 to be installed even if it is not to look.
            artifact.manifest.add_entry(
                ArtifactManifestEntry(
                    path=name,
                    ref=f"{remote.url}/files/md5/{digest[:2]}/{digest[2:]}",
                    digest=digest,
                    size=len(content),
                )
            )
        self._run.log_artifact(artifact)

    def finish(self, *, complete: bool) -> None:
        """Wait until W&B, or the disk, has all."""
        signal.alarm(FINISH + REST)
        try:
            self._run.finish(exit_code=0 if complete else 1)
        except TimeoutError:
            self._say_how_to_upload(f"did not take everything within {FINISH} s", warning=True)
        else:
            if complete and self._run.offline:
                self._say_how_to_upload(f"{self._run.name} is kept offline")

    def _say_how_to_upload(self, what: str, *, warning: bool = False) -> None:
        """Say so once, after ``what``."""
        if self._said_how_to_upload:
            return
        self._said_how_to_upload = True
        folder = Path(self._run.settings.wandb_dir)
        if folder.is_relative_to(self.root):
            folder = folder.relative_to(self.root)
        runs = f"{folder}/{self._run.settings.run_mode}-*-{self._id}"
        self._tell(f"{what}; to upload it: wandb sync {runs}", warning=warning)


def flat(metrics: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Nested values by keys with dots, as ``dvc metrics show`` has them; intervals low and high."""
    found: dict[str, Any] = {}
    for key, value in metrics.items():
        match value:
            case dict():
                found |= flat(value, f"{above}{key}.")
            case [low, high]:
                found |= {f"{above}{key}.low": low, f"{above}{key}.high": high}
            case _:
                found[f"{above}{key}"] = value
    return found


def require_listener(url: str) -> None:
    """Raise OSError at once where there is no network, or nobody listens; the client would wait.

    Behind a proxy nothing can be told.
    """
    address = urlsplit(url)
    if not getproxies():
        port = address.port or {"http": 80}.get(address.scheme, 443)
        socket.create_connection((address.hostname or "", port), START).close()


def reason(error: BaseException) -> str:
    """An error in a line; the client's messages can be long."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def _git(*words: str) -> str:
    done = subprocess.run(("git", *words), capture_output=True, text=True, check=False)
    return done.stdout.strip()
