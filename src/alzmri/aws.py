"""Calls to AWS with the user's credentials; each error in one sentence, with the remedy."""

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
    " is wrong or was revoked: check `aws configure list` and the clock of this machine",
    r"^ResourceInUse": "a job of this name exists: give another --name, or none",
    r"NoSuchBucket": "the bucket does not exist: create it, or correct its name",
    r"^301|PermanentRedirect|AuthorizationHeaderMalformed|bucket.*region": "the bucket is in"
    " another region: use one in the job's region, or set region to the bucket's",
    r"ResourceLimitExceeded": "the account's quota is too small: ask for more in the console under"
    " Service Quotas, Amazon SageMaker, or use another instance_type",
    r"CapacityError|InsufficientInstanceCapacity": "no such instance is free now: submit again"
    " later, or use another instance_type",
    r"No space left": "raise volume_gb in sagemaker.yaml and submit again",
    r"AccessDenied|not authorized|^403": "a permission is missing (docs/sagemaker.md has what a job"
    " needs)",
    r"assume role|role .*(not exist|not be found|not valid)": "SageMaker cannot use the role: it"
    " must exist in this account and trust sagemaker.amazonaws.com (docs/sagemaker.md)",
    r"instance ?type.*(enum|not|un|invalid)": "this region has no such instance type:"
    " correct instance_type in sagemaker.yaml",
    r"CannotPullContainer|\becr\b|\bimage\b.*(not|fail)": "this region does not have the image:"
    " correct image in sagemaker.yaml (https://aws.github.io/deep-learning-containers)",
    r"endpoint .*not found": "this account and region have no such endpoint: `alzmri"
    " sagemaker deploy` makes it",
    r"resource not found": "this account and region have no such job: `alzmri sagemaker"
    " list` names the jobs",
}
"""Remedies by a pattern in an error's code and message or a failed job's reason; the first wins."""


def meaning(said: str) -> str:
    """The meaning and remedy of the AWS message ``said``; empty when unknown."""
    found = (text for words, text in _MEANT.items() if re.search(words, said, re.I | re.S))
    return next(found, "")


@contextmanager
def explained() -> Iterator[None]:
    """Turn the errors of AWS's client into UserError or EnvironmentFault.

    Raises:
        UserError: for the user to correct, here or in the account.
        EnvironmentFault: the network or AWS failed.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 400)
        code, message = (str(error.response["Error"].get(key, "")) for key in ("Code", "Message"))
        if status >= 500 or "Throttl" in code or code == "SlowDown":
            raise EnvironmentFault(
                f"AWS throttled or failed the request ({code}): try again"
            ) from error
        said = f"{code}: {message}"
        known = meaning(said)
        refused = f"AWS refused the request: {said}"
        raise UserError(f"{known} (AWS: {message})" if known else refused) from error
    except BotoCoreError as error:
        if re.search("Credential|Token|SSO|Profile", type(error).__name__):
            raise UserError(
                f"no AWS credentials ({error}): `aws configure`, `aws sso login`, or export"
                " AWS_PROFILE=NAME, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            ) from error
        raise EnvironmentFault(
            f"AWS does not answer ({error}): check the network, the proxy and the region"
        ) from error


def session(region: str) -> Any:
    """A boto3 session with the user's credentials."""
    boto3 = require("boto3", "sagemaker")
    from botocore.config import Config
    from botocore.session import Session

    core = Session()
    # The wait between attempts grows: a throttled call must not end the watch of a long job.
    retries: Any = {"mode": "standard", "total_max_attempts": 4}
    core.set_default_client_config(Config(connect_timeout=10, read_timeout=30, retries=retries))
    with explained():
        return boto3.Session(botocore_session=core, region_name=region)


def wait(session: Any, waiter: str, on_answer: Callable[[Answer], None], **resource: str) -> Answer:
    """Wait until a SageMaker resource is ready or has failed; return the last answer.

    Args:
        session: the boto3 session.
        waiter: the boto3 waiter, such as ``endpoint_in_service``.
        on_answer: called with each answer.
        resource: arguments of the waiter's operation, which name the resource.
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
        except WaiterError as error:  # the waiter raises it for a failed job, too
            if "Error" in error.last_response:
                raise ClientError(error.last_response, waiter) from error
    return last


@explained()
def upload(session: Any, path: Path, address: str) -> None:
    """Send a file to ``s3://bucket/key`` and show progress, unless the object exists."""
    s3, (bucket, key) = session.client("s3"), _split(address)
    found = s3.list_objects_v2(Bucket=bucket, Prefix=key).get("Contents", [])
    if key in (item["Key"] for item in found):
        return
    with path.open("rb") as file, _moving("uploading", path, path.stat().st_size) as moved:
        s3.upload_fileobj(file, bucket, key, Callback=moved)


@explained()
def download(session: Any, address: str, path: Path) -> None:
    """Fetch the object at ``s3://bucket/key`` into ``path`` and show progress."""
    s3, (bucket, key) = session.client("s3"), _split(address)
    size = s3.head_object(Bucket=bucket, Key=key)["ContentLength"]
    with _moving("downloading", path, size) as moved:
        s3.download_file(bucket, key, str(path), Callback=moved)


@contextmanager
def _moving(verb: str, path: Path, total: int) -> Iterator[Callable[[int], None]]:
    """Yield a callback for boto3, which passes it the number of bytes moved since the last call."""
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
