"""The local SeaweedFS server: found, started, stopped.

There is no pid file, because one can go stale and name a stranger. The server is found in the
process table by its data folder, which no other program has on its command line.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import NamedTuple

import psutil
from filelock import FileLock, Timeout

from alzmri.errors import EnvironmentFault, UserError
from alzmri.store import ports, settings
from alzmri.store.check import SECONDS, StoreUnavailable, check, proxied
from alzmri.store.settings import Remote

START_SECONDS = 40
STOP_SECONDS = 10
_LOCK_SECONDS = START_SECONDS + 2 * STOP_SECONDS
_OPTIONS = [
    "-ip=127.0.0.1",
    "-ip.bind=127.0.0.1",
    "-admin.ui=false",
    "-webdav=false",
    "-s3.port.iceberg=0",
    "-s3.port.lance=0",
    "-master.telemetry=false",
    # With GOMEMLIMIT these keep it at about 200 MB; by default it takes a gigabyte.
    "-s3.cacheCapacityMB=16",
    "-s3.readerCacheSizeMB=64",
]


class Running(NamedTuple):
    """A server of this repository, alive."""

    process: psutil.Process
    port: int


def folder(root: Path) -> Path:
    """Where the server's data, log and lock are; git ignores it."""
    return root / ".store"


def find(root: Path) -> Running | None:
    """This repository's server, if one is alive."""
    data = f"-dir={folder(root) / 'data'}"
    for process in psutil.process_iter(["name", "cmdline"]):
        words = process.info["cmdline"] or []
        if process.info["name"] == "weed" and data in words:
            port = next(word.partition("=")[2] for word in words if word.startswith("-s3.port="))
            return Running(process, int(port))
    return None


def up(root: Path, port: int | None = None) -> tuple[Remote, str]:
    """Have the local store answer, starting it if need be, and say which; it stays up.

    Raises `UserError` when it already runs on another port than the one asked for, and
    `EnvironmentFault` when a port is taken, a proxy is in between, or the server is missing, ends,
    or does not open its bucket in time.
    """
    with _lock(root):
        remote = settings.local(root)
        if running := find(root):
            return _running(remote, running, port), "already up"
        wanted = remote.at_port(port or remote.port)
        if _answers(wanted):
            # A clone that was given this config.local shares the server; the keys prove it.
            return settings.save_local(root, wanted), "already up, started from another checkout"
        if proxied(wanted):
            raise EnvironmentFault(
                "HTTP_PROXY sends even 127.0.0.1 to a proxy: run `export NO_PROXY=127.0.0.1`"
            )
        weed = _weed()
        ports.require_free(wanted.port)
        ready = settings.save_local(root, wanted)
        _start(weed, root, ready)
        return ready, "started"


def down(root: Path) -> bool:
    """Stop this repository's server; False when there was none.

    Raises `EnvironmentFault` when it outlives SIGKILL.
    """
    with _lock(root):
        running = find(root)
        if running:
            _stop(running)
        return running is not None


def _running(remote: Remote, running: Running, port: int | None) -> Remote:
    if port not in {None, running.port}:
        raise UserError(
            f"the store is already up on port {running.port}: run `alzmri store down` first"
        )
    try:
        check(remote)
    except StoreUnavailable as error:
        remedy = "run `alzmri store down`, then `alzmri store up`"
        raise EnvironmentFault(f"the store runs, but {error}: {remedy}") from error
    return remote


def _answers(remote: Remote) -> bool:
    if not (remote.key and remote.secret):
        return False
    with suppress(StoreUnavailable):
        check(remote)
        return True
    return False


def _weed() -> Path:
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.is_file() else shutil.which("weed")
    if not found:
        raise EnvironmentFault("the program `weed` is missing: run `make setup` to install it")
    return Path(found)


def _start(weed: Path, root: Path, remote: Remote) -> None:
    data, details, log = (folder(root) / name for name in ("data", "details", "log"))
    data.mkdir(exist_ok=True)
    details.mkdir(exist_ok=True)
    try:
        with log.open("wb") as output:
            process = psutil.Popen(
                [
                    str(weed),
                    # By default these, with the name of the key, are in /tmp for all to read.
                    f"-logdir={details}",
                    "mini",
                    f"-dir={data}",
                    f"-bucket={remote.bucket}",
                    *ports.options(remote.port),
                    *_OPTIONS,
                ],
                cwd=folder(root),
                env=_environment(remote),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Its own session: it outlives the terminal, and Ctrl-C there is not for it.
                start_new_session=True,
            )
        _wait_until_ready(process, remote, log)
    except BaseException:
        # Also when interrupted: nobody would know of a server that never got ready. Looked up,
        # because the interruption may have come before Popen returned.
        if started := find(root):
            _stop(started)
        ports.sweep(remote.port)
        raise


def _environment(remote: Remote) -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "S3_", "WEED_"))}
    if not (remote.key and remote.secret):
        # Without keys the server would let everyone in.
        raise EnvironmentFault("the local store has no keys in .dvc/config.local")
    return inherited | {
        "AWS_ACCESS_KEY_ID": remote.key,
        "AWS_SECRET_ACCESS_KEY": remote.secret,
        "GOMEMLIMIT": "300MiB",
    }


def _wait_until_ready(process: psutil.Popen, remote: Remote, log: Path) -> None:
    """Return once our key opens the bucket, only our server knows it, and objects can be read."""
    deadline = time.monotonic() + START_SECONDS
    reason = ""
    while time.monotonic() < deadline:
        with suppress(psutil.TimeoutExpired):
            status = process.wait(timeout=0.1)
            raise EnvironmentFault(
                f"the store ended at once (status {status}): {_last_words(log)} (log: {log})"
            )
        try:
            check(remote)
        except StoreUnavailable as error:
            reason = str(error)
            continue
        if _has_volumes(remote.port):
            return
        reason = "its volume server is not there"
    raise EnvironmentFault(f"the store is not ready after {START_SECONDS} s: {reason} (log: {log})")


def _has_volumes(port: int) -> bool:
    """Whether the master has heard of the volume server.

    Its first heartbeat fails in one start of ten, and the next comes five seconds later. Until then
    the bucket is listed already, but what is in it cannot be read.
    """
    master = HTTPConnection("127.0.0.1", ports.of("master", port), timeout=SECONDS)
    with suppress(OSError), closing(master):
        master.request("GET", "/dir/status")
        return bool(json.load(master.getresponse())["Topology"]["DataCenters"])
    return False


def _last_words(log: Path) -> str:
    # Go prints the state of all its threads after the reason.
    said = log.read_text(encoding="utf-8", errors="replace").partition("\ngoroutine ")[0]
    return said.strip().rpartition("\n")[2].strip() or "it said nothing"


def _stop(running: Running) -> None:
    for ask in (running.process.terminate, running.process.kill):
        with suppress(psutil.NoSuchProcess):
            ask()
        with suppress(psutil.TimeoutExpired):
            running.process.wait(STOP_SECONDS)
            return ports.sweep(running.port)
    raise EnvironmentFault(f"the store (process {running.process.pid}) does not end")


@contextmanager
def _lock(root: Path) -> Iterator[None]:
    try:
        folder(root).mkdir(mode=0o700, exist_ok=True)
    except FileExistsError as error:
        raise UserError(
            f"{folder(root)} is no folder, but the store keeps its data there: move it away"
        ) from error
    try:
        with FileLock(folder(root) / "lock", timeout=_LOCK_SECONDS):
            yield
    except Timeout as error:
        raise EnvironmentFault("another `alzmri store` command is at work: try again") from error
