"""Run one command with the store up, and leave the store as it was."""

import os
import shutil
import signal
import sys
from contextlib import suppress
from pathlib import Path

import psutil

from alzmri.errors import UserError
from alzmri.store import remotes, server

_GRACE_SECONDS = 60  # time for the command's processes to save their work after a signal


def run(root: Path, command: list[str]) -> int:
    """Run ``command`` and return its exit status, 128 + n when signal n ended it.

    A local store that is down is started before and stopped after, whatever happens; any other
    remote must answer before the command starts. Raises UserError when there is no such command.
    """
    if shutil.which(command[0]) is None:
        raise UserError(f"no such command: {command[0]}")
    family: list[psutil.Process] = []
    signalled: set[psutil.Process] = set()

    def pass_on(number: int, _: object) -> None:
        if not family:  # the store is starting or stopping: exit, which stops it
            raise SystemExit(128 + number)
        # Send the signal to all, because a shell would die and leave its program; parents first,
        # or the shell would start its next command. For Ctrl-C the terminal has done so.
        with suppress(psutil.NoSuchProcess):
            everyone = [*family, *family[0].children(recursive=True)]
            signalled.update(everyone)
            for process in everyone if number != signal.SIGINT or not _in_foreground() else ():
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores signals
            signal.signal(number, pass_on)
    remote, started = remotes.default(root), False
    try:
        if remote.is_local:
            started = server.find(root) is None
            server.up(root)
        else:
            remote.check()
        family.append(psutil.Popen(command))
        status = int(family[0].wait())
        psutil.wait_procs(signalled, _GRACE_SECONDS)
        family.clear()
    finally:
        if started:
            server.down(root)
    return status if status >= 0 else 128 - status


def _in_foreground() -> bool:
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (OSError, ValueError):
        return False
