"""The settings in ``sagemaker.yaml``, and the request for a training job of this checkout."""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from ruamel.yaml import YAML

from alzmri import aws, git, params, terminal
from alzmri.errors import UserError
from alzmri.params import Number, Params
from alzmri.sagemaker import container

SETTINGS_FILE = Path("sagemaker.yaml")
TO_TRAIN = ("region", "role", "bucket")
TO_SERVE = (*TO_TRAIN, "serve_image")  # keys of an account, without a default
VARIABLES = {key: f"ALZMRI_SAGEMAKER_{key.upper()}" for key in TO_SERVE} | {"region": "AWS_REGION"}
"""Environment variables for keys that the file leaves empty."""

CONTENT = ("src", "requirements.txt")
OURS = "alzmri-"  # prefix of all jobs of alzmri
PREPARED_FILES = ["images.npy", "manifest.csv", "params.json", "summary.json"]

_KEY_FILES = (
    *(".env", ".env.*", ".pem", ".key", ".p12", ".netrc", ".aws/*", ".ssh/*", ".dvc/*"),
    *("id_rsa", "id_dsa", "id_ecdsa", "id_ed25519"),
)
_KEY = "-----BEGIN [A-Z ]*PRIVATE KEY-----|(AKIA|ASIA)[0-9A-Z]{16}"

_NUMBER = r"([0-9.]+(?:e[-+]?[0-9]+)?)"
METRICS = {
    "epoch": r"^epoch +([0-9]+)/",
    "train:loss": rf"train loss {_NUMBER}",
    "validation:loss": rf"val loss {_NUMBER}",
    "validation:accuracy": rf"accuracy {_NUMBER}",
    "validation:macro_f1": rf"macro F1 {_NUMBER}",
}
"""Patterns for the line that the stage train prints after each epoch."""

InstanceType = Annotated[str, Field(pattern=r"^ml\.[a-z0-9-]+\.[a-z0-9-]+$")]


class SagemakerSettings(BaseModel):
    """All of ``sagemaker.yaml``; AWS validates the account's names itself."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    region: str
    role: Annotated[str, Field(pattern=r"^(arn:aws[a-z-]*:iam::\d{12}:role/\S+)?$")]
    bucket: Annotated[str, Field(pattern=r"^([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])?$")]
    prefix: Annotated[str, Field(pattern=r"^[\w.-]+(/[\w.-]+)*$")]
    image: str
    instance_type: InstanceType
    instance_count: int = Field(ge=1, le=100)
    volume_gb: int = Field(ge=1, le=16_384)
    spot: bool
    max_hours: Number = Field(gt=0, le=28 * 24)
    max_wait_hours: Number = Field(gt=0, le=28 * 24)
    wandb_secret: str
    tags: dict[str, str]
    serve_image: str
    serve_instance_type: InstanceType
    serve_instance_count: int = Field(ge=1, le=100)
    serverless_memory_mb: Literal[1024, 2048, 3072, 4096, 5120, 6144]
    serverless_concurrency: int = Field(ge=1, le=200)

    @property
    def root(self) -> str:
        """The address of the jobs' files in the bucket, without a final slash."""
        return f"s3://{self.bucket}/{self.prefix}"

    @property
    def endpoint(self) -> str:
        """The endpoint's name in the service: each prefix has one endpoint."""
        return re.sub(r"[^a-zA-Z0-9]+", "-", self.prefix).strip("-")[:50].strip("-") or "alzmri"

    def tagged(self, key: str, value: str) -> list[dict[str, str]]:
        """The user's tags and one more, in the service's format."""
        return [{"Key": k, "Value": v} for k, v in {**self.tags, key: value}.items()]


def load_settings(needed: Sequence[str], *, placeholders: bool = False) -> SagemakerSettings:
    """Read and validate ``sagemaker.yaml``; the environment has values for empty keys.

    Keys in ``needed`` must have a value; with ``placeholders``, missing ones become ``<role>`` and
    so on. `UserError` names all faults, and repeats no secret.
    """
    if not SETTINGS_FILE.is_file():
        raise UserError(f"{SETTINGS_FILE} not found: `git checkout {SETTINGS_FILE}`")
    content = params.read(SETTINGS_FILE.read_bytes(), str(SETTINGS_FILE))
    if isinstance(content, dict):
        if re.fullmatch(r"[0-9a-f]{40}|wandb_v\d.*", str(content.get("wandb_secret", ""))):
            raise UserError(
                f"{SETTINGS_FILE}: wandb_secret looks like the key itself, and git tracks the file:"
                " put the key into Secrets Manager and write the NAME of the secret here"
            )
        for key, variable in VARIABLES.items():
            if content.get(key) == "":
                content[key] = os.environ.get(variable, "")
        if content.get("region") == "":
            from botocore.session import Session

            with aws.explained():
                content["region"] = Session().get_config_variable("region") or ""
    settings = params.validated(SagemakerSettings, content, str(SETTINGS_FILE))
    lacking = [key for key in needed if not getattr(settings, key)]
    if lacking and not placeholders:
        lines = "".join(f"\n  {key}: write it there, or export {VARIABLES[key]}" for key in lacking)
        where = f"{SETTINGS_FILE} and the environment (see docs/sagemaker.md and docs/serving.md)"
        raise UserError(f"missing in {where}:{lines}")
    for key in lacking:
        terminal.warn(f"{key} is not set in {SETTINGS_FILE}: shown as <{key}>")
    return settings.model_copy(update={key: f"<{key}>" for key in lacking})


@dataclass(frozen=True)
class Work:
    """Code, data and parameters of a job; digests are SHA-256."""

    commit: str
    snapshot: str  # a commit that includes the changes; ``commit`` if there are none
    changes: list[str]  # lines of ``git status``
    data: str  # digest of data/prepared
    digest: str  # of everything that determines the training: jobs with the same one are equal
    hyperparameters: dict[str, str]  # JSON by ``section.key``, as the service has strings only

    @property
    def names(self) -> str:
        """Prefix of the names of all jobs for this work, and of no others."""
        return f"{OURS}{self.digest[:12]}-"


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def gather(params: Params) -> Work:
    """The work of this checkout.

    Raises:
        UserError: a job cannot do it, data/prepared is stale, or the code may have a secret.
    """
    from alzmri.data.prepared import Prepared, relevant  # which import NumPy

    if params.train.init:
        raise UserError("a job on SageMaker starts from no other model: set train.init to ''")
    keys = git.lines("ls-files", "--", *(f"src/*{end}" for end in _KEY_FILES))
    if keys := keys or git.lines("grep", "-lE", "-e", _KEY, "--", *CONTENT):
        raise UserError(
            f"{keys[0]} looks like a key, or contains one: nothing was sent; `git rm --cached` it,"
            " and revoke the key if it was ever committed"
        )
    commit = git.head()
    # It only creates objects: the tree, the index and the list of stashes stay the same.
    snapshot = git.run("stash", "create").strip() or commit
    changes = git.lines("status", "--porcelain", "--", *CONTENT)
    stages = YAML(typ="safe").load(Path("dvc.yaml").read_bytes())["stages"]
    deps = [name for name in stages["train"]["deps"] if name.startswith("src/")]
    code = git.run("rev-parse", *(f"{snapshot}:./{name}" for name in deps))
    data = _digest([Prepared.open(params).digest, relevant(params)])
    shaping = params.model_dump(mode="json", include={"data", "split", "augment", "model", "train"})
    digest = _digest([code, data, shaping])
    return Work(commit, snapshot, changes, data, digest, hyperparameters(params))


def hyperparameters(params: Params) -> dict[str, str]:
    """Parameters as JSON, without ``compute``, so that the job starts no other job."""
    return {
        f"{section}.{key}": json.dumps(value)
        for section, values in params.model_dump(mode="json", exclude={"compute"}).items()
        for key, value in values.items()
    }


def pack(work: Work, archive: Path) -> None:
    """Write git's ``.tar.gz`` of the code."""
    git.run("archive", f"--output={archive}", work.snapshot, "--", *CONTENT)


def job_name(work: Work) -> str:
    """The name of the first job for ``work``, with the name of the experiment or commit."""
    label = os.environ.get("DVC_EXP_NAME") or work.commit[:7]
    return work.names + (re.sub(r"[^a-zA-Z0-9]+", "-", label)[:30].strip("-") or "stage")


def channels(settings: SagemakerSettings, work: Work) -> dict[str, str]:
    """Addresses of the job's inputs in the bucket, named by commit and digest."""
    # Without the final slash, the service would also fetch other keys with the same prefix.
    return {
        "code": f"{settings.root}/code/{work.snapshot[:16]}/",
        "prepared": f"{settings.root}/data/{work.data[:16]}/",
    }


def build(settings: SagemakerSettings, work: Work, name: str) -> dict[str, Any]:
    """The request (CreateTrainingJob) for the job ``name``, without secrets."""
    # AWS's image with the pinned PyTorch, for NVIDIA GPUs or for a CPU.
    kind = "cu133" if re.match(r"ml\.(g|p)\d", settings.instance_type) else "cpu"
    registry = f"763104351884.dkr.ecr.{settings.region}.amazonaws.com"
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
            "TrainingImage": settings.image or f"{registry}/pytorch:2.13-{kind}-amzn2023-sagemaker",
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
        # Equal work shares its checkpoints: a repeated job continues from them.
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
