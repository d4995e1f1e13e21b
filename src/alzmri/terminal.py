"""Terminal output: errors, exit codes, progress; colour only on a terminal."""

import errno
import gc
import io
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from alzmri.errors import EnvironmentFault, UserError

SECONDS_BETWEEN_LINES = 30  # of progress in a log

Update = Callable[[int, int], None]  # takes the work done and the total work

out = Console(highlight=False, soft_wrap=True, emoji=False)
err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)

_REMEDIES = {
    errno.ENOSPC: "free some space on the disk",
    errno.EDQUOT: "free some of your quota",
    errno.EACCES: "change its owner or permissions, or use a folder that you may write",
    errno.EISDIR: "move this folder away, or put a file in its place",
    errno.EROFS: "use a folder on a writable disk",
}


def run(command: Callable[[], object]) -> int:
    """Run ``command`` and return the exit status.

    It is 0 for success, 2 for a user's mistake, 1 for a fault of the environment, 130 when
    interrupted. Known errors show a traceback only with ``--debug`` or ``ALZMRI_DEBUG`` set.
    """
    debug = "--debug" in sys.argv or bool(os.environ.get("ALZMRI_DEBUG"))
    try:
        command()
    except (UserError, EnvironmentFault, OSError) as error:
        if debug:
            raise
        message = meaning(error) if isinstance(error, OSError) else str(error)
        err.print("[red]error:[/]", Text(message))
        if isinstance(error, UserError):
            _say_what_next("correct this and run the command again")
        return getattr(error, "exit_code", EnvironmentFault.exit_code)
    except KeyboardInterrupt:
        err.print("interrupted")
        _say_what_next("run the same command again")
        return 130
    return 0


def meaning(error: OSError) -> str:
    """What failed, where, and the remedy if there is one."""
    where = f": {error.filename}" if error.filename else ""
    remedy = f"; {_REMEDIES[error.errno]}" if error.errno in _REMEDIES else ""
    return f"{error.strerror or error}{where}{remedy}"


def _say_what_next(step: str) -> None:
    """Name the way on and back if DVC runs this stage in the workspace, not in a temporary copy."""
    if "DVC_STAGE" in os.environ and os.environ.get("DVC_ROOT") == str(Path.cwd()):
        undo = "to undo everything and lose all uncommitted edits: `git restore . && dvc checkout`"
        err.print(f"to continue, {step}; {undo}", markup=False)


def start(command: Callable[[], object]) -> None:
    """Run ``command`` and exit with its status: the last line of every stage and of the CLI."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        # Unwind, so that no temporary file and no worker process stays.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _unwind)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A file name that the terminal cannot encode must not stop the program.
            stream.reconfigure(errors="backslashreplace")
    # What is imported stays. Looking for garbage in torch's objects would take half a second.
    gc.freeze()
    gc.enable()
    sys.exit(run(command))


def _unwind(number: int, _: object) -> None:
    raise SystemExit(128 + number)


def say(line: str) -> None:
    """Print one plain line on stdout at once, above a live progress bar.

    ``out`` would not keep the line above the bar.
    """
    print(line, flush=True)


def warn(message: str) -> None:
    """Print one warning on stderr."""
    err.print("[yellow]warning:[/]", Text(message))


@contextmanager
def progress(what: str) -> Iterator[Update]:
    """Yield ``update(done, total)``: a live bar on a terminal, a line now and then in a log."""
    live, last = sys.stderr.isatty(), time.monotonic()
    text = TextColumn("{task.description}")
    columns = (text, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # Printed lines go above the bar, unless stdout is a file.
    above = sys.stdout.isatty()
    with Progress(
        *columns, console=err, transient=True, redirect_stdout=above, disable=not live
    ) as bar:
        task = bar.add_task(what, total=None)

        def update(done: int, total: int) -> None:
            nonlocal last
            bar.update(task, completed=done, total=total)
            if not live and time.monotonic() - last >= SECONDS_BETWEEN_LINES:
                last = time.monotonic()
                print(f"{what}: {done}/{total}", file=sys.stderr, flush=True)

        yield update
