"""`alzmri doctor`: everything that could stop a run, and what mends it."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alzmri import terminal

if TYPE_CHECKING:
    from rich.console import Console

    from alzmri.doctor.finding import Finding


def doctor(
    before_run: Annotated[
        bool, typer.Option("--before-run", help="Print problems only: nothing when all is well.")
    ] = False,
) -> None:
    """Check everything that could stop a run, and say how to mend it."""
    from alzmri.doctor.finding import Level

    failed = False
    for finding in examine(Path.cwd(), before_run=before_run):
        failed |= finding.level is Level.FAIL
        if finding.level is not Level.OK or not before_run:
            _show(finding, terminal.err if before_run else terminal.out)
    if failed:
        raise SystemExit(1)


def examine(folder: Path, *, before_run: bool = False) -> Iterator["Finding"]:
    """Yield the findings for the repository around ``folder``, those of the machine first.

    ``before_run`` says that a plain `dvc repro` is about to start, with the local store: the store
    may be down then, and what only experiments need is a warning.
    """
    from alzmri.doctor import machine, remote, repository, source
    from alzmri.doctor.finding import fail
    from alzmri.errors import UserError
    from alzmri.store import settings

    yield machine.python_version()
    yield from _attempt("environment", machine.environment)
    yield from _attempt("disk", lambda: machine.disk(folder))
    try:
        root = settings.repository(folder)
    except UserError as error:
        yield fail("dvc", str(error))
        return
    yield machine.writable(root)
    if (root / ".venv").is_dir():
        yield machine.writable(root / ".venv")
    yield from _git(root, before_run)
    yield from _attempt("plots", lambda: repository.plots_template(root))
    yield from _attempt("params", lambda: source.parameters(root))
    yield from _attempt("data", lambda: source.collection(root))
    yield from _attempt("lock", lambda: repository.lock(root))
    yield from _attempt("path locks", lambda: repository.path_locks(root))
    yield from _attempt("checkpoints", lambda: repository.checkpoints(root))
    yield from _attempt("store", lambda: remote.remote(root, may_be_down=before_run))


def _git(root: Path, before_run: bool) -> Iterator["Finding"]:
    from alzmri.doctor import repository
    from alzmri.doctor.finding import Level

    yield from _attempt("git", lambda: repository.git_repository(root))
    if not repository.has_git():
        return
    for subject, check in (
        ("git commit", repository.first_commit),
        ("git identity", repository.git_identity),
    ):
        for finding in _attempt(subject, partial(check, root)):
            # Experiments are commits; `dvc repro` makes none, and a fresh machine may run it.
            yield replace(finding, level=Level.WARN) if before_run and finding.remedy else finding
    yield from _attempt("source", lambda: repository.untracked_source(root))


def _attempt(subject: str, check: Callable[[], "Finding | None"]) -> Iterator["Finding"]:
    """What ``check`` finds, if anything; where the system refuses it, that is the finding."""
    from alzmri.doctor.finding import fail

    try:
        finding = check()
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        remedy = f"look at it with `ls -ld {error.filename}`" if error.filename else ""
        finding = fail(subject, f"{error.strerror or error}{where}", remedy)
    if finding:
        yield finding


def _show(finding: "Finding", console: "Console") -> None:
    from alzmri.doctor.finding import Level

    colour = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "red"}[finding.level]
    console.print(f"[{colour}]{finding.level.value:>4}[/]  ", end="")
    remedy = f" — {finding.remedy}" if finding.remedy else ""
    console.print(f"{finding.subject}: {finding.message}{remedy}", markup=False, soft_wrap=True)
