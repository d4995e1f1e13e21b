"""What AWS's errors mean, in one sentence each with the remedy."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from alzmri.errors import EnvironmentFault, UserError

_SIGN_IN = "sign in again (`aws sso login`), or export new keys"
BUCKET_REGION = (
    "the bucket {bucket}is in another region than the job: use one in the job's region, or set"
    " region in sagemaker.yaml to the bucket's"
)
_REFUSALS = {
    r"ExpiredToken|RequestExpired": f"the session with AWS has expired: {_SIGN_IN}",
    r"InvalidAccessKeyId|InvalidClientTokenId|InvalidSignature|SignatureDoesNotMatch"
    r"|UnrecognizedClient": (
        "AWS does not know the key: look at `aws configure list`, and at the clock of this machine"
    ),
    r"ResourceInUse": (
        "a job of this name exists already, and names are never free again: give another --name,"
        " or none"
    ),
    r"NoSuchBucket": (
        "there is no bucket of this name: make it, or correct bucket in sagemaker.yaml"
    ),
    r"301|PermanentRedirect|AuthorizationHeaderMalformed|IllegalLocationConstraint"
    r"|.*(bucket.*region|region.*bucket)": BUCKET_REGION.format(bucket=""),
    r"ResourceLimitExceeded": (
        "the account's quota is too small: ask for more in the console under Service Quotas, Amazon"
        " SageMaker, or take another instance_type"
    ),
    r"AccessDenied|403": "you may not do that: docs/sagemaker.md has the least policy",
    r".*(assume role|role .* (does not exist|cannot be found|is not valid))": (
        "SageMaker cannot take the role: it must exist in this account and trust"
        " sagemaker.amazonaws.com (docs/sagemaker.md)"
    ),
    r".*instance ?type.*(enum|not supported|not available|unsupported|invalid)": (
        "there is no such instance type in this region: correct instance_type in sagemaker.yaml"
        " (https://aws.amazon.com/sagemaker/ai/pricing lists them)"
    ),
    r".*endpoint .*not found": (
        "there is no such endpoint in this account and region: `alzmri sagemaker deploy`"
    ),
    r".*(\bimage\b|\becr\b|repository)": (
        "the image is not to be had in this region: set image in sagemaker.yaml to one that is"
        " (https://aws.github.io/deep-learning-containers lists them)"
    ),
    r".*MaxWaitTimeInSeconds": "spot: max_wait_hours in sagemaker.yaml must be at least max_hours",
    r".*resource not found": (
        "there is no such job in this account and region: `alzmri sagemaker list`"
    ),
}
"""By the beginning of a code and its message; the first that fits."""
_FAILURES = {
    r"CapacityError|InsufficientInstanceCapacity": (
        "no such instance is free just now: submit again later, or take another instance_type"
    ),
    r"No space left": "raise volume_gb in sagemaker.yaml and submit again",
    r"\bimage\b.*(not|fail)|CannotPullContainer": (
        "the image cannot be fetched: look at image and region in sagemaker.yaml"
    ),
    r"AccessDenied|not authorized|403": "the role lacks a permission: docs/sagemaker.md has them",
}


@contextmanager
def explained() -> Iterator[None]:
    """Turn the errors of AWS's client into ours.

    Raises:
        UserError: what the user or the account's settings can correct.
        EnvironmentFault: the network, or AWS itself.
    """
    from boto3.exceptions import S3UploadFailedError
    from botocore import exceptions

    try:
        yield
    except exceptions.ClientError as error:
        raise _refusal(error.response) from error
    except S3UploadFailedError as error:
        inner = error.__context__
        if isinstance(inner, exceptions.ClientError):
            raise _refusal(inner.response) from error
        raise EnvironmentFault(f"the upload failed: {error}") from error
    except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError) as error:
        raise UserError(
            "no AWS credentials: `aws configure`, or export AWS_PROFILE=NAME, or"
            " AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        ) from error
    except (
        exceptions.TokenRetrievalError,
        exceptions.SSOError,
        exceptions.CredentialRetrievalError,
    ) as error:
        raise UserError(f"the session with AWS has expired: {_SIGN_IN}") from error
    except exceptions.ProfileNotFound as error:
        raise UserError(f"{error}: `aws configure --profile NAME` makes one") from error
    except exceptions.ParamValidationError as error:
        raise UserError(f"AWS's client refuses the request: {error}") from error
    except (exceptions.BotoCoreError, exceptions.HTTPClientError) as error:
        raise EnvironmentFault(
            f"AWS does not answer ({error}): look at the network, a proxy, and region in"
            " sagemaker.yaml"
        ) from error


def _refusal(response: dict[str, Any]) -> UserError | EnvironmentFault:
    """Ours for an error that the service answered with."""
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 400)
    code = str(response["Error"].get("Code", ""))
    if status >= 500 or "Throttl" in code or code == "SlowDown":
        return EnvironmentFault(f"AWS is too busy just now, or unwell ({code}): try again")
    return UserError(_sentence(response))


def _sentence(response: dict[str, Any]) -> str:
    code, message = (str(response["Error"].get(key, "")).strip() for key in ("Code", "Message"))
    if code == "ModelError":
        return f"the endpoint refuses: {_of_the_model(response)}"
    said = f"{code}: {message}"
    for pattern, sentence in _REFUSALS.items():
        if re.match(pattern, said, re.IGNORECASE | re.DOTALL):
            return f"{sentence} (AWS: {message})" if message else sentence
    return f"AWS refuses: {said}"


def _of_the_model(response: dict[str, Any]) -> str:
    """The server's own words; SageMaker's where it has none."""
    said = str(response.get("OriginalMessage") or response["Error"].get("Message", ""))
    try:
        return str(json.loads(said)["error"])
    except (ValueError, KeyError, TypeError):
        return said


def remedy(failure: str) -> str:
    """What to do about a job's ``FailureReason``, if its kind is known; else nothing."""
    return next((s for p, s in _FAILURES.items() if re.search(p, failure, re.IGNORECASE)), "")
