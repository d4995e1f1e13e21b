"""The code that a job runs: what git tracks of it, as it is in the working tree, and no secret."""

import gzip
import hashlib
import io
import os
import re
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rich.filesize import decimal

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
class Bundle:
    """Code packed for a job.

    Attributes:
        archive: a gzipped tar, the same bytes for the same files.
        digest: SHA-256 of the archive.
        commit: that the working tree is at.
        changes: lines of ``git status`` for what differs from the commit, or is not tracked.
    """

    archive: bytes
    digest: str
    commit: str
    changes: list[str]


def pack(root: Path) -> Bundle:
    """Pack the code of the repository ``root``.

    Raises:
        UserError: when a file could hold a secret, is no regular file, or all are too large.
    """
    names = [name for name in _git(root, "ls-files", "-z", "--", *CONTENT).split("\0") if name]
    contents = {name: _read(root, name) for name in sorted(names)}
    _check_size(contents)
    archive = _archive(contents)
    return Bundle(
        archive,
        hashlib.sha256(archive).hexdigest(),
        _git(root, "rev-parse", "HEAD").strip(),
        _git(root, "status", "--porcelain", "--", *CONTENT).splitlines(),
    )


def _read(root: Path, name: str) -> bytes:
    if any(_SECRET_NAME.fullmatch(part) for part in PurePosixPath(name).parts):
        raise UserError(
            f"{name} is tracked by git, and files of that name hold keys: nothing was sent;"
            f" `git rm --cached {name}`, and withdraw the key if there is one"
        )
    path = root / name
    if path.is_symlink() or not path.is_file():
        raise UserError(
            f"{name} is tracked by git but is no regular file here: make it one, or"
            f" `git rm --cached {name}`"
        )
    content = path.read_bytes()
    values = (os.environ.get(variable, "").encode() for variable in _SECRET_VARIABLES)
    if _SECRET_CONTENT.search(content) or any(value and value in content for value in values):
        raise UserError(
            f"{name} contains a key: nothing was sent; take it out, and withdraw the key if it"
            " was ever committed"
        )
    return content


def _check_size(contents: dict[str, bytes]) -> None:
    total = sum(map(len, contents.values()))
    if total > LIMIT:
        largest = sorted(contents, key=lambda name: -len(contents[name]))[:5]
        lines = [f"  {decimal(len(contents[name])):>9}  {name}" for name in largest]
        raise UserError(
            "\n".join(
                [
                    f"the code has {decimal(total)}, more than the {decimal(LIMIT)} that a job"
                    " takes along; data belong under DVC, not git. The largest files:",
                    *lines,
                ]
            )
        )


def _archive(contents: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    # No times and no owners: the same files make the same bytes, and are uploaded once.
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=packed, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w") as tar,
    ):
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["git failed"])[-1]
        raise UserError(f"git {words[0]}: {reason}; run in the root of a clone with a commit")
    return done.stdout
