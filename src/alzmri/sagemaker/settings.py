"""The schema of ``sagemaker.yaml``: where and on what a job runs, and an endpoint."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from alzmri import params, terminal
from alzmri.errors import UserError
from alzmri.params import Number

SETTINGS_FILE = Path("sagemaker.yaml")
TO_TRAIN = ("region", "role", "bucket")
TO_SERVE = (*TO_TRAIN, "serve_image")
"""What belongs to an account; none of them has a default."""
VARIABLES = {key: f"ALZMRI_SAGEMAKER_{key.upper()}" for key in ("role", "bucket", "serve_image")}
"""Of the environment, for what the file leaves empty."""

_HINTS = {
    "region": "write it there, or export AWS_REGION=eu-central-1, or `aws configure set region`",
    "role": f"write its ARN there, or export {VARIABLES['role']} (docs/sagemaker.md)",
    "bucket": f"write its name there, or export {VARIABLES['bucket']}; it must be in that region",
    "serve_image": f"write its address there, or export {VARIABLES['serve_image']}"
    " (docs/serving.md)",
}
_WANDB_KEY = r"[0-9a-f]{40}|wandb_v\d.*"
InstanceType = Annotated[str, Field(pattern=r"^ml\.[a-z0-9-]+\.[a-z0-9-]+$")]


class Settings(BaseModel):
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

    @field_validator("max_wait_hours")
    @classmethod
    def _waits_as_long_as_it_runs(cls, hours: float, info: ValidationInfo) -> float:
        if info.data.get("spot") and hours < info.data.get("max_hours", 0):
            raise ValueError("includes the computing: with spot it must be at least max_hours")
        return hours

    @property
    def root(self) -> str:
        """The address of everything that jobs share, without a final slash."""
        return f"s3://{self.bucket}/{self.prefix}"


def load(path: Path = SETTINGS_FILE) -> Settings:
    """Read and validate ``path``; what it leaves empty comes from the environment, if it is there.

    Raises:
        UserError: with every fault at once; a key in place of a secret's name is not repeated.
    """
    try:
        content = params.read(path.read_bytes(), str(path))
    except FileNotFoundError:
        raise UserError(
            f"{path} not found: run from the root of the repository, or `git checkout {path}`"
        ) from None
    if isinstance(content, dict):
        if re.fullmatch(_WANDB_KEY, str(content.get("wandb_secret", ""))):
            raise UserError(
                f"{path}: wandb_secret looks like the key itself, and this file is tracked by git:"
                " put the key into Secrets Manager and write the NAME of the secret here"
            )
        for key, variable in VARIABLES.items():
            if content.get(key) == "":
                content[key] = os.environ.get(variable, "")
        if content.get("region") == "":
            content["region"] = os.environ.get("AWS_REGION") or _region_of_profile()
    return params.validated(Settings, content, str(path))


def _region_of_profile() -> str:
    from botocore.exceptions import BotoCoreError
    from botocore.session import Session

    try:
        return Session().get_config_variable("region") or ""
    except BotoCoreError:  # such as a profile that is not there: said when AWS is asked
        return ""


def require(settings: Settings, keys: Sequence[str] = TO_TRAIN) -> Settings:
    """``settings``; `UserError`, with the remedies, when any of ``keys`` is said nowhere."""
    if lacking := [key for key in keys if not getattr(settings, key)]:
        lines = [f"  {key}: {_HINTS[key]}" for key in lacking]
        raise UserError("\n".join([f"{SETTINGS_FILE} and the environment do not say:", *lines]))
    return settings


def with_placeholders(settings: Settings, keys: Sequence[str] = TO_TRAIN) -> Settings:
    """``settings`` with ``<role>`` and the like for what is said nowhere, to be shown only."""
    lacking = [key for key in keys if not getattr(settings, key)]
    for key in lacking:
        terminal.warn(f"{key} is not set in {SETTINGS_FILE}: shown as <{key}>")
    return settings.model_copy(update={key: f"<{key}>" for key in lacking})
