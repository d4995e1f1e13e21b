"""The ports of one local store: five in a row for HTTP, and for gRPC each of them + 10000.

All are given to the server explicitly: left to itself it moves silently to the next free one, and
its parts look for each other's gRPC port at +10000 whatever the options say.
"""

import errno
import socket
from collections.abc import Iterator
from pathlib import Path

from alzmri.errors import EnvironmentFault

PARTS = ("s3", "filer", "master", "volume", "admin")
GRPC_OFFSET = 10_000
LOWEST, HIGHEST = 1024, 65_535 - GRPC_OFFSET - len(PARTS)


def of(part: str, port: int) -> int:
    """The HTTP port of one of ``PARTS`` in the block that begins with ``port``."""
    return port + PARTS.index(part)


def options(port: int) -> list[str]:
    """The server's options for the block of ports that begins with ``port``."""
    return [
        option
        for part, number in zip(PARTS, range(port, port + len(PARTS)), strict=True)
        for option in (f"-{part}.port={number}", f"-{part}.port.grpc={number + GRPC_OFFSET}")
    ]


def require_free(port: int) -> None:
    """Raise `EnvironmentFault` naming the first taken port of the block, and a free block."""
    taken = _taken(port)
    if taken is None:
        return
    block = f" (the store needs {port} to {port + len(PARTS) - 1}, and each + {GRPC_OFFSET})"
    raise EnvironmentFault(
        f"port {taken} on 127.0.0.1 is taken by another program{'' if taken == port else block}: "
        f"run `alzmri store up --port {_free_block(port)}`"
    )


def sweep(port: int) -> None:
    """Remove the Unix sockets that an ended server of this block left; it always leaves one."""
    for number in _block(port):
        for path in Path("/tmp").glob(f"seaweedfs-*-{number}.sock"):  # noqa: S108 - its choice
            path.unlink(missing_ok=True)


def _block(port: int) -> Iterator[int]:
    for number in range(port, port + len(PARTS)):
        yield number
        yield number + GRPC_OFFSET


def _taken(port: int) -> int | None:
    return next((number for number in _block(port) if not _is_free(number)), None)


def _free_block(port: int) -> int:
    step = len(PARTS)
    candidates = [*range(port + step, HIGHEST, step), *range(LOWEST, port - step, step)]
    return next((start for start in candidates if _taken(start) is None), port)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As the server does: a connection still in TIME_WAIT does not hold the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            if error.errno in {errno.EADDRINUSE, errno.EACCES}:
                return False
            raise
    return True
