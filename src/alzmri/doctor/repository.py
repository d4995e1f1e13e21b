"""Checks of the repository: git, DVC's locks, and what a queued run would miss."""

import fcntl
import json
import shutil
import subprocess
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

import psutil
from rich.filesize import decimal

from alzmri.doctor.finding import Finding, fail, ok, warn

_SHOWN = 3
ABANDONED_DAYS = 14
"""Without a new checkpoint: nobody takes such a training up again."""


def has_git() -> bool:
    """Without it, nothing more can be said about git."""
    return shutil.which("git") is not None


def git_repository(root: Path) -> Finding:
    """Git tracks the folder: DVC needs it."""
    if not has_git():
        return fail("git", "git is not installed", "install git")
    if _git(root, "rev-parse", "--git-dir") is None:
        return fail("git", f"{root} is not a git repository", "run `git init` or clone again")
    return ok("git", "repository")


def first_commit(root: Path) -> Finding:
    """An experiment is a commit on top of another."""
    if _git(root, "rev-parse", "--verify", "HEAD") is None:
        remedy = "run `git add -A && git commit -m start`"
        return fail("git commit", "none yet: experiments need one", remedy)
    return ok("git commit", "there is one to build on")


def git_identity(root: Path) -> Finding:
    """A queued experiment is a commit, and a commit needs an author."""
    # Asks git itself: the name may come from any configuration file or from the environment.
    if _git(root, "var", "GIT_AUTHOR_IDENT") and _git(root, "var", "GIT_COMMITTER_IDENT"):
        return ok("git identity", "set")
    return fail(
        "git identity",
        "git does not know who you are",
        "run `git config user.name NAME` and `git config user.email ADDRESS`",
    )


def untracked_source(root: Path) -> Finding:
    """A queued run works on what git tracks, so a new module is missing there."""
    listing = _git(root, "ls-files", "--others", "--exclude-standard", "--", "src") or ""
    files = listing.splitlines()
    if not files:
        return ok("source", "all of src/ is tracked")
    names = ", ".join(files[:_SHOWN]) + (" …" if len(files) > _SHOWN else "")
    return warn("source", f"untracked, so missing in queued runs: {names}", "run `git add src`")


def plots_template(root: Path) -> Finding:
    """DVC's plots page is made from a template that set-up writes."""
    if (root / ".dvc" / "plots.html").is_file():
        return ok("plots", "template present")
    return fail("plots", ".dvc/plots.html is missing: `dvc plots` fails", "run `make setup`")


def lock(root: Path) -> Finding:
    """DVC's own lock, which the system releases when its holder dies."""
    try:
        # For reading, and so a shared lock: also where nothing can be written. DVC's is exclusive.
        with (root / ".dvc" / "tmp" / "lock").open("rb") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return ok("lock", "free")
    except BlockingIOError:
        return warn("lock", "another DVC command is at work here", "wait until it has ended")
    return ok("lock", "free")


def path_locks(root: Path) -> Finding:
    """DVC's locks on single paths: a file, which outlives a killed command.

    DVC itself drops the entries of dead processes, but takes a stranger with the same number for
    the holder, and cannot read a file that a kill left half-written.
    """
    path = root / ".dvc" / "tmp" / "rwlock"
    remedy = f"run `rm {path}`"
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        pids = {int(info["pid"]) for info in held.get("write", {}).values()}
        pids |= {int(info["pid"]) for infos in held.get("read", {}).values() for info in infos}
    except FileNotFoundError:
        return ok("path locks", "none")
    except (ValueError, KeyError, TypeError, AttributeError):
        return fail("path locks", f"{path} is damaged", remedy)
    alive = sorted(pid for pid in pids if psutil.pid_exists(pid))
    strangers = [pid for pid in alive if not _runs_dvc(pid)]
    if strangers:
        message = f"held by a dead DVC command whose number, {strangers[0]}, another program has"
        return fail("path locks", message, remedy)
    if alive:
        return warn("path locks", f"held by process {alive[0]}", "wait until it has ended")
    return ok("path locks", "none held")


def checkpoints(root: Path) -> Finding:
    """Trainings that ended early go on from `.checkpoints`; what nobody takes up stays there."""
    folder = root / ".checkpoints"
    newest: defaultdict[str, float] = defaultdict(float)
    size = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # a training at work removes what is no longer needed
            status = path.stat()
            run = path.relative_to(folder).parts[0].partition(".")[0]
            newest[run] = max(newest[run], status.st_mtime)
            size += status.st_size if path.is_file() else 0
    if not newest:
        return ok("checkpoints", "none: no training ended early")
    message = f"{len(newest)} unfinished trainings, {decimal(size)}"
    limit = time.time() - ABANDONED_DAYS * 86_400
    old = sorted(run for run, changed in newest.items() if changed < limit)
    if not old:
        return ok("checkpoints", message)
    remedy = f"run `rm -r {' '.join(f'{folder.name}/{run}*' for run in old)}`"
    return warn("checkpoints", f"{message}; {len(old)} untouched for {ABANDONED_DAYS} days", remedy)


def _runs_dvc(pid: int) -> bool:
    try:
        return any("dvc" in Path(word).name for word in psutil.Process(pid).cmdline()[:3])
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False


def _git(root: Path, *arguments: str) -> str | None:
    """What git prints, or None when it fails; raises `FileNotFoundError` without git."""
    done = subprocess.run(
        ["git", *arguments],
        cwd=root,
        capture_output=True,
        text=True,
        errors="backslashreplace",
        check=False,
    )
    return done.stdout if done.returncode == 0 else None
