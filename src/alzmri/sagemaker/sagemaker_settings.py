"""The schema of ``sagemaker.yaml``: settings of jobs and of an endpoint."""

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
TO_SERVE = (*TO_TRAIN, "serve_image")  # keys of an account, without a default
VARIABLES = {key: f"ALZMRI_SAGEMAKER_{key.upper()}" for key in ("role", "bucket", "serve_image")}
"""Environment variables for keys that the file leaves empty."""

_HINTS = {
    "region": "write it there, or export AWS_REGION=eu-central-1, or `aws configure set region`",
    "role": f"write its ARN there, or export {VARIABLES['role']} (docs/sagemaker.md)",
    "bucket": f"write its name there, or export {VARIABLES['bucket']}; it must be in that region",
    "serve_image": f"write its address there, or export {VARIABLES['serve_image']}"
    " (docs/serving.md)",
}
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

    @field_validator("max_wait_hours")
    @classmethod
    def _waits_as_long_as_it_runs(cls, hours: float, info: ValidationInfo) -> float:
        if info.data.get("spot") and hours < info.data.get("max_hours", 0):
            raise ValueError("includes the training time: with spot it must be at least max_hours")
        return hours

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


def load(needed: Sequence[str] = (), *, placeholders: bool = False) -> SagemakerSettings:
    """Read and validate ``sagemaker.yaml``; the environment has values for empty keys.

    Keys in ``needed`` must have a value in one of the two; with ``placeholders``, missing ones
    become ``<role>`` and so on.

    Raises:
        UserError: with all faults; it does not repeat a key that stands for a secret's name.
    """
    try:
        content = params.read(SETTINGS_FILE.read_bytes(), str(SETTINGS_FILE))
    except FileNotFoundError:
        raise UserError(
            f"{SETTINGS_FILE} not found: run from the root of the repository, or `git checkout"
            f" {SETTINGS_FILE}`"
        ) from None
    if isinstance(content, dict):
        if re.fullmatch(r"[0-9a-f]{40}|wandb_v\d.*", str(content.get("wandb_secret", ""))):
            raise UserError(
                f"{SETTINGS_FILE}: wandb_secret looks like the key itself, and git tracks this"
                " file: put the key into Secrets Manager and write the NAME of the secret here"
            )
        for key, variable in VARIABLES.items():
            if content.get(key) == "":
                content[key] = os.environ.get(variable, "")
        if content.get("region") == "":
            content["region"] = os.environ.get("AWS_REGION") or _region_of_profile()
    settings = params.validated(SagemakerSettings, content, str(SETTINGS_FILE))
    lacking = [key for key in needed if not getattr(settings, key)]
    if lacking and not placeholders:
        lines = [f"\n  {key}: {_HINTS[key]}" for key in lacking]
        raise UserError(f"missing in {SETTINGS_FILE} and the environment:{''.join(lines)}")
    for key in lacking:
        terminal.warn(f"{key} is not set in {SETTINGS_FILE}: shown as <{key}>")
    return settings.model_copy(update={key: f"<{key}>" for key in lacking})


def _region_of_profile() -> str:
    from botocore.exceptions import BotoCoreError
    from botocore.session import Session

    try:
        return Session().get_config_variable("region") or ""
    except BotoCoreError:  # such as a missing profile, which the first call to AWS reports
        return ""
