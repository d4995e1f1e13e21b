"""The code that a job runs: git's own archive of what it tracks, as it is here, and no secret."""

import gzip
import hashlib
import os
import re
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rich.filesize import decimal
from ruamel.yaml import YAML

from alzmri import git
from alzmri.errors import UserError

CONTENT = ("src", "requirements.txt")
LIMIT = 20_000_000
"""Bytes: code is small, what is larger came in by mistake."""

_SECRET_NAME = re.compile(
    r"\.env(\..*)?|.*\.env|\.netrc|\.dvc|\.aws|\.ssh|credentials.*|id_(rsa|dsa|ecdsa|ed25519)"
    r"|.*\.(pem|key|p12|pfx|jks|keystore)",
    re.IGNORECASE,
)
_SECRET_CONTENT = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----|\b(AKIA|ASIA)[0-9A-Z]{16}\b")
_SECRET_VARIABLES = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "WANDB_API_KEY")


@dataclass(frozen=True)
class Code:
    """What git tracks, with changes that are not committed.

    Attributes:
        commit: that the working tree is at.
        snapshot: a commit with the changes as well; ``commit`` where there are none.
        changes: lines of ``git status`` for what differs from the commit, or is not tracked.
        digest: of all that a job takes along.
        training: digest of the code that shapes a model: what the stage train depends on.
    """

    commit: str
    snapshot: str
    changes: list[str]
    digest: str
    training: str


def here() -> Code:
    """The code in the working tree; `UserError` when git cannot say, with git's own words."""
    commit = git.head()
    # Makes objects only: the tree, the index and the list of stashes stay as they are.
    snapshot = git.run("stash", "create").strip() or commit
    stages = YAML(typ="safe").load(Path("dvc.yaml").read_bytes())["stages"]
    deps = [name for name in stages["train"]["deps"] if name.startswith("src/")]
    changes = git.lines("status", "--porcelain", "--", *CONTENT)
    return Code(commit, snapshot, changes, _digest(snapshot, CONTENT), _digest(snapshot, deps))


def _digest(snapshot: str, names: Iterable[str]) -> str:
    """Over what git calls the contents of files and folders."""
    ids = git.run("rev-parse", *(f"{snapshot}:./{name}" for name in names))
    return hashlib.sha256(ids.encode()).hexdigest()


def pack(code: Code, archive: Path) -> None:
    """Write ``code`` to ``archive``, a ``.tar.gz``.

    Raises:
        UserError: when a file could hold a secret, or all are too large.
    """
    sizes: dict[str, int] = {}
    unpacked = archive.with_suffix("")
    git.run("archive", f"--output={unpacked}", code.snapshot, "--", *CONTENT)
    with tarfile.open(unpacked) as tar:
        for member in tar:
            if not member.isdir():
                file = tar.extractfile(member) if member.isfile() else None
                _refuse_secret(member.name, file.read() if file else b"")
                sizes[member.name] = member.size
    if (total := sum(sizes.values())) > LIMIT:
        largest = sorted(sizes, key=lambda name: -sizes[name])[:5]
        lines = [f"\n  {decimal(sizes[name]):>9}  {name}" for name in largest]
        raise UserError(
            f"the code has {decimal(total)}, more than the {decimal(LIMIT)} that a job takes along;"
            f" data belong under DVC, not git. The largest files:{''.join(lines)}"
        )
    archive.write_bytes(gzip.compress(unpacked.read_bytes()))


def _refuse_secret(name: str, content: bytes) -> None:
    values = (os.environ.get(variable, "").encode() for variable in _SECRET_VARIABLES)
    if any(_SECRET_NAME.fullmatch(part) for part in PurePosixPath(name).parts):
        why = "is tracked by git, and files of that name hold keys"
    elif _SECRET_CONTENT.search(content) or any(value and value in content for value in values):
        why = "contains a key"
    else:
        return
    raise UserError(
        f"{name} {why}: nothing was sent; take it out of git (`git rm --cached {name}`), and"
        " withdraw the key if it was ever committed"
    )
