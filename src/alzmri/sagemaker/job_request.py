"""The request for a training job: this checkout's code, data and parameters."""

import hashlib
import json
import os
import re
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.filesize import decimal
from ruamel.yaml import YAML

from alzmri import git
from alzmri.data.prepared import PREPARED, Prepared
from alzmri.errors import UserError
from alzmri.params import Params
from alzmri.sagemaker import container
from alzmri.sagemaker.sagemaker_settings import SagemakerSettings

CONTENT = ("src", "requirements.txt")
LIMIT = 20_000_000  # bytes of code; more was committed by mistake
OURS = "alzmri-"  # prefix of all jobs of alzmri
PREPARED_FILES = [
    PREPARED / name for name in ("images.npy", "manifest.csv", "params.json", "summary.json")
]
"""Files of data/prepared that training reads."""

_SECRET_NAME = re.compile(
    r"(.*/)?(\.dvc|\.aws|\.ssh|\.netrc|\.env\b.*|.*\.(env|pem|key|p12)|id_(rsa|dsa|ecdsa|ed25519))"
    r"(/.*)?"
)
_SECRET = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----|\b(AKIA|ASIA)[0-9A-Z]{16}\b")

_NUMBER = r"([0-9.]+(?:e[-+]?[0-9]+)?)"
METRICS = {
    "epoch": r"^epoch +([0-9]+)/",
    "train:loss": rf"train loss {_NUMBER}",
    "validation:loss": rf"val loss {_NUMBER}",
    "validation:accuracy": rf"accuracy {_NUMBER}",
    "validation:macro_f1": rf"macro F1 {_NUMBER}",
}
"""Patterns for the line that the stage train prints after each epoch."""


@dataclass(frozen=True)
class Work:
    """Code, data and parameters of a job; digests are SHA-256."""

    commit: str
    snapshot: str  # a commit that includes the changes; ``commit`` if there are none
    changes: list[str]  # lines of ``git status``
    code: str  # digest of all code of a job
    training: str  # digest of the code that the stage train depends on
    data: str  # digest of data/prepared
    hyperparameters: dict[str, str]  # JSON by ``section.key``, as the service has strings only

    @property
    def digest(self) -> str:
        """Digest of everything that determines the training: jobs with the same one are equal."""
        return _digest([self.training, self.data, shaping(self.hyperparameters)])

    @property
    def names(self) -> str:
        """Prefix of the names of all jobs for this work, and of no others."""
        return f"{OURS}{self.digest[:12]}-"


def shaping(hyperparameters: Mapping[str, str]) -> dict[str, str]:
    """The ``hyperparameters`` that a model depends on."""
    sections = ("data", "split", "augment", "model", "train")
    return {k: value for k, value in hyperparameters.items() if k.partition(".")[0] in sections}


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def gather(params: Params) -> Work:
    """The work of this checkout.

    Raises:
        UserError: git fails; data/prepared is missing, damaged, or made with other parameters;
            training starts from another model.
    """
    if params.train.init:
        raise UserError(
            f"train.init = {params.train.init}: a job on SageMaker cannot start from another model:"
            " set it to '', or train here"
        )
    commit = git.head()
    # It only creates objects: the tree, the index and the list of stashes stay the same.
    snapshot = git.run("stash", "create").strip() or commit
    changes = git.lines("status", "--porcelain", "--", *CONTENT)
    stages = YAML(typ="safe").load(Path("dvc.yaml").read_bytes())["stages"]
    deps = [name for name in stages["train"]["deps"] if name.startswith("src/")]
    code, training = (
        _digest(git.run("rev-parse", *(f"{snapshot}:./{name}" for name in names)))
        for names in (CONTENT, deps)
    )
    made_from = params.model_dump(mode="json", include={"data", "split"})
    data = _digest([Prepared.open(params).digest, made_from])
    return Work(commit, snapshot, changes, code, training, data, hyperparameters(params))


def hyperparameters(params: Params) -> dict[str, str]:
    """Parameters as JSON, with ``compute`` changed so that the job starts no other job."""
    return {
        f"{section}.{key}": json.dumps(value)
        for section, values in params.model_dump(mode="json", exclude={"compute"}).items()
        for key, value in values.items()
    }


def image(settings: SagemakerSettings) -> str:
    """The container image: the user's, or AWS's with the pinned PyTorch, for NVIDIA GPUs or CPU."""
    kind = "cu133" if re.match(r"ml\.(g|p)\d", settings.instance_type) else "cpu"
    registry = f"763104351884.dkr.ecr.{settings.region}.amazonaws.com"
    return settings.image or f"{registry}/pytorch:2.13-{kind}-amzn2023-sagemaker"


def pack(work: Work, archive: Path) -> None:
    """Write git's archive of the code to ``archive``, a ``.tar.gz``.

    Raises:
        UserError: a file may contain a secret, or the archive is too large.
    """
    git.run("archive", f"--output={archive}", work.snapshot, "--", *CONTENT)
    with tarfile.open(archive) as tar:
        files = {item.name: file.read() for item in tar if (file := tar.extractfile(item))}
    for name, content in files.items():
        if _SECRET_NAME.fullmatch(name) or _SECRET.search(content):
            raise UserError(
                f"{name} looks like a key, or contains one: nothing was sent; remove it from git"
                f" (`git rm --cached {name}`), and revoke the key if it was ever committed"
            )
    if (total := sum(map(len, files.values()))) > LIMIT:
        largest = max(files, key=lambda name: len(files[name]))
        raise UserError(
            f"the code has {decimal(total)}, but a job takes at most {decimal(LIMIT)}: track data"
            f" with DVC, not git. The largest file is {largest}"
        )


def job_name(work: Work) -> str:
    """The name of the first job for ``work``, with the name of the experiment or commit."""
    label = os.environ.get("DVC_EXP_NAME") or work.commit[:7]
    return work.names + (re.sub(r"[^a-zA-Z0-9]+", "-", label)[:30].strip("-") or "stage")


def channels(settings: SagemakerSettings, work: Work) -> dict[str, str]:
    """Addresses of the job's inputs in the bucket, named by their content."""
    # Without the final slash, the service would also fetch other keys with the same prefix.
    return {
        "code": f"{settings.root}/code/{work.code[:16]}/",
        "prepared": f"{settings.root}/data/{work.data[:16]}/",
    }


def build(settings: SagemakerSettings, work: Work, name: str) -> dict[str, Any]:
    """The request (CreateTrainingJob) for the job ``name``, without secrets.

    A job that repeats one that was stopped, failed or ran out of time continues from its
    checkpoints, if the trainer's fingerprint is the same.
    """
    limits = {"MaxRuntimeInSeconds": round(settings.max_hours * 3600)}
    if settings.spot:
        limits["MaxWaitTimeInSeconds"] = round(settings.max_wait_hours * 3600)
    # DVC sets the same variables for a stage; tracking takes the run's name and group from them.
    environment = {
        "DVC_EXP_NAME": os.environ.get("DVC_EXP_NAME") or name,
        "DVC_EXP_BASELINE_REV": os.environ.get("DVC_EXP_BASELINE_REV") or work.commit,
    }
    if settings.wandb_secret:
        environment[container.SECRET_VARIABLE] = settings.wandb_secret
    source = {"S3DataType": "S3Prefix", "S3DataDistributionType": "FullyReplicated"}
    return {
        "TrainingJobName": name,
        "RoleArn": settings.role,
        "AlgorithmSpecification": {
            "TrainingImage": image(settings),
            "TrainingInputMode": "File",
            "ContainerEntrypoint": container.ENTRY_POINT,
            "MetricDefinitions": [{"Name": key, "Regex": regex} for key, regex in METRICS.items()],
        },
        "HyperParameters": work.hyperparameters,
        "InputDataConfig": [
            {"ChannelName": key, "DataSource": {"S3DataSource": {**source, "S3Uri": address}}}
            for key, address in channels(settings, work).items()
        ],
        "OutputDataConfig": {"S3OutputPath": f"{settings.root}/jobs/"},
        "CheckpointConfig": {"S3Uri": f"{settings.root}/checkpoints/{work.digest[:16]}/"},
        "ResourceConfig": {
            "InstanceType": settings.instance_type,
            "InstanceCount": settings.instance_count,
            "VolumeSizeInGB": settings.volume_gb,
        },
        "StoppingCondition": limits,
        "EnableManagedSpotTraining": settings.spot,
        "Environment": environment,
        "Tags": settings.tagged("alzmri:commit", work.commit + "-changed" * bool(work.changes)),
    }
