"""Checks of the machine: Python, the environment, disk and permissions."""

import shutil
import sys
import tempfile
from pathlib import Path

from rich.filesize import decimal

from alzmri.doctor.finding import Finding, fail, ok, warn

SUPPORTED = ((3, 11), (3, 12))
ENOUGH_BYTES = 5 * 10**9
TOO_FEW_BYTES = 10**9


def python_version(version: tuple[int, int] = sys.version_info[:2]) -> Finding:
    """The pinned packages exist for two versions of Python."""
    text = ".".join(map(str, version))
    if version in SUPPORTED:
        return ok("python", text)
    return fail("python", f"version {text}", "install Python 3.11 or 3.12, then `make setup`")


def environment() -> Finding:
    """The environment's programs come first on PATH.

    DVC starts stages with a bare `python` and queue workers with a bare `dvc`: without this they
    run the system's, and a queue hangs.
    """
    programs = Path(sys.executable).parent
    for name in ("python", "dvc"):
        found = shutil.which(name)
        if found is None or not Path(found).parent.samefile(programs):
            message = f"`{name}` is {found or 'not on PATH'}, not the one in {programs}"
            return fail("environment", message, f"run `. {programs}/activate`")
    return ok("environment", f"{programs} is first on PATH")


def disk(root: Path) -> Finding:
    """Room for weights, the cache and the store."""
    free = shutil.disk_usage(root).free
    message = f"{decimal(free)} free"
    if free >= ENOUGH_BYTES:
        return ok("disk", message)
    report = fail if free < TOO_FEW_BYTES else warn
    return report("disk", message, "free some space; `dvc gc --workspace` drops old results")


def writable(folder: Path) -> Finding:
    """Files can be made in ``folder``: tried, because permissions alone do not tell."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return ok("permissions", f"{folder} can be written")
    except OSError as error:
        message = f"{folder} cannot be written: {error.strerror}"
        return fail("permissions", message, f"run `ls -ld {folder}` and make it yours")
