"""Processes of Python that start in milliseconds: forked from one that has imported torch and DVC.

A test's `python src/train.py` would spend seconds on imports and a tenth of one on its work. In the
folder ``bin`` of a server's lie `python`, `dvc`, `alzmri` and `torchrun`, which hand what they are
asked to the server (`client.py`, `server.py`); it forks. What is forked is as good as
started: code, working directory, environment, arguments, streams, umask, title and exit status are
the caller's; signals reach it; when its caller is killed it is, too.

Not the same, so that tests of these take ``REAL``: the seed of hashes is one for all, a stopped
(SIGSTOP) caller does not stop it, and it leads a session of its own. Whatever the server cannot
give is started afresh without a word: options of Python's, another environment for what is read
when torch is imported, other namespaces.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

from alzmri.params import Compute
from alzmri.training import portable

HERE = Path(__file__).parent
CLIENT = HERE / "client.py"
REAL = {"ALZMRI_TEST_REAL": "1"}
"""In this environment processes start as they do outside tests."""
FOLDER = "ALZMRI_TEST_FORKS"
COMPUTING = portable.variables(Compute(train_on="here", portable=True, threads=1))
"""What stages set before they import torch, which the server has imported when it forks.

One thread: worker processes of pytest with two threads each would wait for each other's cores.
"""
ROOM = 4096
"""Bytes of the server's command line, which those of what it forks must fit in."""


SET_BY_IMPORTS = (
    "KMP_",
    "LD_LIBRARY_PATH",
    "MPL",
    "NO_ALBUMENTATIONS",
    "OMP_",
    "TORCH",
    "PYTORCH_",
)
"""OpenCV, scikit-learn and others set such variables when a test imports them.

The server does not have them, and it forks for nobody whose environment is another.
"""


def environment() -> dict[str, str]:
    """Activated, as the README says, and free of what the tests' own caller has set."""
    others = ("AWS_", "DVC_", "GIT_", "WANDB_", *SET_BY_IMPORTS)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(others)}
    folders = [str(Path(sys.executable).parent), os.environ["PATH"]]
    if FOLDER in os.environ:
        folders.insert(0, str(Path(os.environ[FOLDER], "bin")))
    return {
        **kept,
        "PATH": os.pathsep.join(folders),
        "PYTHONDONTWRITEBYTECODE": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        **COMPUTING,
    }


def find(folder: Path, name: str) -> Iterator[psutil.Process]:
    """The forks at work in ``folder`` or below that run the script ``name``, such as `train.py`.

    Their clients, which others know as their children, are not among them.
    """
    for process in psutil.process_iter():
        # Any other may end between the listing and the question.
        with suppress(psutil.Error):
            words = process.cmdline()
            forked = len(words) > 1 and str(CLIENT) not in words and Path(words[1]).name == name
            if forked and Path(process.cwd()).is_relative_to(folder):
                yield process


@dataclass
class Fork:
    """A forked process, the leader of its process group."""

    pid: int
    _connection: socket.socket
    _replies: IO[str]

    def end(self) -> tuple[int, float]:
        """Wait for its end: exit status, as ``Popen.returncode``, and seconds of CPU."""
        said = {}
        while "status" not in said:
            said = json.loads(self._replies.readline())
        self._replies.close()
        self._connection.close()
        return said["status"], said["seconds"]


class Forks:
    """A server. It ends, with all that it forked, when this object or its process does.

    Args:
        prepare: Python that the server runs first, in the place of the usual imports. What that
            imports is not what is beside a script any more.
        folder: where it runs.
    """

    def __init__(self, prepare: str = "", folder: Path | None = None) -> None:
        # Not in pytest's: the address of a socket has room for 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="alzmri-forks-"))
        self._lay_out()
        self._server = subprocess.Popen(
            [sys.executable, str(HERE / "server.py"), str(self.folder), prepare, " " * ROOM],
            cwd=folder or self.folder,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._server.stdout
        self._server.stdout.readline()

    def _lay_out(self) -> None:
        programs = self.folder / "bin"
        programs.mkdir()
        own = ("python", "dvc", "alzmri", "torchrun")
        for name in own:
            words = f'"{sys.executable}" -IS "{CLIENT}" "{self.folder}" {name}'
            (programs / name).write_text(f'#!/bin/sh\nexec {words} "$@"\n')
            (programs / name).chmod(0o755)
        # `alzmri` looks for programs beside its Python.
        # Not for `python3`: by another folder's name it would be a Python without the packages.
        for path in Path(sys.executable).parent.iterdir():
            if path.name not in own and not path.name.startswith("python"):
                (programs / path.name).symlink_to(path)

    def start(
        self, words: Sequence[str], folder: Path, log: Path, variables: Mapping[str, str]
    ) -> Fork:
        """Fork ``python WORDS`` in ``folder``; it says all in ``log``."""
        order = {
            "words": list(words),
            "folder": str(folder),
            "environment": {**environment(), **variables},
            "umask": 0o022,
            "unbuffered": False,
            "executable": sys.executable,
            "descriptors": [0, 1, 2],
        }
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(self.folder / "socket"))
        with log.open("w") as out, Path(os.devnull).open() as nothing:
            streams = [nothing.fileno(), out.fileno(), out.fileno()]
            socket.send_fds(connection, [json.dumps(order).encode() + b"\n"], streams)
        replies = connection.makefile()
        return Fork(json.loads(replies.readline())["pid"], connection, replies)

    def close(self) -> None:
        """End it."""
        with self._server as server:
            assert server.stdin
            server.stdin.close()
        shutil.rmtree(self.folder, ignore_errors=True)
