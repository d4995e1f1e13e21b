"""Run one command with the store up, and leave the store as it was."""

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import psutil

from alzmri.errors import UserError
from alzmri.store import server, settings
from alzmri.store.check import check
from alzmri.store.processes import ended

_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
_GRACE_SECONDS = 60
"""How long what the command started may take to save its work after a signal."""


def run(root: Path, command: list[str]) -> int:
    """Run ``command`` and return its exit status, 128 + n when signal n ended it.

    A local store that is down is brought up before and taken down after, whatever happens; any
    other must answer before the command starts. Raises `UserError` when there is no such command,
    and what `server.up` and `check` raise.
    """
    if shutil.which(command[0]) is None:
        raise UserError(f"no such command: {command[0]}")
    with _unwinding(), _store(root):
        return _supervise(command)


@contextmanager
def _store(root: Path) -> Iterator[None]:
    remote = settings.default(root)
    if remote.is_local:
        with server.borrowed(root):
            yield
    else:
        check(remote)
        yield


@contextmanager
def _unwinding() -> Iterator[None]:
    """Turn a signal outside the command's own time into an exit that still takes the store down."""

    def leave(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    with _handling(leave):
        yield


@contextmanager
def _handling(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    # What is ignored stays so: nohup asks for that.
    heeded = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in heeded}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def _supervise(command: list[str]) -> int:
    child = psutil.Popen(command)
    told: list[psutil.Process] = []

    def forward(number: int, _: FrameType | None) -> None:
        # A shell in between would die and leave its program behind, so everyone is told; but
        # after Ctrl-C the terminal has told them all already.
        # Parents first, or a shell would go on to its next command when the last one ends.
        with suppress(psutil.NoSuchProcess):
            family = [child, *child.children(recursive=True)]
            told.extend(process for process in family if process not in told)
        if number == signal.SIGINT and _in_foreground():
            return
        for process in told:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    with _handling(forward):
        status = int(child.wait())
        ended(told, _GRACE_SECONDS)
    return status if status >= 0 else 128 - status


def _in_foreground() -> bool:
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (OSError, ValueError):
        return False
