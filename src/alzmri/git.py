"""The only place that calls git, for the repository around the current directory."""

import os
import subprocess
from pathlib import Path

from alzmri.errors import UserError

ARTIFACT = "alzmri"
"""The model's name in ``dvc.yaml``."""

_PLAIN = ("-c", "log.showSignature=false", "-c", "core.quotePath=false")
"""Override the user's settings that would change git's output."""


def run(*words: str) -> str:
    """Run ``git WORDS`` and return its output.

    Raises:
        UserError: git fails; the message is git's own.
    """
    done = _git(words)
    if done.returncode:
        said = done.stderr.strip() or "failed"
        hint = "; run in the root of a clone" if "not a git repository" in said else ""
        raise UserError(f"git {words[0]}: {said}{hint}")
    return done.stdout


def lines(*words: str) -> list[str]:
    """The lines that ``git WORDS`` prints; an empty list when it fails."""
    done = _git(words)
    return [] if done.returncode else done.stdout.splitlines()


def head() -> str:
    """The current commit.

    Raises:
        UserError: there is no repository or no commit, or git refuses to read it.
    """
    found = lines("rev-parse", "--verify", "--quiet", "HEAD")
    if not found:
        run("rev-parse", "--git-dir")  # raises git's own message about the repository
        raise UserError("this repository has no commit: `git add -A && git commit -m start`")
    return found[0]


def show(commit: str, path: str) -> str | None:
    """The content of the text file ``path`` in ``commit``; None when it has no such file.

    ``path`` is relative to the current directory, which may be a folder of a larger repository.
    """
    done = _git(("cat-file", "blob", f"{commit}:./{path}"))
    return None if done.returncode else done.stdout


def version(folder: Path = Path("models")) -> str | None:
    """The latest version of the model in ``folder`` that GTO registered, such as ``alzmri@v0.1.0``.

    A version is a tag, and matches if its ``dvc.lock`` is the same as here: no output of the
    pipeline contains it, because a user registers a version after the run. None if no version
    matches, if ``folder`` is not the workspace's own, or outside a repository.
    """
    if folder.resolve() != Path("models").resolve():
        return None
    try:
        tags = lines("tag", "--list", "--sort=-version:refname", f"{ARTIFACT}@*")
        return next((tag for tag in tags if not run("diff", tag, "--", "dvc.lock")), None)
    except UserError:
        return None


def require_whole() -> None:
    """Raise UserError in a shallow clone: DVC loses the results of experiments there."""
    if lines("rev-parse", "--is-shallow-repository") == ["true"]:
        raise UserError("this is a shallow clone: run `git fetch --unshallow` first")


def _git(words: tuple[str, ...]) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(
            ["git", *_PLAIN, *words],
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, "LC_ALL": "C"},
            check=False,
        )
    except FileNotFoundError:
        raise UserError("git is not installed: install it") from None
