"""AWS as the user reaches it; what its errors mean, in one sentence each, with the remedy."""

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from alzmri import terminal
from alzmri.errors import EnvironmentFault, UserError, require

POLL_SECONDS = 2

Answer = Mapping[str, Any]

_MEANT = {
    r"Expired": "the session has expired: sign in again (`aws sso login`), or export new keys",
    r"InvalidAccessKeyId|InvalidClientTokenId|InvalidToken|Signature|UnrecognizedClient": "the key"
    " is wrong or was withdrawn: look at `aws configure list`, and at the clock of this machine",
    r"^ResourceInUse": "a job of this name exists, and a name is used once: give another --name,"
    " or none",
    r"NoSuchBucket": "there is no such bucket: make it, or correct its name",
    r"^301|PermanentRedirect|AuthorizationHeaderMalformed|bucket.*region": "the bucket is in"
    " another region: use one in the job's region, or set region to the bucket's",
    r"ResourceLimitExceeded": "the account's quota is too small: ask for more in the console under"
    " Service Quotas, Amazon SageMaker, or take another instance_type",
    r"CapacityError|InsufficientInstanceCapacity": "no such instance is free now: submit again"
    " later, or take another instance_type",
    r"No space left": "raise volume_gb in sagemaker.yaml and submit again",
    r"AccessDenied|not authorized|^403": "a permission is missing (docs/sagemaker.md has what a job"
    " needs)",
    r"assume role|role .*(not exist|not be found|not valid)": "SageMaker cannot take the role: it"
    " must exist in this account and trust sagemaker.amazonaws.com (docs/sagemaker.md)",
    r"instance ?type.*(enum|not|un|invalid)": "there is no such instance type in this region:"
    " correct instance_type in sagemaker.yaml",
    r"CannotPullContainer|\becr\b|\bimage\b.*(not|fail)": "the image cannot be fetched in this"
    " region: correct image in sagemaker.yaml (https://aws.github.io/deep-learning-containers)",
    r"endpoint .*not found": "there is no such endpoint in this account and region: `alzmri"
    " sagemaker deploy`",
    r"resource not found": "there is no such job in this account and region: `alzmri sagemaker"
    " list`",
}
"""By what an error's code and message, or the reason of a failed job, contain; the first counts."""


def meaning(said: str) -> str:
    """What AWS means by ``said``, with the remedy; empty when that is not known."""
    found = (text for words, text in _MEANT.items() if re.search(words, said, re.I | re.S))
    return next(found, "")


@contextmanager
def explained() -> Iterator[None]:
    """Turn the errors of AWS's client into ours.

    Raises:
        UserError: what the user or the account's settings can correct.
        EnvironmentFault: the network, or AWS itself.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 400)
        code, message = (str(error.response["Error"].get(key, "")) for key in ("Code", "Message"))
        if status >= 500 or "Throttl" in code or code == "SlowDown":
            raise EnvironmentFault(f"AWS is too busy or has a fault ({code}): try again") from error
        said = f"{code}: {message}"
        known = meaning(said)
        raise UserError(f"{known} (AWS: {message})" if known else f"AWS refuses: {said}") from error
    except BotoCoreError as error:
        if re.search("Credential|Token|SSO|Profile", type(error).__name__):
            raise UserError(
                f"no AWS credentials ({error}): `aws configure`, `aws sso login`, or export"
                " AWS_PROFILE=NAME, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            ) from error
        raise EnvironmentFault(
            f"AWS does not answer ({error}): look at the network, a proxy, and the region"
        ) from error


def session(region: str) -> Any:
    """boto3's session with the user's own credentials."""
    boto3 = require("boto3", "sagemaker")
    from botocore.config import Config
    from botocore.session import Session

    core = Session()
    # Attempts wait longer each time: a throttled call is no reason to give up on a long job.
    retries: Any = {"mode": "standard", "total_max_attempts": 4}
    core.set_default_client_config(Config(connect_timeout=10, read_timeout=30, retries=retries))
    with explained():
        return boto3.Session(botocore_session=core, region_name=region)


def wait(session: Any, waiter: str, on_answer: Callable[[Answer], None], **resource: str) -> Answer:
    """Wait with boto3's ``waiter`` of SageMaker until all is over, well or not; the last answer.

    Args:
        session: boto3's.
        waiter: such as ``endpoint_in_service``.
        on_answer: called with each answer that the waiter gets.
        resource: what to wait for, in the words of the operation that the waiter repeats.
    """
    from botocore.exceptions import ClientError, WaiterError

    last: Answer = {}

    def note(parsed: Answer, **_: object) -> None:
        nonlocal last
        if "Error" not in parsed:
            last = parsed
            on_answer(parsed)

    with explained():
        client = session.client("sagemaker")
        client.meta.events.register("after-call.sagemaker", note)
        patience = {"Delay": POLL_SECONDS, "MaxAttempts": sys.maxsize}
        try:
            client.get_waiter(waiter).wait(WaiterConfig=patience, **resource)
        except WaiterError as error:  # also how a job that failed ends
            if "Error" in error.last_response:
                raise ClientError(error.last_response, waiter) from error
    return last


@explained()
def upload(session: Any, path: Path, address: str) -> None:
    """Send a file to ``s3://bucket/key``, with its progress, unless it is there: whole, in S3."""
    s3, (bucket, key) = session.client("s3"), _split(address)
    found = s3.list_objects_v2(Bucket=bucket, Prefix=key).get("Contents", [])
    if key in (item["Key"] for item in found):
        return
    with path.open("rb") as file, _moving("uploading", path, path.stat().st_size) as moved:
        s3.upload_fileobj(file, bucket, key, Callback=moved)


@explained()
def download(session: Any, address: str, path: Path) -> None:
    """Fetch the object at ``s3://bucket/key`` into ``path``, with its progress."""
    s3, (bucket, key) = session.client("s3"), _split(address)
    size = s3.head_object(Bucket=bucket, Key=key)["ContentLength"]
    with _moving("downloading", path, size) as moved:
        s3.download_file(bucket, key, str(path), Callback=moved)


@contextmanager
def _moving(verb: str, path: Path, total: int) -> Iterator[Callable[[int], None]]:
    """Yield what boto3 calls with each number of bytes that it has moved."""
    done = 0
    with terminal.progress(f"{verb} {path.name} (bytes)") as progress:

        def moved(count: int) -> None:
            nonlocal done
            done += count
            progress(done, total)

        yield moved


def _split(address: str) -> tuple[str, str]:
    parts = urlsplit(address)
    return parts.netloc, parts.path.lstrip("/")
