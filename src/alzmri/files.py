"""Atomic writes: a kill at any moment leaves the old file or the new one, never half of one."""

import csv
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success fsync it and let it replace ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)  # the error of a full disk names no file
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_directory(path: Path) -> Iterator[Path]:
    """Yield an empty directory beside ``path``; on success put it in ``path``'s place.

    An existing ``path`` is moved aside just before and removed just after. A kill between the
    two renames leaves it aside, and the next call puts it back first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, aside = path.with_name(f".{path.name}.tmp"), path.with_name(f".{path.name}.old")
    if os.path.lexists(aside) and not os.path.lexists(path):
        aside.replace(path)
    for leftover in (temporary, aside):
        _remove(leftover)
    temporary.mkdir()
    try:
        yield temporary
        if os.path.lexists(path):
            path.replace(aside)
        temporary.replace(path)
    finally:
        _remove(temporary)
        if os.path.lexists(path):
            _remove(aside)


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content``."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, content: Any, *, decimals: int | None = None) -> None:
    """Write ``content`` as indented JSON with a final newline; ValueError for NaN.

    ``decimals`` rounds floats, because the last digits of a sum differ between processors, and a
    file that git or DVC compares must not differ.
    """
    if decimals is not None:
        text = json.dumps(content, allow_nan=False)
        content = json.loads(text, parse_float=lambda number: round(float(number), decimals))
    write_bytes(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Iterable[object]]) -> None:
    """Write ``rows`` under ``header`` as UTF-8 CSV with plain line ends."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
