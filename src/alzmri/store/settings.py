"""Where the data goes: the remotes in DVC's configuration.

Two remotes, so that the settings of one can never reach the other: `store` is the SeaweedFS server
on this machine, `team` the address given to `alzmri store use`. `core.remote` says which is used.
"""

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from alzmri.errors import UserError
from alzmri.store import ports

if TYPE_CHECKING:
    from dvc.config import Config

LOCAL, TEAM = "store", "team"
AWS_SETTINGS = "seaweedfs.ini"
"""Of the local store, beside DVC's configuration."""
_BUCKET = r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]"


@dataclass(frozen=True)
class Remote:
    """One S3 address with all that is needed to ask it something; ``public`` needs no key."""

    name: str
    bucket: str
    prefix: str
    endpoint: str | None = None
    region: str | None = None
    profile: str | None = None
    config_file: str | None = None
    credentials_file: str | None = None
    key: str | None = field(default=None, repr=False)
    secret: str | None = field(default=None, repr=False)
    public: bool = False

    @property
    def is_local(self) -> bool:
        """Whether this is the server that `alzmri store up` manages."""
        return self.name == LOCAL

    @property
    def url(self) -> str:
        """The address as DVC writes it."""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    @property
    def port(self) -> int:
        """The local store's port on loopback."""
        port = urlsplit(self.endpoint or "").port
        assert port, "an endpoint is checked when it is read"
        return port

    def at_port(self, port: int) -> "Remote":
        """The same store on another port."""
        return replace(self, endpoint=f"http://127.0.0.1:{port}")


def parse_address(url: str) -> tuple[str, str]:
    """Bucket and prefix of ``s3://bucket/prefix``; raises `UserError` for anything else.

    The message does not repeat the text: people paste keys into addresses.
    """
    match = re.fullmatch(rf"s3://({_BUCKET})(?:/([^?#@\s]*))?", url)
    if not match:
        raise UserError(
            "not an S3 address: write s3://bucket/prefix (a bucket has 3 to 63 lower-case letters, "
            "digits, dots and hyphens), or `alzmri store use local`"
        )
    return match[1], (match[2] or "").strip("/")


def default(root: Path) -> Remote:
    """The remote that a plain ``dvc push`` uses; raises `UserError` when there is none on S3."""
    name = _config(root).get("core", {}).get("remote")
    if not name:
        raise UserError("no default remote in .dvc/config: `alzmri store use local` sets one")
    return _remote(root, name)


def local(root: Path) -> Remote:
    """The remote on this machine, whether or not it is the default; raises `UserError`."""
    return _remote(root, LOCAL)


def team(
    root: Path, address: str, profile: str | None, region: str | None, endpoint: str | None
) -> Remote:
    """The remote for ``address``, with the keys that `dvc remote modify --local team` may have set.

    Raises `UserError` for an address or endpoint that is none.
    """
    bucket, prefix = parse_address(address)
    if endpoint and not _is_endpoint(endpoint):
        raise UserError("not an endpoint: write --endpoint-url https://host or http://host:port")
    kept = _config(root)["remote"].get(TEAM, {})
    return Remote(
        name=TEAM,
        bucket=bucket,
        prefix=prefix,
        endpoint=endpoint.rstrip("/") if endpoint else None,
        region=region,
        profile=profile,
        key=kept.get("access_key_id"),
        secret=kept.get("secret_access_key"),
    )


def save_local(root: Path, remote: Remote) -> Remote:
    """Write the local store's endpoint into ``config.local``, with new keys if there are none."""
    keyed = remote
    if not (remote.key and remote.secret):
        keyed = replace(remote, key=secrets.token_hex(10).upper(), secret=secrets.token_hex(20))
    # Named here too: `dvc exp push` reads .dvc/config from commits, where a path leads nowhere.
    aws = os.path.relpath(root / ".dvc" / AWS_SETTINGS)
    values = {
        "endpointurl": keyed.endpoint,
        "access_key_id": keyed.key,
        "secret_access_key": keyed.secret,
        "configpath": aws,
        "credentialpath": aws,
    }
    with _edited(root, "local") as content:
        _set(content, LOCAL, values)
    return keyed


def use_local(root: Path) -> None:
    """Make the server on this machine the default remote again."""
    with _edited(root, "local") as content:
        content["core"].pop("remote", None)
    with _edited(root, "repo") as content:
        content["core"]["remote"] = LOCAL


def use_team(root: Path, remote: Remote, *, public: bool) -> None:
    """Make ``remote`` the default: its address for everyone in git, the profile for this machine.

    Others of a ``public`` one need no keys; this machine uses its own, to push. The timeouts bound
    a link that stalls, not a transfer: they count while nothing arrives.
    """
    plain = (remote.endpoint or "").startswith("http:")
    with _edited(root, "repo") as content:
        content["core"]["remote"] = TEAM
        values = {
            "url": remote.url,
            "endpointurl": remote.endpoint,
            "region": remote.region,
            "use_ssl": False if plain else None,
            "allow_anonymous_login": public or None,
            "connect_timeout": 10,
            "read_timeout": 15,
        }
        _set(content, TEAM, values)
    with _edited(root, "local") as content:
        content["core"].pop("remote", None)
        own = {"profile": remote.profile, "allow_anonymous_login": False if public else None}
        _set(content, TEAM, own)


def _set(content: dict[str, Any], name: str, values: dict[str, Any]) -> None:
    """Set values of a remote, or drop those that are None."""
    kept = content["remote"].get(name, {}) | values
    content["remote"][name] = {key: value for key, value in kept.items() if value is not None}


@contextmanager
def _edited(root: Path, level: str) -> Iterator[dict[str, Any]]:
    config = _config(root)
    if level == "local":
        # The keys must at no moment be readable by others.
        path = root / ".dvc" / "config.local"
        path.touch(mode=0o600)
        path.chmod(0o600)
    with config.edit(level) as content:
        yield content


def _config(root: Path) -> "Config":
    from dvc.config import Config, ConfigError

    folder = root / ".dvc"
    for name, remedy in (("config", "`git checkout .dvc/config`"), ("config.local", "delete it")):
        path = folder / name
        try:
            content = Config.load_file(str(path)) if path.exists() else {}
            damaged = not all(isinstance(section, dict) for section in content.values())
        except (ConfigError, OSError, AttributeError):
            damaged = True
        if damaged:
            # DVC's own message would quote the line, which may be the one with the key.
            raise UserError(f"{path} is damaged: correct it, or {remedy}")
    try:
        return Config(str(folder))
    except ConfigError as error:
        raise UserError(f"{folder}: {error}: correct config or config.local there") from error


def _remote(root: Path, name: str) -> Remote:
    values = _config(root)["remote"].get(name)
    if values is None:
        remedy = "git checkout .dvc/config" if name == LOCAL else "alzmri store use local"
        raise UserError(f"no remote {name!r} in .dvc/config: `{remedy}` corrects that")
    bucket, prefix = parse_address(values["url"])
    endpoint = values.get("endpointurl")
    wanted = None
    if name == LOCAL and not _is_loopback(endpoint or ""):
        wanted = f"http://127.0.0.1:PORT with PORT from {ports.LOWEST} to {ports.HIGHEST}"
    elif endpoint and not _is_endpoint(endpoint):
        wanted = "https://host or http://host:port"
    if wanted:  # the address is not repeated: people paste keys
        where = f"{root / '.dvc'}: endpointurl of remote {name!r} in config or config.local"
        raise UserError(f"{where} cannot be used: write {wanted}")
    return Remote(
        name=name,
        bucket=bucket,
        prefix=prefix,
        endpoint=endpoint,
        region=values.get("region"),
        profile=values.get("profile"),
        config_file=values.get("configpath"),
        credentials_file=values.get("credentialpath"),
        key=values.get("access_key_id"),
        secret=values.get("secret_access_key"),
        public=bool(values.get("allow_anonymous_login")),
    )


def _is_loopback(url: str) -> bool:
    match = re.fullmatch(r"https?://(?:127\.0\.0\.1|localhost):(\d{1,5})/?", url)
    return match is not None and ports.LOWEST <= int(match[1]) <= ports.HIGHEST


def _is_endpoint(url: str) -> bool:
    match = re.fullmatch(r"https?://[A-Za-z0-9.-]+(?::(\d{1,5}))?/?", url)
    return match is not None and 0 < int(match[1] or 443) < 65_536
