"""What the service is asked for: one CreateTrainingJob request."""

import hashlib
import json
import os
import re
from dataclasses import dataclass
from typing import Any

from alzmri.data.prepared import PREPARED, Prepared
from alzmri.errors import UserError
from alzmri.params import Params
from alzmri.sagemaker import bundle, container
from alzmri.sagemaker.bundle import Code
from alzmri.sagemaker.settings import Settings

NAME = r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}"
LONGEST = 63
"""Characters of a name, hyphens too, which the service's pattern does not count."""
OURS = "alzmri-"
"""What the names of our jobs begin with: by it they are listed."""
_LABEL = 30
"""Characters of a job's name that come from the experiment's."""
SHAPING = ("data", "split", "augment", "model", "train")
"""Sections of params.yaml that a model depends on."""
PREPARED_FILES = [
    PREPARED / name for name in ("images.npy", "manifest.csv", "params.json", "summary.json")
]
"""What training reads of data/prepared."""

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
"""Found in the lines that :func:`alzmri.training.outputs.reporting` prints after each epoch."""


@dataclass(frozen=True)
class Work:
    """What there is to train: code, data, parameters, and the image that it runs in.

    Attributes:
        code: as it is here.
        data: digest of data/prepared.
        hyperparameters: of the request: JSON by ``section.key``, as the service has strings only.
        image: the container's address.
    """

    code: Code
    data: str
    hyperparameters: dict[str, str]
    image: str

    @property
    def digest(self) -> str:
        """Of all that decides how training goes: jobs with the same one do the same."""
        content = [self.code.training, self.data, _shaping(self.hyperparameters), self.image]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def differences(self, job: dict[str, Any]) -> list[str]:
        """What a job, as the service describes it, trained with that is not here."""
        environment, here = job.get("Environment", {}), self.hyperparameters
        found = [
            f"{key} = {value}, but {here.get(key)} in params.yaml"
            for key, value in _shaping(job.get("HyperParameters", {})).items()
            if value != here.get(key)
        ]
        if environment.get(container.DATA_VARIABLE) != self.data:
            found.append("data/prepared: `dvc repro prepare` with the data of that time")
        if environment.get(container.CODE_VARIABLE) != self.code.training:
            found.append("the code: `git checkout` the commit that is among the job's tags")
        return found


def _shaping(hyperparameters: dict[str, str]) -> dict[str, str]:
    return {k: value for k, value in hyperparameters.items() if k.partition(".")[0] in SHAPING}


def gather(settings: Settings, params: Params) -> Work:
    """What is here.

    Raises:
        UserError: when data/prepared is not there, damaged, or made with other parameters, or
            training starts from another model.
    """
    if params.train.init:
        raise UserError(
            f"train.init = {params.train.init}: a job on SageMaker cannot start from another model:"
            " set it to '', or train here"
        )
    made_from = params.model_dump(mode="json", include={"data", "split"})
    data = json.dumps([Prepared.open(params).digest, made_from], sort_keys=True)
    digest = hashlib.sha256(data.encode()).hexdigest()
    return Work(bundle.here(), digest, hyperparameters(params), image(settings))


def hyperparameters(params: Params) -> dict[str, str]:
    """What params.yaml says, but for ``compute``: the job is not to ask for another job."""
    return {
        f"{section}.{key}": json.dumps(value)
        for section, values in params.model_dump(mode="json", exclude={"compute"}).items()
        for key, value in values.items()
    }


def image(settings: Settings) -> str:
    """The container: the user's, or AWS's with our version of PyTorch, for NVIDIA GPUs or CPU."""
    has_gpu = re.match(r"ml\.(g|p)\d", settings.instance_type)
    aws = _IMAGES.format(region=settings.region, tag=_GPU_TAG if has_gpu else _CPU_TAG)
    return settings.image or aws


def named(label: str) -> str:
    """The name of what the user calls ``label``; `UserError` if the service takes none such."""
    name = OURS + label.removeprefix(OURS)
    if len(name) > LONGEST or not re.fullmatch(NAME, name):
        raise UserError(
            f"--name {label}: write letters, digits and hyphens, {LONGEST - len(OURS)} at most, the"
            " last one no hyphen"
        )
    return name


def job_name_start(work: Work) -> str:
    """What the names of the jobs that do ``work`` begin with."""
    return f"{OURS}{work.digest[:8]}-"


def job_name(work: Work) -> str:
    """The name of the first of them, which says in which experiment, or of which commit."""
    label = os.environ.get("DVC_EXP_NAME") or work.code.commit[:7]
    label = re.sub(r"[^a-zA-Z0-9]+", "-", label)[:_LABEL].strip("-")
    return job_name_start(work) + (label or "stage")


def channels(settings: Settings, work: Work) -> dict[str, str]:
    """Where in the bucket the job finds what it takes, addressed by its content."""
    # Without the slash at the end the service would also fetch what merely begins alike.
    return {
        "code": f"{settings.root}/code/{work.code.digest[:16]}/",
        "prepared": f"{settings.root}/data/{work.data[:16]}/",
    }


def build(settings: Settings, work: Work, name: str) -> dict[str, Any]:
    """The request for the job ``name``, without anything secret.

    A job with the same code, data, parameters and image finds the checkpoints of one before it
    that was stopped, ran out of time or failed, and goes on. The trainer's own fingerprint
    decides whether it may.
    """
    limits = {"MaxRuntimeInSeconds": round(settings.max_hours * 3600)}
    if settings.spot:
        limits["MaxWaitTimeInSeconds"] = round(settings.max_wait_hours * 3600)
    # As DVC names them to a stage that it runs: tracking takes the run's name and group there.
    environment = {
        "DVC_EXP_NAME": os.environ.get("DVC_EXP_NAME") or name,
        "DVC_EXP_BASELINE_REV": os.environ.get("DVC_EXP_BASELINE_REV") or work.code.commit,
        container.CODE_VARIABLE: work.code.training,
        container.DATA_VARIABLE: work.data,
    }
    if settings.wandb_secret:
        environment[container.SECRET_VARIABLE] = settings.wandb_secret
    changed = "-changed" if work.code.changes else ""
    return {
        "TrainingJobName": name,
        "RoleArn": settings.role,
        "AlgorithmSpecification": {
            "TrainingImage": work.image,
            "TrainingInputMode": "File",
            "ContainerEntrypoint": container.ENTRY_POINT,
            "MetricDefinitions": [{"Name": key, "Regex": regex} for key, regex in METRICS.items()],
        },
        "HyperParameters": work.hyperparameters,
        "InputDataConfig": [
            {
                "ChannelName": channel,
                "DataSource": {
                    "S3DataSource": {
                        "S3DataType": "S3Prefix",
                        "S3Uri": address,
                        "S3DataDistributionType": "FullyReplicated",
                    }
                },
            }
            for channel, address in channels(settings, work).items()
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
        "Tags": tags(settings, "alzmri:commit", f"{work.code.commit}{changed}"),
    }


def tags(settings: Settings, key: str, value: str) -> list[dict[str, str]]:
    """The user's, and one of ours, as the service has them."""
    return [{"Key": k, "Value": v} for k, v in {**settings.tags, key: value}.items()]
