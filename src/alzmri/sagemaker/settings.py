"""The schema of ``sagemaker.yaml``: where and on what the job runs."""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from alzmri import params, terminal
from alzmri.errors import UserError
from alzmri.params import Number

SETTINGS_FILE = Path("sagemaker.yaml")
ROLE_VARIABLE = "ALZMRI_SAGEMAKER_ROLE"
BUCKET_VARIABLE = "ALZMRI_SAGEMAKER_BUCKET"
SERVE_IMAGE_VARIABLE = "ALZMRI_SAGEMAKER_SERVE_IMAGE"
TO_TRAIN = ("region", "role", "bucket")
TO_SERVE = (*TO_TRAIN, "serve_image")
"""What belongs to an account; none of them has a default."""

REGION = r"[a-z]{2}(-[a-z]+)+-\d"
ROLE = r"arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]+"
BUCKET = r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]"
_KEY = r"[0-9a-f]{40}|wandb_v\d.*"
"""What a W&B key looks like."""


def _like(pattern: str, what: str) -> AfterValidator:
    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(what)
        return value

    return AfterValidator(check)


class Settings(BaseModel):
    """All of ``sagemaker.yaml``; empty strings stand for what is found elsewhere."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    region: Annotated[str, _like(f"({REGION})?", "a region is written like eu-central-1")]
    role: Annotated[
        str, _like(f"({ROLE})?", "a role's ARN is written arn:aws:iam::123456789012:role/NAME")
    ]
    bucket: Annotated[
        str,
        _like(f"({BUCKET})?", "a bucket's name has 3 to 63 lower-case letters, digits, . and -"),
    ]
    prefix: Annotated[
        str,
        _like(r"[\w.-]+(/[\w.-]+)*", "a folder in the bucket is written like alzmri or team/study"),
    ]
    image: Annotated[str, _like(r"\S{0,255}", "an image's address has no blanks")]
    instance_type: Annotated[
        str, _like(r"ml\.[a-z0-9-]+\.[a-z0-9-]+", "an instance type is written like ml.g5.xlarge")
    ]
    instance_count: int = Field(ge=1, le=100)
    volume_gb: int = Field(ge=1, le=16_384)
    spot: bool
    max_hours: Number = Field(gt=0, le=28 * 24)
    max_wait_hours: Number = Field(gt=0, le=28 * 24)
    wandb_secret: Annotated[
        str, _like(r"[\w/+=.@:-]{0,512}", "a secret's name has letters, digits and /_+=.@- only")
    ]
    tags: dict[str, str]
    serve_image: Annotated[str, _like(r"\S{0,255}", "an image's address has no blanks")]
    serve_instance_type: Annotated[
        str, _like(r"ml\.[a-z0-9-]+\.[a-z0-9-]+", "an instance type is written like ml.c7i.large")
    ]
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

    @property
    def has_gpu(self) -> bool:
        """Whether the instance type is of one of the families with NVIDIA GPUs."""
        return re.match(r"ml\.(g|p)\d", self.instance_type) is not None


def load(path: Path = SETTINGS_FILE) -> Settings:
    """Read and check ``path``; what it leaves empty comes from the environment, if it is there.

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
        if re.fullmatch(_KEY, str(content.get("wandb_secret", ""))):
            raise UserError(
                f"{path}: wandb_secret looks like the key itself, and this file is tracked by git:"
                " put the key into Secrets Manager and write the NAME of the secret here"
            )
        for key, find in _ELSEWHERE.items():
            if content.get(key) == "":
                content[key] = find()
    return params.validated(Settings, content, str(path))


def missing(settings: Settings, keys: Sequence[str] = TO_TRAIN) -> list[str]:
    """Those of ``keys`` that neither the file nor the environment says."""
    return [key for key in keys if not getattr(settings, key)]


def require(settings: Settings, keys: Sequence[str] = TO_TRAIN) -> None:
    """Raise `UserError`, with the remedies, when any of ``keys`` is :func:`missing`."""
    if lacking := missing(settings, keys):
        lines = [f"  {key}: {_HINTS[key]}" for key in lacking]
        raise UserError("\n".join([f"{SETTINGS_FILE} and the environment do not say:", *lines]))


def with_placeholders(settings: Settings, keys: Sequence[str] = TO_TRAIN) -> Settings:
    """``settings`` with ``<role>`` and the like for what is :func:`missing`, to be shown only."""
    lacking = missing(settings, keys)
    for key in lacking:
        terminal.warn(f"{key} is not set in {SETTINGS_FILE}: shown as <{key}>")
    return settings.model_copy(update={key: f"<{key}>" for key in lacking})


def _region() -> str:
    if named := os.environ.get("AWS_REGION"):
        return named
    from botocore.exceptions import BotoCoreError
    from botocore.session import Session

    try:
        return Session().get_config_variable("region") or ""
    except BotoCoreError:  # such as a profile that is not there: said when AWS is asked
        return ""


_ELSEWHERE: dict[str, Callable[[], str]] = {
    "region": _region,
    "role": lambda: os.environ.get(ROLE_VARIABLE, ""),
    "bucket": lambda: os.environ.get(BUCKET_VARIABLE, ""),
    "serve_image": lambda: os.environ.get(SERVE_IMAGE_VARIABLE, ""),
}
_HINTS = {
    "region": "write it there, or export AWS_REGION=eu-central-1, or `aws configure set region`",
    "role": f"write its ARN there, or export {ROLE_VARIABLE}=arn:aws:iam::… (docs/sagemaker.md)",
    "bucket": f"write its name there, or export {BUCKET_VARIABLE}=NAME; it must be in that region",
    "serve_image": f"write its address there, or export {SERVE_IMAGE_VARIABLE} (docs/serving.md)",
}
