"""The queue on disk. Every step is a rename or an atomic write: a kill loses and doubles nothing.

    incoming/SERIES/*.dcm   images of a series that may still grow
    ready/TIME-SERIES/      a complete series, to be answered
    results/UID.dcm         an object of an answer, to be sent
    sent/UID                an empty marker: this object has been sent
    done/                   answered, being removed;  kept/ with --keep
    failed/                 series that could not even be answered with a report

SERIES is a hash of the UIDs: no name here tells whose images these are.
"""

import os
import shutil
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from alzmri.files import write_bytes

REMEMBERED = 24 * 3600
"""Seconds for which a sent object is not sent again, when its series comes again."""
FOLDERS = ("incoming", "ready", "results", "sent", "done", "kept", "failed")


@dataclass
class Queue:
    """The folder ``root``, for one node at a time.

    Attributes:
        root: the folder.
        keep: images and results, once they are answered and sent.
        max_images: of one series.
        max_bytes: of all files that wait.
        held: bytes that wait, as of the last :meth:`tidy` and what was stored since.
    """

    root: Path
    keep: bool
    max_images: int
    max_bytes: int
    held: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def open(self) -> None:
        """Make the folders, for this user only; finish what a kill has left half done."""
        for name in FOLDERS:
            (self.root / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        for half in self.root.rglob("*.tmp"):
            half.unlink()
        for series in self._in("incoming"):
            os.utime(series)  # whoever was sending gets the whole quiet time to go on
        self.tidy()

    def store(self, series: str, image: str, content: bytes) -> bool:
        """Keep an image, on the disk when this returns; False when a limit is reached."""
        with self._lock:
            folder = self.root / "incoming" / series
            if not folder.exists():
                folder.mkdir()
                _sync(folder.parent)
            path = folder / f"{image}.dcm"
            full = len(list(folder.iterdir())) >= self.max_images and not path.exists()
            if full or self.held + len(content) > self.max_bytes:
                return False
            self._write(path, content)
            self.held += len(content)
            return True

    def complete(self, quiet: float) -> None:
        """Make each series ready that got no image for ``quiet`` seconds."""
        for folder in self._in("incoming"):
            with self._lock:
                if time.time() - folder.stat().st_mtime < quiet:
                    continue
                if any(folder.glob("*.dcm")):
                    self._move(folder, "ready", f"{time.time_ns()}-{folder.name}")
                else:  # its first image was refused
                    shutil.rmtree(folder)

    def ready(self) -> list[Path]:
        """The complete series, the oldest first."""
        return self._in("ready")

    def finish(self, series: Path, objects: dict[str, bytes] | None) -> None:
        """Put the answer to ``series`` among the results, then take the series away."""
        for uid, content in (objects or {}).items():
            if not (self.root / "sent" / uid).exists():
                self._write(self.root / "results" / f"{uid}.dcm", content)
        self._move(
            series, "failed" if objects is None else "kept" if self.keep else "done", series.name
        )

    def results(self) -> list[Path]:
        """The objects to send, the oldest first."""
        return sorted(self._in("results"), key=lambda path: path.stat().st_mtime_ns)

    def mark_sent(self, result: Path) -> None:
        """The receiver has ``result``: never send it again."""
        self._write(self.root / "sent" / result.stem, b"")
        if self.keep:
            self._move(result, "kept", result.name)
        else:
            result.unlink()

    def tidy(self) -> None:
        """Remove what is answered, forget old markers, count the bytes that wait."""
        for series in self._in("done"):
            shutil.rmtree(series)
        for marker in self._in("sent"):
            if time.time() - marker.stat().st_mtime > REMEMBERED:
                marker.unlink()
        with self._lock:
            waiting = (p for name in ("incoming", "ready", "results") for p in self._files(name))
            self.held = sum(path.stat().st_size for path in waiting)

    def count(self, name: str) -> int:
        """How many series or objects are in one of the ``FOLDERS``."""
        return len(self._in(name))

    def _in(self, name: str) -> list[Path]:
        return sorted((self.root / name).iterdir())

    def _files(self, name: str) -> list[Path]:
        return [path for path in (self.root / name).rglob("*.dcm") if path.is_file()]

    def _write(self, path: Path, content: bytes) -> None:
        write_bytes(path, content)
        _sync(path.parent)

    def _move(self, path: Path, to: str, name: str) -> None:
        path.replace(self.root / to / name)
        _sync(self.root / to)


def _sync(folder: Path) -> None:
    """Have the names in ``folder`` on the disk: a power cut must not lose an acknowledged image."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
