"""``src/train.py`` as a user runs it, with its live bar read from our own terminal."""

import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from alzmri.errors import EnvironmentFault

TRAIN = str(Path(__file__).parent.parent / "src/train.py")
_ESCAPE = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")
_DONE = re.compile(rb"(\d+)/\d+")


def alone() -> list[str]:
    """One process."""
    return [sys.executable, TRAIN]


def seconds_to_steps(
    command: Sequence[str], folder: Path, last: int, environment: Mapping[str, str] = os.environ
) -> dict[int, float]:
    """Run ``command`` in ``folder`` until it has done ``last`` steps, then stop it.

    Returns:
        Seconds from the start of the process to when the bar first showed a number of steps. The
        bar is drawn ten times a second. ``last`` counts from the step a resumed run starts with.

    Raises:
        EnvironmentFault: it ended before that.
    """
    terminal, theirs = pty.openpty()
    environment = {**environment, "TERM": "xterm", "COLUMNS": "200"}
    begin = time.perf_counter()
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    seen: dict[int, float] = {}
    text = b""
    try:
        while len(seen) < last:
            try:
                chunk = os.read(terminal, 65536)
            except OSError:  # EIO: the other side is closed
                raise EnvironmentFault(
                    f"{' '.join(command)} ended early: {text.decode(errors='replace')[-2000:]}"
                ) from None
            text = text[-4096:] + chunk
            for done in _DONE.findall(_ESCAPE.sub(b"", text)):
                seen.setdefault(int(done), time.perf_counter() - begin)
            seen.pop(0, None)
    finally:
        process.send_signal(signal.SIGTERM)
        while process.poll() is None:  # it would wait for ever if nobody read what it prints
            if select.select([terminal], [], [], 0.1)[0]:
                with suppress(OSError):
                    os.read(terminal, 65536)
        os.close(terminal)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # whatever the launcher has left behind
    return seen


def forget(folder: Path) -> None:
    """Remove the checkpoints, so that the next run starts from zero."""
    shutil.rmtree(folder / ".checkpoints", ignore_errors=True)
