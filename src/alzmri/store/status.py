"""What `alzmri store status` says."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from rich.filesize import decimal

from alzmri.store import ports, server, settings
from alzmri.store.check import StoreUnavailable, check


def describe(root: Path) -> Iterator[str]:
    """Yield the lines; raises `StoreUnavailable` after them when the remote does not answer."""
    remote = settings.default(root)
    yield f"remote    {remote.name}: {remote.url}"
    if remote.endpoint:
        yield f"endpoint  {remote.endpoint}"
    if remote.is_local:
        yield from _local(root)
    try:
        check(remote)
    except StoreUnavailable as error:
        remedy = ": run `alzmri store up`" if remote.is_local and not server.find(root) else ""
        raise StoreUnavailable(f"{error}{remedy}") from error
    yield f"health    the bucket {remote.bucket} answers"


def _local(root: Path) -> Iterator[str]:
    running = server.find(root)
    yield f"server    {f'process {running.process.pid}' if running else 'not running here'}"
    free = decimal(shutil.disk_usage(root).free)
    yield f"disk      {decimal(_size(server.folder(root)))} in {server.folder(root)}, {free} free"
    if running:
        filer = ports.of("filer", running.port)
        yield (
            f"note      port {filer} (the filer) asks for no key: other users of this "
            "machine can read the data there; nobody outside can"
        )


def _size(folder: Path) -> int:
    """Bytes on disk; files that the server removes meanwhile do not count."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_blocks * 512
        except FileNotFoundError:
            continue
    return total
