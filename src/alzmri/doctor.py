"""The checks of `alzmri doctor` for faults that stop a run or an experiment, with remedies."""

import os
import re
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from rich.filesize import decimal

from alzmri import git, repository
from alzmri.errors import EnvironmentFault, UserError
from alzmri.params import load
from alzmri.store import remotes, server

OLDEST, NEWEST = (3, 11), (3, 14)
ENOUGH_BYTES = 5 * 10**9
TOO_FEW_BYTES = 10**9
ABANDONED_DAYS = 14  # a training without a new checkpoint for so long is abandoned


class Level(Enum):
    """The severity of a finding. Only FAIL stops a run or makes it do the wrong thing."""

    OK = "ok"
    WARN = "warn"
    FAIL = "FAIL"


@dataclass(frozen=True)
class Finding:
    """One line of the report; ``remedy`` is empty if all is well or the message names it."""

    level: Level
    subject: str
    message: str
    remedy: str = ""


ok = partial(Finding, Level.OK)
warn = partial(Finding, Level.WARN)
fail = partial(Finding, Level.FAIL)


def examine(*, before_run: bool = False) -> Iterator[Finding]:
    """Yield the findings for the repository whose root is the current directory.

    Args:
        before_run: `dvc repro` with the local store is about to start: the store may be down, and
            something that only experiments need may be missing, with a warning.
    """
    yield from attempt("python", python_version)
    yield from attempt("environment", environment)
    yield from attempt("disk", disk)
    try:
        root = repository.find()
    except UserError as error:
        yield fail("dvc", str(error))
        return
    for folder in filter(Path.is_dir, (root, root / ".venv")):
        yield from attempt("permissions", partial(writable, folder))
    usable = False
    for finding in attempt("git", partial(git_repository, root)):
        usable = finding.level is Level.OK
        yield finding
    if usable:
        for subject, check in (("git history", history), ("git identity", git_identity)):
            for finding in attempt(subject, check):
                # Experiments are commits; `dvc repro` makes none.
                mild = before_run and finding.remedy
                yield replace(finding, level=Level.WARN) if mild else finding
        yield from attempt("line endings", partial(line_endings, root))
        yield from attempt("source", untracked_source)
    for subject, check_of in (
        *(("plots", plots_template), ("params", parameters), ("data", collection)),
        *(("checkpoints", checkpoints), ("store", partial(store, may_be_down=before_run))),
    ):
        yield from attempt(subject, partial(check_of, root))


def attempt(subject: str, check: Callable[[], Finding | None]) -> Iterator[Finding]:
    """Yield the finding of ``check``, or its exception as a finding."""
    try:
        finding = check()
    except (UserError, EnvironmentFault) as error:
        finding = fail(subject, str(error))
    except OSError as error:
        finding = fail(subject, f"{error.strerror or error}: {error.filename or subject}")
    except Exception as error:  # noqa: BLE001 - the other checks continue
        message = f"the check itself failed: {type(error).__name__}: {error}"
        finding = fail(subject, message, "report that, with what `alzmri --version` prints")
    if finding:
        yield finding


def python_version(version: tuple[int, int] = sys.version_info[:2]) -> Finding:
    """The pinned packages exist for these versions of Python."""
    text = ".".join(map(str, version))
    if not OLDEST <= version <= NEWEST:
        return fail("python", f"version {text}", "install Python 3.11 to 3.14, then `make setup`")
    if find_spec("torch") is None:
        return fail("python", "torch is not installed", "run `make setup`")
    return ok("python", f"{text}, torch {metadata.version('torch')}")


def environment() -> Finding:
    """`python` and `dvc` on PATH are this environment's: DVC starts stages with them."""
    programs = Path(sys.executable).parent
    for name in ("python", "dvc"):
        found = shutil.which(name)
        if found is None or not Path(found).parent.samefile(programs):
            message = f"`{name}` is {found or 'not on PATH'}, not the one in {programs}"
            return fail("environment", message, f"run `. {programs}/activate`")
    return ok("environment", f"{programs} is first on PATH")


def disk() -> Finding:
    """Room for weights, the cache and the store."""
    free = shutil.disk_usage(Path.cwd()).free
    message = f"{decimal(free)} free"
    if free >= ENOUGH_BYTES:
        return ok("disk", message)
    report = fail if free < TOO_FEW_BYTES else warn
    return report("disk", message, "free some space; `dvc gc --workspace` removes old results")


def writable(folder: Path) -> Finding:
    """Try to write a file in ``folder``, because permissions alone do not show it."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return ok("permissions", f"{folder} can be written")
    except OSError as error:
        remedy = f"run `ls -ld {folder}` and make it yours"
        return fail("permissions", f"{folder} cannot be written: {error.strerror}", remedy)


def git_repository(root: Path) -> Finding:
    """Git is installed and reads the repository."""
    if shutil.which("git") is None:
        return fail("git", "git is not installed", "install git")
    try:
        git.run("rev-parse", "--git-dir")
    except UserError as error:
        if own := re.search(r"git config .*safe\.directory.*", str(error)):
            return fail("git", f"{root} belongs to another user", f"run `{own[0].strip()}`")
        if "not a git repository" not in str(error):
            raise
        return fail("git", f"{root} is not a git repository", "run `git init` or clone again")
    return ok("git", "repository")


def history() -> Finding:
    """An experiment is a commit on top of another; DVC loses results in a shallow clone."""
    if not git.lines("rev-parse", "--verify", "HEAD"):
        remedy = "run `git add -A && git commit -m start`"
        return fail("git history", "there is no commit, and experiments need one", remedy)
    if git.lines("rev-parse", "--is-shallow-repository") == ["true"]:
        return fail("git history", "a shallow clone loses results", "run `git fetch --unshallow`")
    return ok("git history", "complete")


def git_identity() -> Finding:
    """An experiment is a commit, and a commit needs an author."""
    # Git itself knows: the name may come from any configuration file or from the environment.
    if git.lines("var", "GIT_AUTHOR_IDENT") and git.lines("var", "GIT_COMMITTER_IDENT"):
        return ok("git identity", "set")
    remedy = "run `git config user.name NAME` and `git config user.email ADDRESS`"
    return fail("git identity", "git does not know who you are", remedy)


def line_endings(root: Path) -> Finding | None:
    """Files with CR LF have other digests, and so every stage would run again."""
    message = "core.autocrlf changes line endings, and .gitattributes is missing"
    if git.lines("config", "core.autocrlf") == ["true"] and not (root / ".gitattributes").is_file():
        return warn("line endings", message, "run `git restore .gitattributes`")
    return None


def untracked_source() -> Finding:
    """Temporary experiments get only files that git tracks; an untracked module is missing."""
    files = git.lines("ls-files", "--others", "--exclude-standard", "--", "src")
    if not files:
        return ok("source", "all of src/ is tracked")
    message = f"untracked, so missing in queued and temporary experiments: {_some(files)}"
    return warn("source", message, "run `git add src`")


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")


def plots_template(root: Path) -> Finding:
    """DVC makes its plots page from a template that `make setup` writes."""
    if (root / ".dvc" / "plots.html").is_file():
        return ok("plots", "template present")
    return fail("plots", ".dvc/plots.html is missing: `dvc plots` fails", "run `make setup`")


def parameters(root: Path) -> Finding:
    """Every stage accepts params.yaml."""
    load(root / "params.yaml")
    return ok("params", "params.yaml is valid")


def collection(root: Path) -> Finding | None:
    """data/NAME exists and DVC can read it; None if `parameters` finds no NAME.

    DVC hashes every file before our code runs: it hangs on a pipe, and crashes on a broken link
    and on a name that is not UTF-8.
    """
    try:
        name = load(root / "params.yaml").data.source
    except UserError:
        return None
    folder = root / "data" / name
    if not folder.is_dir():
        return _absent(folder)
    unreadable, links = [], 0
    for above, folders, files in os.walk(folder):
        for path in (Path(above, one) for one in (*folders, *files)):
            links += path.is_symlink()
            named = path.name.encode("utf-8", "ignore").decode() == path.name
            if not (named and (path.is_file() or path.is_dir())):
                unreadable.append(repr(str(path.relative_to(root))))
    if unreadable:
        message = "DVC stops at these, which are not readable or have names that are not UTF-8: "
        return fail("data", message + _some(unreadable), "move them away")
    if links:
        message = f"data/{name} has {links} symbolic links, which are ignored"
        return warn("data", message, "replace them by the files themselves")
    return ok("data", f"data/{name} can be read")


def _absent(folder: Path) -> Finding:
    name = folder.name
    if os.path.lexists(folder):
        return fail("data", f"data/{name} is not a folder", "move it away")
    if name == "phantom":
        return ok("data", f"the pipeline makes data/{name}")
    if folder.with_name(f"{name}.dvc").is_file():
        message = f"DVC tracks data/{name}, but it is not on this machine"
        return fail("data", message, f"run `dvc pull data/{name}`")
    message = f"params.yaml names the collection {name}, but there is no data/{name}"
    return fail("data", message, f"run `alzmri data import SOURCE --name {name}`")


def checkpoints(root: Path) -> Finding:
    """`.checkpoints` has trainings that ended early; nothing removes abandoned ones."""
    folder = root / ".checkpoints"
    newest: defaultdict[str, float] = defaultdict(float)
    size = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # a running training removes old checkpoints
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


def store(root: Path, *, may_be_down: bool) -> Finding:
    """The bucket answers. A local store that is down is a warning: one command starts it."""
    remote, data = remotes.default(root), server.folder(root)
    if remote.is_local and os.path.lexists(data) and not data.is_dir():
        return fail("store", f"{data} is not a folder, but the store needs one", "move it away")
    try:
        remote.check()
    except remotes.StoreUnavailable as error:
        if remote.is_local and server.find(root) is None:
            report = ok if may_be_down else warn
            return report("store", "the local store is not running", "run `alzmri store up`")
        return fail("store", str(error), "run `alzmri store status`")
    return ok("store", f"{remote.url} answers")
