"""Calls to AWS with the user's credentials; each error in one sentence, with the remedy."""

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.filesize import decimal

from alzmri import terminal
from alzmri.errors import EnvironmentFault, UserError, require

POLL_SECONDS = 2

Answer = Mapping[str, Any]

_MEANT = {
    r"Expired": "the session has expired: sign in again (`aws sso login`), or export new keys",
    r"InvalidAccessKeyId|InvalidClientTokenId|InvalidToken|Signature|UnrecognizedClient": "the key"
    " is wrong or was revoked: check `aws configure list` and the clock of this machine",
    r"^ResourceInUse": "a job of this name exists now: submit again to follow it",
    r"NoSuchBucket": "the bucket does not exist: create it, or correct its name",
    r"^301|PermanentRedirect|AuthorizationHeaderMalformed|bucket.*region": "the bucket is in"
    " another region: set region to the bucket's, or use a bucket in yours",
    r"ResourceLimitExceeded": "the account's quota is too small: ask for more in the console under"
    " Service Quotas, Amazon SageMaker, or use another instance_type",
    r"CapacityError|InsufficientInstanceCapacity": "no such instance is free now: submit again"
    " later, or use another instance_type",
    r"No space left": "raise volume_gb in sagemaker.yaml and submit again",
    r"AccessDenied|not authorized|^403": "a permission is missing: docs/sagemaker.md lists them",
    r"assume role|role .*(not exist|not be found|not valid)": "SageMaker cannot use the role: it"
    " must exist in this account and trust sagemaker.amazonaws.com (docs/sagemaker.md)",
    r"instance ?type.*(enum|not|un|invalid)": "this region has no such instance type:"
    " correct instance_type in sagemaker.yaml",
    r"MaxWaitTime": "max_wait_hours includes the training: make it at least max_hours",
    r"CannotPullContainer|\becr\b|\bimage\b.*(not|fail)": "this region does not have the image:"
    " correct image in sagemaker.yaml (https://aws.github.io/deep-learning-containers)",
    r"endpoint .*not found": "no such endpoint in this region: `alzmri sagemaker deploy` makes it",
    r"resource not found": "no such job in this region: `alzmri sagemaker list` names the jobs",
    r"^404: ": "this address has no such object, or no S3: correct it",
}
"""Remedies by a pattern in an error's code and message or a failed job's reason; the first wins."""


def meaning(said: str) -> str:
    """The meaning and remedy of the AWS message ``said``; empty when unknown."""
    found = (text for words, text in _MEANT.items() if re.search(words, said, re.I | re.S))
    return next(found, "")


@contextmanager
def explained() -> Iterator[None]:
    """Raise errors of AWS's client as `UserError`, or `EnvironmentFault` if nothing works there."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 400)
        code, message = (str(error.response["Error"].get(key, "")) for key in ("Code", "Message"))
        if status >= 500 or "Throttl" in code or code == "SlowDown":
            raise EnvironmentFault(f"the service failed ({code}): try again") from error
        said = f"{code}: {message}"
        raise UserError(f"{meaning(said) or 'the service refused the request'} ({said})") from error
    except BotoCoreError as error:
        if re.search("Credential|Token|SSO|Profile", type(error).__name__):
            remedy = "`aws configure`, `aws sso login`, or export AWS_PROFILE=NAME"
            raise UserError(f"no AWS credentials ({error}): {remedy}") from error
        remedy = "check the network, the proxy, the address and the region"
        raise EnvironmentFault(f"no answer ({error}): {remedy}") from error


def session(region: str) -> Any:
    """A boto3 session with the user's credentials."""
    boto3 = require("boto3", "sagemaker")
    from botocore.config import Config
    from botocore.session import Session

    core = Session()
    core.set_default_client_config(Config(connect_timeout=10, read_timeout=30))
    with explained():
        return boto3.Session(botocore_session=core, region_name=region)


@explained()
def wait(session: Any, waiter: str, on_answer: Callable[[Answer], object], **resource: str) -> None:
    """Wait with a boto3 waiter until a SageMaker resource is ready or failed; pass each answer."""
    from botocore.exceptions import ClientError, WaiterError

    client = session.client("sagemaker")
    client.meta.events.register(
        "after-call.sagemaker", lambda parsed, **_: "Error" in parsed or on_answer(parsed)
    )
    patience = {"Delay": POLL_SECONDS, "MaxAttempts": sys.maxsize}
    try:
        client.get_waiter(waiter).wait(WaiterConfig=patience, **resource)
    except WaiterError as error:  # the waiter raises it for a failed job, too
        if "Error" in error.last_response:
            raise ClientError(error.last_response, waiter) from error


@explained()
def upload(session: Any, path: Path, address: str) -> None:
    """Send a file to ``s3://bucket/key``, unless the object exists."""
    s3, (bucket, key) = session.client("s3"), split(address)
    found = s3.list_objects_v2(Bucket=bucket, Prefix=key).get("Contents", [])
    if key not in (item["Key"] for item in found):
        terminal.say(f"uploading {path.name}, {decimal(path.stat().st_size)}")
        with path.open("rb") as file:
            s3.upload_fileobj(file, bucket, key)


def split(address: str) -> tuple[str, str]:
    """Bucket and key of ``s3://bucket/key``."""
    parts = urlsplit(address)
    return parts.netloc, parts.path.lstrip("/")
