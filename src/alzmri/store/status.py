"""What `alzmri store status` says."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from alzmri.store import ports, server, settings
from alzmri.store.check import StoreUnavailable, check


def describe(root: Path) -> dict[str, Any]:
    """``remote``, ``url``, ``bucket``, ``endpoint``, ``answers``, and ``error`` when it does not.

    Of the local store ``process`` (None while it is down), ``folder``, ``bytes`` on disk,
    ``free_bytes``, ``filer_port`` too.
    """
    remote = settings.default(root)
    found: dict[str, Any] = {
        "remote": remote.name,
        "url": remote.url,
        "bucket": remote.bucket,
        "endpoint": remote.endpoint,
    }
    remedy = ""
    if remote.is_local:
        running = server.find(root)
        found |= {
            "process": running.process.pid if running else None,
            "folder": str(server.folder(root)),
            "bytes": _size(server.folder(root)),
            "free_bytes": shutil.disk_usage(root).free,
            "filer_port": ports.of("filer", running.port) if running else None,
        }
        remedy = "" if running else ": run `alzmri store up`"
    try:
        check(remote)
    except StoreUnavailable as error:
        return found | {"answers": False, "error": f"{error}{remedy}"}
    return found | {"answers": True}


def lines(found: dict[str, Any]) -> Iterator[str]:
    """What `describe` found, for people."""
    yield f"remote    {found['remote']}: {found['url']}"
    if found["endpoint"]:
        yield f"endpoint  {found['endpoint']}"
    if "folder" in found:
        process = found["process"]
        yield f"server    {f'process {process}' if process else 'not running here'}"
        size, free = decimal(found["bytes"]), decimal(found["free_bytes"])
        yield f"disk      {size} in {found['folder']}, {free} free"
        if process:
            yield (
                f"note      port {found['filer_port']} (the filer) asks for no key: other users of"
                " this machine can read the data there; nobody outside can"
            )
    if found["answers"]:
        yield f"health    the bucket {found['bucket']} answers"


def _size(folder: Path) -> int:
    """Bytes on disk; files that the server removes meanwhile do not count."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_blocks * 512
        except FileNotFoundError:
            continue
    return total
