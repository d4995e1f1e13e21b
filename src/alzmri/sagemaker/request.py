"""What the service is asked for: one CreateTrainingJob request."""

import hashlib
import json
import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from alzmri.errors import UserError
from alzmri.params import Params
from alzmri.sagemaker.bundle import Bundle
from alzmri.sagemaker.settings import Settings

NAME = r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}"
LONGEST = 63
"""Characters of a job's name, hyphens too, which the service's pattern does not count."""
OURS = "alzmri-"
"""What the names of our jobs begin with: by it they are listed."""

CODE, PREPARED = "code", "prepared"
ENTRY = f"/opt/ml/input/data/{CODE}/entry.py"
SECRET_VARIABLE = "ALZMRI_WANDB_SECRET"  # noqa: S105  # names the variable that holds a name

_IMAGES = "763104351884.dkr.ecr.{region}.amazonaws.com/pytorch:{tag}"
_GPU_TAG, _CPU_TAG = "2.13-cu133-amzn2023-sagemaker", "2.13-cpu-amzn2023-sagemaker"

_NUMBER = r"([0-9.]+(?:e[-+]?[0-9]+)?)"
METRICS = {
    "epoch": r"^epoch +([0-9]+)/",
    "train:loss": rf"train loss {_NUMBER}",
    "validation:loss": rf"val loss {_NUMBER}",
    "validation:accuracy": rf"accuracy {_NUMBER}",
    "validation:macro_f1": rf"macro F1 {_NUMBER}",
}
"""Found in the lines that :func:`alzmri.training.results.reporting` prints after each epoch."""


@dataclass(frozen=True)
class Addresses:
    """Where a job's parts are in the bucket; by content, so that what is the same is sent once."""

    code: str
    prepared: str
    checkpoints: str
    output: str


def job_name(commit: str) -> str:
    """A name that is free: of the DVC experiment or else the commit, and the time."""
    label = os.environ.get("DVC_EXP_NAME") or commit[:7]
    time = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    label = re.sub(r"[^a-zA-Z0-9]+", "-", label)[: LONGEST - len(OURS) - len(time) - 1].strip("-")
    return f"{OURS}{label}-{time}"


def named(label: str) -> str:
    """The name of the job that the user calls ``label``; `UserError` if the service takes none."""
    name = OURS + label.removeprefix(OURS)
    if len(name) > LONGEST or not re.fullmatch(NAME, name):
        raise UserError(
            f"--name {label}: write letters, digits and hyphens, {LONGEST - len(OURS)} at most, the"
            " last one no hyphen"
        )
    return name


def addresses(settings: Settings, params: Params, bundle: Bundle, prepared: str) -> Addresses:
    """Where everything goes; ``prepared`` is the digest of the data.

    A job with the same code, data, parameters and image finds the checkpoints of one before it
    that was stopped, ran out of time or failed, and goes on. The trainer's own fingerprint
    decides whether it may.
    """
    shaping = params.model_dump(mode="json", include={"data", "split", "augment", "model", "train"})
    run = json.dumps([bundle.digest, prepared, shaping, image(settings)], sort_keys=True)
    digest = hashlib.sha256(run.encode()).hexdigest()
    return Addresses(
        code=f"{settings.root}/code/{bundle.digest[:16]}/",
        prepared=f"{settings.root}/data/{prepared[:16]}/",
        # Without the slash at its end the service would also fetch what merely begins alike.
        checkpoints=f"{settings.root}/checkpoints/{digest[:16]}/",
        output=f"{settings.root}/jobs/",
    )


def image(settings: Settings) -> str:
    """The container: the user's, or AWS's with our version of PyTorch, for GPU or CPU."""
    if settings.image:
        return settings.image
    tag = _GPU_TAG if settings.has_gpu else _CPU_TAG
    return _IMAGES.format(region=settings.region, tag=tag)


def hyperparameters(params: Params) -> dict[str, str]:
    """What params.yaml says as ``section.key``: JSON, as the service has strings only.

    But for ``compute``: the job is to train where it is, and not to ask for another.
    """
    return {
        f"{section}.{key}": json.dumps(value)
        for section, values in params.model_dump(mode="json", exclude={"compute"}).items()
        for key, value in values.items()
    }


def build(
    settings: Settings, params: Params, bundle: Bundle, places: Addresses, name: str
) -> dict[str, Any]:
    """The request for the job ``name``, without anything secret."""
    seconds = round(settings.max_hours * 3600)
    limits = {"MaxRuntimeInSeconds": seconds}
    if settings.spot:
        limits["MaxWaitTimeInSeconds"] = round(settings.max_wait_hours * 3600)
    # As DVC names them to a stage that it runs: tracking takes the run's name and group there.
    environment = {
        "DVC_EXP_NAME": os.environ.get("DVC_EXP_NAME") or name,
        "DVC_EXP_BASELINE_REV": os.environ.get("DVC_EXP_BASELINE_REV") or bundle.commit,
    }
    if settings.wandb_secret:
        environment[SECRET_VARIABLE] = settings.wandb_secret
    changed = "-changed" if bundle.changes else ""
    tags = {**settings.tags, "alzmri:commit": f"{bundle.commit}{changed}"}
    return {
        "TrainingJobName": name,
        "RoleArn": settings.role,
        "AlgorithmSpecification": {
            "TrainingImage": image(settings),
            "TrainingInputMode": "File",
            "ContainerEntrypoint": ["python3", ENTRY],
            "MetricDefinitions": [
                {"Name": metric, "Regex": regex} for metric, regex in METRICS.items()
            ],
        },
        "HyperParameters": hyperparameters(params),
        "InputDataConfig": [_channel(CODE, places.code), _channel(PREPARED, places.prepared)],
        "OutputDataConfig": {"S3OutputPath": places.output},
        "CheckpointConfig": {"S3Uri": places.checkpoints},
        "ResourceConfig": {
            "InstanceType": settings.instance_type,
            "InstanceCount": settings.instance_count,
            "VolumeSizeInGB": settings.volume_gb,
        },
        "StoppingCondition": limits,
        "EnableManagedSpotTraining": settings.spot,
        "Environment": environment,
        "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
    }


def _channel(name: str, address: str) -> dict[str, Any]:
    source = {
        "S3DataType": "S3Prefix",
        "S3Uri": address,
        "S3DataDistributionType": "FullyReplicated",
    }
    return {"ChannelName": name, "DataSource": {"S3DataSource": source}}
