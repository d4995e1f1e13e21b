"""The S3 remotes in DVC's configuration, and whether they answer.

There are two, so that the settings of one never reach the other: `store` is the SeaweedFS server on
this machine, `team` the address given to `alzmri store use`. `core.remote` names the one in use.
"""

import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alzmri import aws
from alzmri.errors import EnvironmentFault, UserError

if TYPE_CHECKING:
    from dvc.config import Config

LOCAL, TEAM = "store", "team"
LOWEST_PORT, HIGHEST_PORT = 1024, 55_530
"""Range of the local store's first port; the store uses five in a row, and each of them + 10000."""
AWS_SETTINGS = "seaweedfs.ini"  # the local store's settings, beside DVC's configuration
SECONDS = 4  # longest wait for a connection, and then for the answer


class StoreUnavailable(EnvironmentFault):
    """The store does not answer, or refuses the request."""


@dataclass(frozen=True)
class Remote:
    """One S3 address: its name and section in DVC's configuration, which may have its keys.

    Raises:
        UserError: the address or the endpoint is not valid. The message does not repeat them,
            because they may contain a key.
    """

    name: str
    values: Mapping[str, Any] = field(repr=False)

    def __post_init__(self) -> None:
        address = re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[^?#@\s]*)?", self.url)
        endpoint = re.fullmatch(
            r"https?://([A-Za-z0-9.-]+)(?::(\d{1,5}))?/?", self.endpoint or "http://s3"
        )
        host, port = (endpoint[1], int(endpoint[2] or 443)) if endpoint else ("", 0)
        what = f"of DVC's remote {self.name!r} is not valid"
        if not address:
            raise UserError(
                f"the url {what}: write s3://bucket/prefix (a bucket has 3 to 63 lower-case"
                " letters, digits, dots and hyphens), or `alzmri store use local`"
            )
        wanted, valid = "https://host or http://host:port", 0 < port < 65_536
        if self.is_local:
            wanted = f"http://127.0.0.1:PORT with PORT from {LOWEST_PORT} to {HIGHEST_PORT}"
            valid = host in ("127.0.0.1", "localhost") and LOWEST_PORT <= port <= HIGHEST_PORT
        if not valid:
            raise UserError(f"the endpointurl {what}: write {wanted}")

    @property
    def is_local(self) -> bool:
        """Whether this is the server that `alzmri store up` manages."""
        return self.name == LOCAL

    @property
    def url(self) -> str:
        """The address as DVC writes it."""
        return str(self.values["url"]).rstrip("/")

    @property
    def endpoint(self) -> str | None:
        """The URL of the server; None for AWS."""
        return self.values.get("endpointurl")

    @property
    def keys(self) -> tuple[str, str] | None:
        """Access key and secret, if the configuration has both."""
        key, secret = map(self.values.get, ("access_key_id", "secret_access_key"))
        return (key, secret) if key and secret else None

    def check(self) -> None:
        """List at most one object, in one attempt; raise `StoreUnavailable` with the reason."""
        from botocore import UNSIGNED
        from botocore.config import Config
        from botocore.session import Session
        from botocore.utils import get_environ_proxies

        if self.is_local and get_environ_proxies(self.endpoint):
            raise EnvironmentFault("HTTP_PROXY applies to the store: `export NO_PROXY=127.0.0.1`")
        session, values = Session(profile=self.values.get("profile")), self.values
        # DVC does the same for this remote, so that both see the same configuration.
        for name, path in (("config_file", "configpath"), ("credentials_file", "credentialpath")):
            if path in values:
                session.set_config_variable(name, values[path])
        bucket, prefix = aws.split(self.url)
        config = Config(
            connect_timeout=SECONDS,
            read_timeout=SECONDS,
            retries={"total_max_attempts": 1},
            signature_version=UNSIGNED if values.get("allow_anonymous_login") else None,
        )
        try:
            with aws.explained():
                client = session.create_client(
                    "s3",
                    region_name=values.get("region"),
                    endpoint_url=self.endpoint,
                    aws_access_key_id=values.get("access_key_id"),
                    aws_secret_access_key=values.get("secret_access_key"),
                    verify=False if self.is_local else None,  # http needs no AWS_CA_BUNDLE
                    config=config,
                )
                client.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)
        except (UserError, EnvironmentFault, ValueError) as error:
            where = f"{self.url} at {self.endpoint}" if self.endpoint else self.url
            raise StoreUnavailable(f"{where}: {error}") from error


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
    try:
        return Remote(name, values)
    except UserError as error:
        raise UserError(f"{root / '.dvc'}, config or config.local: {error}") from None


def save_local(root: Path, remote: Remote) -> Remote:
    """Write the local store's endpoint into ``config.local``, with new keys if there are none."""
    key, secret = remote.keys or (secrets.token_hex(10).upper(), secrets.token_hex(20))
    # Also set here: `dvc exp push` reads .dvc/config from commits, where a relative path is wrong.
    settings = os.path.relpath(root / ".dvc" / AWS_SETTINGS)
    values = {"endpointurl": remote.endpoint, "access_key_id": key, "secret_access_key": secret}
    values |= {"configpath": settings, "credentialpath": settings}
    _write(root, "local", LOCAL, values)
    return Remote(LOCAL, {**remote.values, **values})


def use_local(root: Path) -> None:
    """Make the server on this machine the default remote again; `UserError` if there is none."""
    named(root)  # DVC cannot save a remote without an address
    _write(root, "local", LOCAL, {}, remote=None)
    _write(root, "repo", LOCAL, {}, remote=LOCAL)


def use_team(
    root: Path,
    address: str,
    profile: str | None,
    region: str | None,
    endpoint: str | None,
    *,
    public: bool,
    check: bool,
) -> None:
    """Make ``address`` the default: git shares it, the profile stays on this machine.

    Others need no keys for a ``public`` one; this machine pushes with its own, or with those that
    `dvc remote modify --local team` has set. With ``check`` the bucket must answer first.
    """
    shared = {
        "url": address.rstrip("/"),
        "endpointurl": endpoint and endpoint.rstrip("/"),
        "region": region,
        "use_ssl": False if (endpoint or "").startswith("http:") else None,
        "allow_anonymous_login": public or None,
        "connect_timeout": 10,
        "read_timeout": 15,  # seconds without any data, not the length of a transfer
    }
    own = {"profile": profile, "allow_anonymous_login": False if public else None}
    before = _config(root)["remote"].get(TEAM, {})
    keys = {key: before.get(key) for key in ("access_key_id", "secret_access_key")}
    for values in ({**keys, **shared, **own}, shared)[: 1 + public]:
        remote = Remote(TEAM, values)
        if check:
            remote.check()
    _write(root, "repo", TEAM, shared, remote=TEAM)
    _write(root, "local", TEAM, own, remote=None)


def _write(root: Path, level: str, name: str, values: Mapping[str, Any], **core: Any) -> None:
    """Change the section of a remote, and of ``core``; None removes a value."""
    config = _config(root)
    if level == "local":  # it has keys, which others must not read
        path = root / ".dvc" / "config.local"
        path.touch(mode=0o600)
        path.chmod(0o600)
    with config.edit(level) as content:
        for section, changes in (
            (content["core"], core),
            (content["remote"].setdefault(name, {}), values),
        ):
            section.update(changes)
            for key in [key for key, value in section.items() if value is None]:
                del section[key]


def _config(root: Path) -> "Config":
    from dvc.config import Config, ConfigError

    try:
        return Config(str(root / ".dvc"))
    except (ConfigError, OSError, AttributeError):
        # Without DVC's message, which quotes the line, and that may contain the key.
        raise UserError(
            f"{root / '.dvc'}: config or config.local is damaged: correct it, or run `git checkout"
            " .dvc/config` and delete config.local"
        ) from None
