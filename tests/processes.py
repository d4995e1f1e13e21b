"""Processes that tests start: how long they may take, and that none is left."""

import os
from contextlib import suppress

import psutil

PATIENCE = float(os.environ.get("ALZMRI_TEST_PATIENCE", "4"))
"""All time limits are multiplied by it: 1 is for a quiet machine, 4 holds at a load of 10."""


def limit(seconds: float) -> float:
    """What takes at most ``seconds`` on a quiet machine may take so many here."""
    return PATIENCE * seconds


def end(variable: str, value: str) -> None:
    """SIGKILL to all processes that were started with ``variable`` set to ``value``, but us."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(variable) == value:
                process.kill()
                found.append(process)
    psutil.wait_procs(found, timeout=limit(5))
