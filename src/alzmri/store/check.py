"""Does an S3 address answer with the credentials that it is given? One sentence if it does not."""

from typing import Any

from alzmri.errors import EnvironmentFault
from alzmri.store.settings import Remote

SECONDS = 4
"""Longest wait for a connection, and then for the answer."""

_CREDENTIALS = "the key is wrong or was withdrawn"
_REFUSALS = {
    "AccessDenied": "the bucket may not be listed with this key, or without one",
    "ExpiredToken": "the session has expired: sign in again",
    "InvalidAccessKeyId": _CREDENTIALS,
    "InvalidToken": _CREDENTIALS,
    "NoSuchBucket": "there is no such bucket",
    "SignatureDoesNotMatch": _CREDENTIALS,
}


class StoreUnavailable(EnvironmentFault):
    """The store does not answer, or refuses."""


def check(remote: Remote) -> None:
    """List at most one object, in one attempt; raises `StoreUnavailable` with the reason."""
    from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

    try:
        _client(remote).list_objects_v2(Bucket=remote.bucket, Prefix=remote.prefix, MaxKeys=1)
    except ClientError as error:
        raise StoreUnavailable(f"{_where(remote)}: {_refusal(error.response)}") from error
    except (BotoCoreError, HTTPClientError, ValueError) as error:
        raise StoreUnavailable(f"{_where(remote)}: {_failure(error)}") from error


def proxied(remote: Remote) -> bool:
    """Whether the environment sends requests for this remote through a proxy, DVC's included."""
    from botocore.utils import get_environ_proxies

    return bool(remote.endpoint and get_environ_proxies(remote.endpoint))


def _client(remote: Remote) -> Any:
    from botocore import UNSIGNED
    from botocore.config import Config
    from botocore.session import Session

    session = Session(profile=remote.profile)
    # As DVC does for this remote, so that both see the same configuration.
    if remote.config_file:
        session.set_config_variable("config_file", remote.config_file)
    if remote.credentials_file:
        session.set_config_variable("credentials_file", remote.credentials_file)
    return session.create_client(
        "s3",
        region_name=remote.region,
        endpoint_url=remote.endpoint,
        aws_access_key_id=remote.key,
        aws_secret_access_key=remote.secret,
        verify=False if remote.is_local else None,  # plain http: AWS_CA_BUNDLE is for others
        config=Config(
            connect_timeout=SECONDS,
            read_timeout=SECONDS,
            retries={"total_max_attempts": 1},
            signature_version=UNSIGNED if remote.public else None,
        ),
    )


def _where(remote: Remote) -> str:
    return f"{remote.url} at {remote.endpoint}" if remote.endpoint else remote.url


def _refusal(response: dict[str, Any]) -> str:
    code = response["Error"].get("Code", "")
    headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    region = response["Error"].get("Region") or headers.get("x-amz-bucket-region")
    if region and code in {"PermanentRedirect", "AuthorizationHeaderMalformed", "301", "400"}:
        return f"the bucket is in another region: give --region {region}"
    return _REFUSALS.get(code) or response["Error"].get("Message") or f"refused ({code})"


def _failure(error: Exception) -> str:
    from botocore import exceptions

    match error:
        case exceptions.NoCredentialsError() | exceptions.PartialCredentialsError():
            return "no credentials: give --profile, or set AWS_ACCESS_KEY_ID and its secret"
        case exceptions.ProfileNotFound():
            return f"{error}: `aws configure --profile NAME` makes one"
        case exceptions.EndpointConnectionError():
            return "nothing answers there"
        case exceptions.ConnectTimeoutError() | exceptions.ReadTimeoutError():
            return f"no answer within {SECONDS} seconds"
        case _:
            return str(error)
