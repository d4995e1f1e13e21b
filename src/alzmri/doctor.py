"""The checks of `alzmri doctor` for faults that stop a run or an experiment, with remedies.

A check returns what is well, or raises: `Doubt` for a warning, anything else for a failure.
"""

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
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
    yield _finding("python", python)
    yield _finding("environment", environment)
    yield _finding("disk", disk)
    try:
        root = repository.find()
    except UserError as error:
        yield Finding("FAIL", "dvc", str(error))
        return
    yield _finding("permissions", partial(permissions, root))
    yield (readable := _finding("git", repository_of_git))
    if readable.level == "ok":
        for subject, check in (("git history", history), ("git identity", identity)):
            found = _finding(subject, check)
            # Experiments are commits; `dvc repro` makes none.
            mild = before_run and found.level == "FAIL"
            yield found._replace(level="warn") if mild else found
        yield _finding("source", untracked_source)
    yield _finding("plots", partial(plots_template, root))
    yield (valid := _finding("params", partial(parameters, root)))
    if valid.level == "ok":
        yield _finding("data", partial(collection, root))
    yield _finding("checkpoints", partial(checkpoints, root))
    yield _finding("store", partial(store, root, may_be_down=before_run))


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


def permissions(root: Path) -> str:
    """Try to write a file, because permissions alone do not show it."""
    with tempfile.TemporaryFile(dir=root):
        return f"{root} can be written"


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
        raise Doubt(f"queued experiments lack the untracked {_some(files)}: run `git add src`")
    return "all of src/ is tracked"


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")


def plots_template(root: Path) -> str:
    """DVC makes its plots page from a template that `make setup` writes."""
    if not (root / ".dvc" / "plots.html").is_file():
        raise UserError(".dvc/plots.html is missing, so `dvc plots` fails: run `make setup`")
    return "template present"


def parameters(root: Path) -> str:
    """Every stage accepts params.yaml."""
    params.load(root / "params.yaml")
    return "params.yaml is valid"


def collection(root: Path) -> str:
    """data/NAME exists and DVC can read it.

    DVC hashes every file before our code runs: it hangs on a pipe, and crashes on a broken link
    and on a name that is not UTF-8.
    """
    name = params.load(root / "params.yaml").data.source
    folder = root / "data" / name
    if not os.path.lexists(folder):
        if name == "phantom":
            return f"the pipeline makes data/{name}"
        if folder.with_name(f"{name}.dvc").is_file():
            raise UserError(f"data/{name} is not on this machine: run `dvc pull data/{name}`")
        raise UserError(f"no data/{name}: run `alzmri data import SOURCE --name {name}`")
    if not folder.is_dir():
        raise UserError(f"data/{name} is not a folder: move it away")
    unreadable = [
        repr(str(path.relative_to(root)))
        for above, folders, files in os.walk(folder)
        for path in (Path(above, one) for one in (*folders, *files))
        if not (path.is_file() or path.is_dir())
        or path.name != path.name.encode("utf-8", "ignore").decode()
    ]
    if unreadable:
        raise UserError(
            "DVC stops at files that are not readable and at names that are not UTF-8: move away"
            f" {_some(unreadable)}"
        )
    return f"data/{name} can be read"


def checkpoints(root: Path) -> str:
    """`.checkpoints` has trainings that ended early; nothing removes abandoned ones."""
    files, size = list((root / ".checkpoints").rglob("*.checkpoint")), 0
    for path in files:
        with suppress(FileNotFoundError):  # a running training removes old checkpoints
            size += path.stat().st_size
    unfinished = len({path.parent for path in files})
    return f"{unfinished} unfinished trainings, {decimal(size)}"


def store(root: Path, *, may_be_down: bool) -> str:
    """The bucket answers. A local store that is down is a warning: one command starts it."""
    remote = remotes.default(root)
    try:
        remote.check()
    except remotes.StoreUnavailable as error:
        if not remote.is_local or server.find(root):
            raise EnvironmentFault(f"{error}; run `alzmri store status`") from None
        if not may_be_down:
            raise Doubt("the local store is not running: run `alzmri store up`") from None
        return "the local store is not running"
    return f"{remote.url} answers"
