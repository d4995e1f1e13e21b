"""Where the data goes: DVC's configuration of the remotes, read whole and written piecemeal.

Two remotes, so that the settings of one can never reach the other: `store` is the SeaweedFS server
on this machine, `team` the address given to `alzmri store use`. `core.remote` says which is used.
"""

import re
import secrets
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from alzmri.errors import UserError
from alzmri.files import replacing
from alzmri.store import ports

if TYPE_CHECKING:
    from configobj import ConfigObj

LOCAL = "store"
TEAM = "team"
AWS_SETTINGS = "seaweedfs.ini"
"""Of the local store, beside DVC's configuration."""
_BUCKET = r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]"


@dataclass(frozen=True)
class Remote:
    """One S3 address with all that is needed to ask it something."""

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


def parse_endpoint(url: str) -> str:
    """An endpoint without a final slash; raises `UserError` when it is not ``http(s)://host``."""
    if not (re.fullmatch(r"https?://[A-Za-z0-9.-]+(:\d{1,5})?/?", url) and _is_endpoint(url)):
        raise UserError("not an endpoint: write --endpoint-url https://host or http://host:port")
    return url.rstrip("/")


def default_name(root: Path) -> str | None:
    """The name of the remote that a plain ``dvc push`` uses."""
    name = _merged(root).get("core", {}).get("remote")
    return str(name) if name else None


def default(root: Path) -> Remote:
    """The remote that a plain ``dvc push`` uses; raises `UserError` when there is none on S3."""
    name = default_name(root)
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
    kept = _merged(root).get("remote", {}).get(TEAM, {})
    return Remote(
        name=TEAM,
        bucket=bucket,
        prefix=prefix,
        endpoint=parse_endpoint(endpoint) if endpoint else None,
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
    values = {
        "endpointurl": keyed.endpoint,
        "access_key_id": keyed.key,
        "secret_access_key": keyed.secret,
        # As in .dvc/config, which `dvc exp push` reads from commits: a path that is relative to a
        # file there leads nowhere on the disk.
        "configpath": AWS_SETTINGS,
        "credentialpath": AWS_SETTINGS,
    }
    _edit(_private(root), {_section(LOCAL): values}, private=True)
    return keyed


def use_local(root: Path) -> None:
    """Make the server on this machine the default remote again."""
    _edit(_private(root), {"core": {"remote": None}}, private=True)
    _edit(_shared(root), {"core": {"remote": LOCAL}})


def use_team(root: Path, remote: Remote) -> None:
    """Make ``remote`` the default: its address for everyone in git, the profile for this machine.

    The timeouts bound a link that stalls, not a transfer: they count while nothing arrives.
    """
    plain = (remote.endpoint or "").startswith("http:")
    values = {
        "url": remote.url,
        "endpointurl": remote.endpoint,
        "region": remote.region,
        "use_ssl": "false" if plain else None,
        "connect_timeout": "10",
        "read_timeout": "15",
    }
    section = _section(TEAM)
    _edit(
        _private(root),
        {"core": {"remote": None}, section: {"profile": remote.profile}},
        private=True,
    )
    _edit(_shared(root), {"core": {"remote": TEAM}, section: values})


def _shared(root: Path) -> Path:
    return root / ".dvc" / "config"


def _private(root: Path) -> Path:
    return root / ".dvc" / "config.local"


def _section(name: str) -> str:
    return f'remote "{name}"'


def _merged(root: Path) -> dict[str, Any]:
    from dvc.config import Config, ConfigError

    for path in (_shared(root), _private(root)):
        _parsed(path)  # DVC's own message would not name the file
    try:
        return dict(Config(str(root / ".dvc")))
    except ConfigError as error:
        raise UserError(f"{root / '.dvc'}: {error}: mend config or config.local there") from error


def _remote(root: Path, name: str) -> Remote:
    values = _merged(root).get("remote", {}).get(name)
    if values is None:
        remedy = "git checkout .dvc/config" if name == LOCAL else "alzmri store use local"
        raise UserError(f"no remote {name!r} in .dvc/config: `{remedy}` mends that")
    bucket, prefix = parse_address(values["url"])
    return Remote(
        name=name,
        bucket=bucket,
        prefix=prefix,
        endpoint=_endpoint(root, name, values.get("endpointurl")),
        region=values.get("region"),
        profile=values.get("profile"),
        config_file=values.get("configpath"),
        credentials_file=values.get("credentialpath"),
        key=values.get("access_key_id"),
        secret=values.get("secret_access_key"),
    )


def _endpoint(root: Path, name: str, url: str | None) -> str | None:
    """``url`` if it can be used; the error names the file, not the text: people paste keys."""
    if name == LOCAL and not _is_loopback(url or ""):
        wanted = f"http://127.0.0.1:PORT with PORT from {ports.LOWEST} to {ports.HIGHEST}"
    elif url and not _is_endpoint(url):
        wanted = "https://host or http://host:port"
    else:
        return url
    private = "endpointurl" in _parsed(_private(root)).get(_section(name), {})
    path = _private(root) if private else _shared(root)
    raise UserError(f"{path}: endpointurl of remote {name!r} cannot be used: write {wanted}")


def _is_loopback(url: str) -> bool:
    match = re.fullmatch(r"https?://(?:127\.0\.0\.1|localhost):(\d{1,5})/?", url)
    return match is not None and ports.LOWEST <= int(match[1]) <= ports.HIGHEST


def _is_endpoint(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets that do not close, a port that is no number or too large
        return False


def _parsed(path: Path) -> "ConfigObj":
    """One file of the configuration, empty when there is none; raises `UserError` if damaged."""
    from configobj import ConfigObj, ConfigObjError

    try:
        content = ConfigObj(str(path), encoding="utf-8", interpolation=False)
    except ConfigObjError as error:
        # Its own message quotes the line, which may be the one with the key.
        first = getattr(error, "errors", [error])[0]
        fault = f"line {first.line_number} is no setting"
    except UnicodeDecodeError:
        fault = "it is not text"
    else:
        if not (path.is_dir() or content.scalars):
            return content
        fault = "it is a folder" if path.is_dir() else f"{content.scalars[0]} is in no [section]"
    restore = "mend it, or `git checkout .dvc/config`"
    remedy = "mend or delete it" if path.name == "config.local" else restore
    raise UserError(f"{path} is damaged, {fault}: {remedy}")


def _edit(path: Path, changes: dict[str, dict[str, str | None]], *, private: bool = False) -> None:
    """Set values in one file, or drop those that are None; comments and all else stay."""
    content = _parsed(path)
    before = content.dict()
    for section, values in changes.items():
        for key, value in values.items():
            if value is not None:
                content.setdefault(section, {})[key] = value
            elif section in content:
                content[section].pop(key, None)
    if content.dict() == before:
        return
    with replacing(path) as temporary:
        # The mode comes first: the keys must at no moment be readable by others.
        temporary.touch(mode=0o600 if private else 0o644)
        with temporary.open("wb") as handle:
            content.write(handle)
