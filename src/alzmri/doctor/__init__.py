"""`alzmri doctor`: everything that could stop a run, and what mends it."""

from collections.abc import Iterator
from dataclasses import replace
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

    findings = list(examine(Path.cwd(), before_run=before_run))
    for finding in findings:
        if finding.level is not Level.OK or not before_run:
            _show(finding, terminal.err if before_run else terminal.out)
    if any(finding.level is Level.FAIL for finding in findings):
        raise SystemExit(1)


def examine(folder: Path, *, before_run: bool = False) -> Iterator["Finding"]:
    """Yield the findings for the repository around ``folder``, those of the machine first.

    ``before_run`` says that a plain `dvc repro` is about to start, with the local store: the store
    may be down then, and what only experiments need is a warning.
    """
    from alzmri.doctor import machine, queue, remote, repository
    from alzmri.doctor.finding import Level, fail
    from alzmri.errors import UserError
    from alzmri.store import settings

    yield machine.python_version()
    yield machine.environment()
    yield machine.disk(folder)
    try:
        root = settings.repository(folder)
    except UserError as error:
        yield fail("dvc", str(error), "go to a clone of this project")
        return
    yield machine.writable(root)
    if (root / ".venv").is_dir():
        yield machine.writable(root / ".venv")
    yield repository.git_repository(root)
    for finding in (repository.first_commit(root), repository.git_identity(root)):
        # Experiments are commits; a plain `dvc repro` makes none, and a fresh machine may run it.
        yield replace(finding, level=Level.WARN) if before_run and finding.remedy else finding
    yield repository.untracked_source(root)
    yield repository.plots_template(root)
    yield repository.lock(root)
    yield repository.path_locks(root)
    yield queue.stranded_tasks(root)
    yield remote.remote(root, may_be_down=before_run)


def _show(finding: "Finding", console: "Console") -> None:
    from alzmri.doctor.finding import Level

    colour = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "red"}[finding.level]
    console.print(f"[{colour}]{finding.level.value:>4}[/]  ", end="")
    remedy = f" — {finding.remedy}" if finding.remedy else ""
    console.print(f"{finding.subject}: {finding.message}{remedy}", markup=False, soft_wrap=True)
