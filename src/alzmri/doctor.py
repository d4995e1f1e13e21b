"""The checks of `alzmri doctor` for faults that stop a run or an experiment, with remedies.

A check returns a message, or raises: `Doubt` for a warning, anything else for a failure.
"""

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Literal, NamedTuple

from rich.filesize import decimal

from alzmri import git, params, repository, terminal
from alzmri.errors import EnvironmentFault, UserError
from alzmri.store import remotes, server

ENOUGH_BYTES = 5 * 10**9
TOO_FEW_BYTES = 10**9


class Doubt(UserError):
    """Something that does not stop a run."""


class Finding(NamedTuple):
    """One line of the report. Only FAIL stops a run or makes it do the wrong thing."""

    level: Literal["ok", "warn", "FAIL"]
    subject: str
    message: str


def examine(*, before_run: bool = False) -> Iterator[Finding]:
    """Yield the findings for the repository whose root is the current directory.

    Args:
        before_run: `dvc repro` with the local store is about to start: the store may be down, and
            something that only experiments need may be missing, with a warning.
    """
    # By subject: the check that must not fail before it, and the check itself.
    checks: Mapping[str, tuple[str, Callable[[], str]]] = {
        "python": ("", python),
        "environment": ("", environment),
        "disk": ("", disk),
        "dvc": ("", lambda: f"repository {repository.find()}"),
        "git": ("dvc", repository_of_git),
        "git history": ("git", history),
        "git identity": ("git", identity),
        "source": ("git", untracked_source),
        "plots": ("dvc", plots_template),
        "params": ("dvc", parameters),
        "data": ("params", collection),
        "checkpoints": ("dvc", checkpoints),
        "store": ("dvc", partial(store, may_be_down=before_run)),
    }
    failed = set[str]()
    for subject, (needed, check) in checks.items():
        if needed in failed:
            failed.add(subject)
            continue
        found = _finding(subject, check)
        if found.level == "FAIL":
            failed.add(subject)
            if before_run and needed == "git":  # experiments are commits; `dvc repro` makes none
                found = found._replace(level="warn")
        yield found


def _finding(subject: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding("ok", subject, check())
    except Doubt as doubt:
        return Finding("warn", subject, str(doubt))
    except (UserError, EnvironmentFault) as error:
        return Finding("FAIL", subject, str(error))
    except OSError as error:
        return Finding("FAIL", subject, terminal.meaning(error))
    except Exception as error:  # noqa: BLE001 - the other checks continue
        message = f"the check itself failed, please report it: {type(error).__name__}: {error}"
        return Finding("FAIL", subject, message)


def python() -> str:
    """The packages are installed."""
    try:
        return f"{platform.python_version()}, torch {metadata.version('torch')}"
    except metadata.PackageNotFoundError:
        raise UserError("torch is not installed: run `make setup`") from None


def environment() -> str:
    """`python` and `dvc` on PATH are this environment's: DVC starts stages with them."""
    programs = Path(sys.executable).parent
    for name in ("python", "dvc"):
        found = shutil.which(name)
        if found is None or not Path(found).parent.samefile(programs):
            where = f"`{name}` is {found or 'not on PATH'}, not the one in {programs}"
            raise UserError(f"{where}: run `. {programs}/activate`")
    return f"{programs} is first on PATH"


def disk() -> str:
    """Room for weights, the cache and the store."""
    free = shutil.disk_usage(Path.cwd()).free
    if free < ENOUGH_BYTES:
        fault = UserError if free < TOO_FEW_BYTES else Doubt
        raise fault(f"{decimal(free)} free: `dvc gc --workspace` removes old results")
    return f"{decimal(free)} free"


def repository_of_git() -> str:
    """Git is installed and reads the repository."""
    git.run("rev-parse", "--git-dir")
    return "repository"


def history() -> str:
    """An experiment is a commit on top of another; DVC loses results in a shallow clone."""
    git.head()
    git.require_whole()
    return "complete"


def identity() -> str:
    """An experiment is a commit, and a commit needs an author."""
    # Git itself knows: the name may come from any configuration file or from the environment.
    if git.lines("var", "GIT_AUTHOR_IDENT") and git.lines("var", "GIT_COMMITTER_IDENT"):
        return "set"
    raise UserError(
        "git does not know who you are: run `git config user.name NAME` and `git config user.email"
        " ADDRESS`"
    )


def untracked_source() -> str:
    """Temporary experiments get only files that git tracks; an untracked module is missing."""
    if files := git.lines("ls-files", "--others", "--exclude-standard", "--", "src"):
        some = ", ".join(files[:3]) + " …" * (len(files) > 3)
        raise Doubt(f"queued experiments lack the untracked {some}: run `git add src`")
    return "all of src/ is tracked"


def plots_template() -> str:
    """DVC makes its plots page from a template that `make setup` writes."""
    if not Path(".dvc/plots.html").is_file():
        raise UserError(".dvc/plots.html is missing, so `dvc plots` fails: run `make setup`")
    return "template present"


def parameters() -> str:
    """Every stage accepts params.yaml."""
    params.load()
    return "params.yaml is valid"


def collection() -> str:
    """data/NAME exists."""
    name = params.load().data.source
    folder = Path("data", name)
    if folder.is_dir():
        return f"{folder} exists"
    if os.path.lexists(folder):
        raise UserError(f"{folder} is not a folder: move it away")
    if name == "phantom":
        return f"the pipeline makes {folder}"
    if folder.with_name(f"{name}.dvc").is_file():
        raise UserError(f"{folder} is not on this machine: run `dvc pull {folder}`")
    raise UserError(f"no {folder}: run `alzmri data import SOURCE --name {name}`")


def checkpoints() -> str:
    """`.checkpoints` has trainings that ended early; nothing removes abandoned ones."""
    files, size = list(Path(".checkpoints").rglob("*.checkpoint")), 0
    for path in files:
        with suppress(FileNotFoundError):  # a running training removes old checkpoints
            size += path.stat().st_size
    unfinished = len({path.parent for path in files})
    return f"{unfinished} unfinished trainings, {decimal(size)}"


def store(*, may_be_down: bool) -> str:
    """The bucket answers. A local store that is down is a warning: one command starts it."""
    remote = remotes.default(root := Path.cwd())
    try:
        remote.check()
    except remotes.StoreUnavailable as error:
        if not remote.is_local or server.find(root):
            raise EnvironmentFault(f"{error}; run `alzmri store status`") from None
        if not may_be_down:
            raise Doubt("the local store is not running: run `alzmri store up`") from None
        return "the local store is not running"
    return f"{remote.url} answers"
