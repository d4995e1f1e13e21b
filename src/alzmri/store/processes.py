"""Whether processes, our own children or not, have ended."""

import time
from collections.abc import Iterable

import psutil

_POLL_SECONDS = 0.05


def alive(process: psutil.Process) -> bool:
    """Whether ``process`` still does anything; a later program with its number does not count."""
    # A zombie has ended; in a container nobody may ever collect it, and wait() would not return.
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def ended(processes: Iterable[psutil.Process], seconds: float) -> bool:
    """Wait at most ``seconds`` for all of ``processes`` to end; False when some live on."""
    deadline = time.monotonic() + seconds
    remaining = list(processes)
    while remaining := [process for process in remaining if alive(process)]:
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True
