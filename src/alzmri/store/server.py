"""Find, start and stop the local SeaweedFS server.

It recognises the server in the process table by the data folder on its command line, which no other
program has. A pid file could become stale and name another process.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit
from urllib.request import urlopen

import psutil
from filelock import FileLock, Timeout

from alzmri import aws
from alzmri.errors import EnvironmentFault, UserError
from alzmri.store import remotes
from alzmri.store.remotes import HIGHEST_PORT, LOCAL, LOWEST_PORT, SECONDS, Remote, StoreUnavailable

PARTS = ("s3", "filer", "master", "volume", "admin")
"""Each part has one of five ports in a row, and 10000 above it one for gRPC. Without explicit
ports, the server silently takes the next free ones."""
GRPC_OFFSET = 10_000
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
    # With GOMEMLIMIT these limit it to about 200 MB instead of 1 GB.
    "-s3.cacheCapacityMB=16",
    "-s3.readerCacheSizeMB=64",
]


class RunningServer(NamedTuple):
    """The running server of this repository, and the first of its ports."""

    process: psutil.Process
    port: int


def folder(root: Path) -> Path:
    """The folder of the server's data, log and lock; git ignores it."""
    return root / ".store"


def find(root: Path) -> RunningServer | None:
    """This repository's server, if it runs."""
    data = f"-dir={folder(root) / 'data'}"
    for process in psutil.process_iter(["name", "cmdline"]):
        words = process.info["cmdline"] or []
        if process.info["name"] == "weed" and data in words:
            port = next(word.partition("=")[2] for word in words if word.startswith("-s3.port="))
            return RunningServer(process, int(port))
    return None


def up(root: Path, port: int | None = None) -> tuple[Remote, str]:
    """Start the local store unless it is up; return its remote, and what happened in words."""
    with _lock(root):
        remote = remotes.named(root)
        if running := find(root):
            if port not in {None, running.port}:
                raise UserError(
                    f"the store is already up on port {running.port}: run `alzmri store down` first"
                )
            try:
                remote.check()
            except StoreUnavailable as error:
                why = "the store is up, but refuses our key or does not answer"
                raise EnvironmentFault(f"{why}: run `alzmri store down`, then `up`") from error
            return remote, "already up"
        port = port or urlsplit(remote.endpoint or "").port or LOWEST_PORT
        wanted = Remote(LOCAL, {**remote.values, "endpointurl": f"http://127.0.0.1:{port}"})
        if wanted.keys:
            with suppress(StoreUnavailable):
                # A clone with a copy of this config.local shares the server; the keys prove it.
                wanted.check()
                return remotes.save_local(root, wanted), "already up, started from another checkout"
        weed = _weed()
        require_free(port)
        ready = remotes.save_local(root, wanted)
        _start(weed, root, ready, port)
        return ready, "started"


def down(root: Path) -> bool:
    """Stop this repository's server; False when there was none."""
    with _lock(root):
        if running := find(root):
            _stop(running)
        return running is not None


def require_free(port: int) -> None:
    """Raise `EnvironmentFault` with the first used port of the block, and another block."""
    for number in _block(port):
        with socket.socket() as probe:
            # Like the server: a connection in TIME_WAIT does not occupy the port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", number))
            except OSError:
                end = port + len(PARTS)
                other = end if end <= HIGHEST_PORT else LOWEST_PORT
                raise EnvironmentFault(
                    f"port {number} on 127.0.0.1 is taken by another program, but the store needs"
                    f" {port} to {end - 1}, and each + {GRPC_OFFSET}: run `alzmri store up --port"
                    f" {other}`"
                ) from None


def remove_sockets(port: int) -> None:
    """Remove the Unix sockets of an ended server of this block, which it never removes all."""
    for number in _block(port):
        for path in Path("/tmp").glob(f"seaweedfs-*-{number}.sock"):  # noqa: S108 - the server's choice
            path.unlink(missing_ok=True)


def _block(port: int) -> list[int]:
    return [n for first in (port, port + GRPC_OFFSET) for n in range(first, first + len(PARTS))]


def _weed() -> Path:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    if found := shutil.which("weed", path=path):
        return Path(found)
    raise EnvironmentFault("the program `weed` is missing: `make setup` installs it")


def _start(weed: Path, root: Path, remote: Remote, port: int) -> None:
    data, details, log = (folder(root) / name for name in ("data", "details", "log"))
    data.mkdir(exist_ok=True)
    details.mkdir(exist_ok=True)
    assert remote.keys, "a server without keys admits everyone"
    keys = dict(zip(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), remote.keys, strict=True))
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "S3_", "WEED_"))}
    bucket, _ = aws.split(remote.url)
    # The log is not in /tmp, where everyone can read the name of the key.
    words = [str(weed), f"-logdir={details}", "mini", f"-dir={data}", f"-bucket={bucket}"]
    words += _OPTIONS
    for number, part in enumerate(PARTS, port):
        words += [f"-{part}.port={number}", f"-{part}.port.grpc={number + GRPC_OFFSET}"]
    try:
        with log.open("wb") as output:
            process = psutil.Popen(
                words,
                cwd=folder(root),
                env={**kept, **keys, "GOMEMLIMIT": "300MiB"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # In its own session it outlives the terminal and ignores its Ctrl-C.
                start_new_session=True,
            )
        _wait_until_ready(process, remote, port, log)
    except BaseException:
        # Also when interrupted, or an unready server would stay. Look it up, because the
        # interruption may have come before Popen returned.
        if started := find(root):
            _stop(started)
        remove_sockets(port)
        raise


def _wait_until_ready(process: psutil.Popen, remote: Remote, port: int, log: Path) -> None:
    """Wait until volumes are up and our key opens the bucket, which shows that it is ours."""
    deadline, reason = time.monotonic() + START_SECONDS, ""
    while time.monotonic() < deadline:
        with suppress(psutil.TimeoutExpired):
            status = process.wait(timeout=0.1)
            # After the reason, Go prints the state of all its threads.
            said = log.read_text(encoding="utf-8", errors="replace").partition("\ngoroutine ")[0]
            why = said.strip().rpartition("\n")[2].strip() or "without a message"
            raise EnvironmentFault(f"the store ended at once (status {status}): {why} (log: {log})")
        try:
            remote.check()
        except StoreUnavailable as error:
            reason = str(error)
            continue
        if _has_volumes(port):
            return
        reason = "its volume server is not up"
    raise EnvironmentFault(f"the store is not ready after {START_SECONDS} s: {reason} (log: {log})")


def _has_volumes(port: int) -> bool:
    """Whether the master knows the volume server, without which no object is readable.

    Its first heartbeat fails in one start of ten, and the next comes five seconds later.
    """
    address = f"http://127.0.0.1:{port + PARTS.index('master')}/dir/status"
    with suppress(OSError), urlopen(address, timeout=SECONDS) as answer:
        return bool(json.load(answer)["Topology"]["DataCenters"])
    return False


def _stop(running: RunningServer) -> None:
    for ask in (running.process.terminate, running.process.kill):
        with suppress(psutil.NoSuchProcess):
            ask()
        with suppress(psutil.TimeoutExpired):
            running.process.wait(STOP_SECONDS)
            return remove_sockets(running.port)
    raise EnvironmentFault(f"the store (process {running.process.pid}) does not end")


@contextmanager
def _lock(root: Path) -> Iterator[None]:
    folder(root).mkdir(mode=0o700, exist_ok=True)
    try:
        with FileLock(folder(root) / "lock", timeout=_LOCK_SECONDS):
            yield
    except Timeout as error:
        raise EnvironmentFault("another `alzmri store` command is running: try again") from error
