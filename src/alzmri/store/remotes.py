"""The S3 remotes in DVC's configuration, and whether they answer.

There are two, so that the settings of one never reach the other: `store` is the SeaweedFS server on
this machine, `team` the address given to `alzmri store use`. `core.remote` names the one in use.
"""

import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from alzmri import aws
from alzmri.errors import EnvironmentFault, UserError

if TYPE_CHECKING:
    from dvc.config import Config

LOCAL, TEAM = "store", "team"
LOWEST_PORT, HIGHEST_PORT = 1024, 55_530
"""Range of the local store's first port; the store uses five in a row, and each of them + 10000."""
AWS_SETTINGS = "seaweedfs.ini"  # the local store's settings, beside DVC's configuration
SECONDS = 4  # longest wait for a connection, and then for the answer


_ELSEWHERE = ("PermanentRedirect", "AuthorizationHeaderMalformed", "301", "400")


class StoreUnavailable(EnvironmentFault):
    """The store does not answer, or refuses the request."""


@dataclass(frozen=True)
class Remote:
    """One S3 address: its name and section in DVC's configuration, which may have its keys."""

    name: str
    values: Mapping[str, Any] = field(repr=False)

    @property
    def is_local(self) -> bool:
        """Whether this is the server that `alzmri store up` manages."""
        return self.name == LOCAL

    @property
    def url(self) -> str:
        """The address as DVC writes it."""
        return str(self.values["url"]).rstrip("/")

    @property
    def bucket(self) -> str:
        """The bucket in the address."""
        return urlsplit(self.url).netloc

    @property
    def endpoint(self) -> str | None:
        """The URL of the server; None for AWS."""
        return self.values.get("endpointurl")

    @property
    def keys(self) -> tuple[str, str] | None:
        """Access key and secret, if the configuration has both."""
        key, secret = map(self.values.get, ("access_key_id", "secret_access_key"))
        return (key, secret) if key and secret else None

    def but(self, **values: Any) -> "Remote":
        """A copy with other values in its section; None removes one."""
        kept = {key: value for key, value in {**self.values, **values}.items() if value is not None}
        return Remote(self.name, kept)

    def check(self) -> None:
        """List at most one object, in one attempt; raise `StoreUnavailable` with the reason."""
        from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
        from botocore.utils import get_environ_proxies

        if self.is_local and get_environ_proxies(self.endpoint):
            raise EnvironmentFault("HTTP_PROXY applies to the store: `export NO_PROXY=127.0.0.1`")
        try:
            prefix = urlsplit(self.url).path.lstrip("/")
            self._client().list_objects_v2(Bucket=self.bucket, Prefix=prefix, MaxKeys=1)
        except (ClientError, BotoCoreError, HTTPClientError, ValueError) as error:
            where = f"{self.url} at {self.endpoint}" if self.endpoint else self.url
            raise StoreUnavailable(f"{where}: {_reason(error)}") from error

    def _client(self) -> Any:
        from botocore import UNSIGNED
        from botocore.config import Config
        from botocore.session import Session

        session, values = Session(profile=self.values.get("profile")), self.values
        # DVC does the same for this remote, so that both see the same configuration.
        for name, path in (("config_file", "configpath"), ("credentials_file", "credentialpath")):
            if path in values:
                session.set_config_variable(name, values[path])
        key, secret = self.keys or (None, None)
        return session.create_client(
            "s3",
            region_name=values.get("region"),
            endpoint_url=self.endpoint,
            aws_access_key_id=key,
            aws_secret_access_key=secret,
            verify=False if self.is_local else None,  # plain http: AWS_CA_BUNDLE is for others
            config=Config(
                connect_timeout=SECONDS,
                read_timeout=SECONDS,
                retries={"total_max_attempts": 1},
                signature_version=UNSIGNED if values.get("allow_anonymous_login") else None,
            ),
        )


def _reason(error: Exception) -> str:
    from botocore import exceptions

    match error:
        case exceptions.ClientError(response=response):
            code = response["Error"].get("Code", "")
            headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
            region = response["Error"].get("Region") or headers.get("x-amz-bucket-region")
            if region and code in _ELSEWHERE:
                return f"the bucket is in another region: give --region {region}"
            return aws.meaning(code) or response["Error"].get("Message") or f"refused ({code})"
        case exceptions.NoCredentialsError() | exceptions.PartialCredentialsError():
            return "no credentials: give --profile, or set AWS_ACCESS_KEY_ID and its secret"
        case exceptions.ProfileNotFound():
            return f"{error}: make it with `aws configure --profile NAME`"
        case exceptions.EndpointConnectionError():
            return "no server answers there"
        case exceptions.ConnectTimeoutError() | exceptions.ReadTimeoutError():
            return f"no answer within {SECONDS} seconds"
    return str(error)


def default(root: Path) -> Remote:
    """The remote that a plain ``dvc push`` uses; UserError when there is none on S3."""
    name = _config(root).get("core", {}).get("remote")
    if not name:
        raise UserError("no default remote in .dvc/config: `alzmri store use local` sets one")
    return named(root, name)


def named(root: Path, name: str = LOCAL) -> Remote:
    """The remote ``name``, whether or not it is the default; raises `UserError`."""
    values = _config(root)["remote"].get(name)
    if values is None:
        remedy = "git checkout .dvc/config" if name == LOCAL else "alzmri store use local"
        raise UserError(f"no remote {name!r} in .dvc/config: `{remedy}` corrects that")
    _check_address(values["url"])
    endpoint, wanted = values.get("endpointurl"), ""
    if name == LOCAL:
        ours = re.match(r"https?://(127\.0\.0\.1|localhost):", endpoint or "")
        if not (ours and LOWEST_PORT <= port_of(endpoint) <= HIGHEST_PORT):
            wanted = f"http://127.0.0.1:PORT with PORT from {LOWEST_PORT} to {HIGHEST_PORT}"
    elif endpoint and not port_of(endpoint):
        wanted = "https://host or http://host:port"
    if wanted:  # the message does not repeat the address, which may contain a key
        where = f"{root / '.dvc'}: endpointurl of remote {name!r} in config or config.local"
        raise UserError(f"{where} is not valid: write {wanted}")
    return Remote(name, values)


def team(
    root: Path, address: str, profile: str | None, region: str | None, endpoint: str | None
) -> Remote:
    """The remote for ``address``, with the keys that `dvc remote modify --local team` has set."""
    _check_address(address)
    if endpoint and not port_of(endpoint):
        raise UserError("not an endpoint: write --endpoint-url https://host or http://host:port")
    before = _config(root)["remote"].get(TEAM, {})
    kept = {key: before[key] for key in ("access_key_id", "secret_access_key") if key in before}
    place = {"endpointurl": endpoint and endpoint.rstrip("/"), "region": region, "profile": profile}
    return Remote(TEAM, {"url": address.rstrip("/"), **kept}).but(**place)


def save_local(root: Path, remote: Remote) -> Remote:
    """Write the local store's endpoint into ``config.local``, with new keys if there are none."""
    key, secret = remote.keys or (secrets.token_hex(10).upper(), secrets.token_hex(20))
    # Also set here: `dvc exp push` reads .dvc/config from commits, where a relative path is wrong.
    aws = os.path.relpath(root / ".dvc" / AWS_SETTINGS)
    values = {"endpointurl": remote.endpoint, "access_key_id": key, "secret_access_key": secret}
    values |= {"configpath": aws, "credentialpath": aws}
    with _edited(root, "local") as content:
        _set(content, LOCAL, values)
    return remote.but(**values)


def use_local(root: Path) -> None:
    """Make the server on this machine the default remote again."""
    with _edited(root, "local") as content:
        content["core"].pop("remote", None)
    with _edited(root, "repo") as content:
        content["core"]["remote"] = LOCAL


def use_team(root: Path, remote: Remote, *, public: bool) -> None:
    """Make ``remote`` the default: git shares its address, the profile stays on this machine.

    Others need no keys for a ``public`` one; this machine pushes with its own.
    """
    with _edited(root, "repo") as content:
        content["core"]["remote"] = TEAM
        values = {
            "url": remote.url,
            "endpointurl": remote.endpoint,
            "region": remote.values.get("region"),
            "use_ssl": False if (remote.endpoint or "").startswith("http:") else None,
            "allow_anonymous_login": public or None,
            "connect_timeout": 10,
            "read_timeout": 15,  # seconds without any data, not the length of a transfer
        }
        _set(content, TEAM, values)
    with _edited(root, "local") as content:
        content["core"].pop("remote", None)
        anonymous = False if public else None
        own = {"profile": remote.values.get("profile"), "allow_anonymous_login": anonymous}
        _set(content, TEAM, own)


def _set(content: dict[str, Any], name: str, values: dict[str, Any]) -> None:
    content["remote"][name] = Remote(name, content["remote"].get(name, {})).but(**values).values


@contextmanager
def _edited(root: Path, level: str) -> Iterator[dict[str, Any]]:
    config = _config(root)
    if level == "local":  # it has keys, which others must not read
        path = root / ".dvc" / "config.local"
        path.touch(mode=0o600)
        path.chmod(0o600)
    with config.edit(level) as content:
        yield content


def _config(root: Path) -> "Config":
    from dvc.config import Config, ConfigError

    try:
        config = Config(str(root / ".dvc"))
        if all(isinstance(config.get(section, {}), dict) for section in ("core", "remote")):
            return config
    except (ConfigError, OSError, AttributeError):
        pass
    # Without DVC's message, which quotes the line, and that may contain the key.
    raise UserError(
        f"{root / '.dvc'}: config or config.local is damaged: correct it, or run `git checkout"
        " .dvc/config` and delete config.local"
    )


def _check_address(url: str) -> None:
    """Raise a `UserError` that does not repeat ``url``, which may contain a key."""
    if not re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[^?#@\s]*)?", url):
        raise UserError(
            "not an S3 address: write s3://bucket/prefix (a bucket has 3 to 63 lower-case letters,"
            " digits, dots and hyphens), or `alzmri store use local`"
        )


def port_of(endpoint: str | None) -> int:
    """The port of an endpoint, 443 if it names none; 0 for an invalid endpoint."""
    match = re.fullmatch(r"https?://[A-Za-z0-9.-]+(?::(\d{1,5}))?/?", endpoint or "")
    port = int(match[1] or 443) if match else 0
    return port if port < 65_536 else 0
