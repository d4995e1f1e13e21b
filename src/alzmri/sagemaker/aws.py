"""AWS as the user reaches it, and its errors in one sentence each, with the remedy."""

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from alzmri import terminal
from alzmri.errors import EnvironmentFault, UserError

POLL_SECONDS = 2

Answer = Mapping[str, Any]

_REGION = (
    "the bucket is in another region than the job: use one in the job's region, or set region in"
    " sagemaker.yaml to the bucket's"
)
_MEANT = {
    r"Expired": "the session with AWS has expired: sign in again (`aws sso login`), or export new"
    " keys",
    r"InvalidAccessKeyId|InvalidClientTokenId|Signature|UnrecognizedClient": "AWS does not know the"
    " key: look at `aws configure list`, and at the clock of this machine",
    r"^ResourceInUse": "a job of this name exists already, and names are never free again: give"
    " another --name, or none",
    r"NoSuchBucket": "there is no such bucket: make it, or correct bucket in sagemaker.yaml",
    r"^301|PermanentRedirect|AuthorizationHeaderMalformed|bucket.*region": _REGION,
    r"ResourceLimitExceeded": "the account's quota is too small: ask for more in the console under"
    " Service Quotas, Amazon SageMaker, or take another instance_type",
    r"CapacityError|InsufficientInstanceCapacity": "no such instance is free just now: submit again"
    " later, or take another instance_type",
    r"No space left": "raise volume_gb in sagemaker.yaml and submit again",
    r"AccessDenied|not authorized|^403": "a permission is missing: docs/sagemaker.md has the least"
    " that is needed",
    r"assume role|role .*(not exist|not be found|not valid)": "SageMaker cannot take the role: it"
    " must exist in this account and trust sagemaker.amazonaws.com (docs/sagemaker.md)",
    r"instance ?type.*(enum|not|un|invalid)": "there is no such instance type in this region:"
    " correct instance_type in sagemaker.yaml (https://aws.amazon.com/sagemaker/ai/pricing lists"
    " them)",
    r"CannotPullContainer|\becr\b|\bimage\b.*(not|fail)": "the image cannot be fetched in this"
    " region: correct image in sagemaker.yaml (https://aws.github.io/deep-learning-containers)",
    r"endpoint .*not found": "there is no such endpoint in this account and region: `alzmri"
    " sagemaker deploy`",
    r"resource not found": "there is no such job in this account and region: `alzmri sagemaker"
    " list`",
}
"""By what is found in an error's code and message, or in why a job failed; the first counts."""


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
    from botocore import exceptions

    try:
        yield
    except exceptions.ClientError as error:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 400)
        code, message = (str(error.response["Error"].get(key, "")) for key in ("Code", "Message"))
        if status >= 500 or "Throttl" in code or code == "SlowDown":
            raise EnvironmentFault(
                f"AWS is too busy just now, or unwell ({code}): try again"
            ) from error
        said = f"{code}: {message}"
        known = meaning(said)
        raise UserError(f"{known} (AWS: {message})" if known else f"AWS refuses: {said}") from error
    except (
        exceptions.NoCredentialsError,
        exceptions.PartialCredentialsError,
        exceptions.CredentialRetrievalError,
        exceptions.TokenRetrievalError,
        exceptions.SSOError,
        exceptions.ProfileNotFound,
    ) as error:
        raise UserError(
            f"no AWS credentials ({error}): `aws configure`, `aws sso login`, or export"
            " AWS_PROFILE=NAME, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from error
    except exceptions.ParamValidationError as error:
        raise UserError(f"AWS's client refuses the request: {error}") from error
    except (exceptions.BotoCoreError, exceptions.HTTPClientError) as error:
        raise EnvironmentFault(
            f"AWS does not answer ({error}): look at the network, a proxy, and region in"
            " sagemaker.yaml"
        ) from error


def session(region: str) -> Any:
    """boto3's session with the user's own credentials; `UserError` when there is no boto3."""
    if find_spec("boto3") is None:
        raise UserError("boto3 is missing: `pip install 'alzmri[sagemaker]'`, or `make setup`")
    import boto3
    from botocore.config import Config
    from botocore.session import Session

    core = Session()
    # Attempts wait longer each time: a throttled call is no reason to give up on a long job.
    retries: Any = {"mode": "standard", "total_max_attempts": 4}
    core.set_default_client_config(Config(connect_timeout=10, read_timeout=30, retries=retries))
    with explained():
        return boto3.Session(botocore_session=core, region_name=region)


def wait(client: Any, waiter: str, on_answer: Callable[[Answer], None], **resource: str) -> Answer:
    """Wait with boto3's ``waiter`` until all is over, well or not; the last answer.

    Args:
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

    client.meta.events.register("after-call.sagemaker", note)
    patience = {"Delay": POLL_SECONDS, "MaxAttempts": sys.maxsize}
    try:
        with explained():
            try:
                client.get_waiter(waiter).wait(WaiterConfig=patience, **resource)
            except WaiterError as error:  # also how a job that failed ends
                if "Error" in error.last_response:
                    raise ClientError(error.last_response, waiter) from error
    finally:
        client.meta.events.unregister("after-call.sagemaker", note)
    return last


@explained()
def require_bucket(s3: Any, bucket: str, region: str) -> None:
    """Raise `UserError` unless ``bucket`` is there, ours to use, and in ``region``."""
    from botocore.exceptions import ClientError

    try:
        headers = s3.head_bucket(Bucket=bucket)["ResponseMetadata"]["HTTPHeaders"]
    except ClientError as error:
        if error.response["Error"].get("Code") == "404":
            raise UserError(
                f"there is no bucket {bucket}: make it (`aws s3 mb s3://{bucket} --region"
                f" {region}`), or correct bucket in sagemaker.yaml"
            ) from error
        raise
    if headers.get("x-amz-bucket-region", region) != region:
        raise UserError(f"{bucket}: {_REGION}")


@explained()
def lacks(s3: Any, address: str) -> bool:
    """Whether there is no object at ``address``; S3 has it whole or not at all."""
    bucket, key = _split(address)
    found = s3.list_objects_v2(Bucket=bucket, Prefix=key).get("Contents", [])
    return key not in (item["Key"] for item in found)


@explained()
def upload(s3: Any, path: Path, address: str) -> None:
    """Send a file, with its progress."""
    bucket, key = _split(address)
    with path.open("rb") as file, _moving(f"uploading {path.name}", path.stat().st_size) as moved:
        s3.upload_fileobj(file, bucket, key, Callback=moved)


@explained()
def download(s3: Any, address: str, path: Path) -> None:
    """Fetch the object at ``address`` into ``path``, with its progress."""
    bucket, key = _split(address)
    size = s3.head_object(Bucket=bucket, Key=key)["ContentLength"]
    with _moving(f"downloading {path.name}", size) as moved:
        s3.download_file(bucket, key, str(path), Callback=moved)


@contextmanager
def _moving(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yield what boto3 calls with each number of bytes that it has moved."""
    done = 0
    with terminal.progress(f"{what} (bytes)") as progress:

        def moved(count: int) -> None:
            nonlocal done
            done += count
            progress(done, total)

        yield moved


def _split(address: str) -> tuple[str, str]:
    """Bucket and key of ``s3://bucket/key``."""
    parts = urlsplit(address)
    return parts.netloc, parts.path.lstrip("/")
