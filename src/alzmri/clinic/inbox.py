"""Series and results on disk. Every step is a rename or an atomic write: a kill loses nothing.

    incoming/SERIES/*.dcm   images of a series that may still grow
    ready/TIME-SERIES/      a complete series, to be answered
    results/UID.dcm         an object of an answer, to be sent
    sent/UID                an empty marker: this object has been sent
    done/                   answered series, being removed;  kept/ with --keep
    failed/                 series that could not even be answered with a report

SERIES is a hash of the UIDs, so that no name identifies a patient.
"""

import os
import shutil
import threading
import time
from pathlib import Path

from alzmri.files import write_bytes

REMEMBERED = 24 * 3600  # seconds before an object is sent again if its series comes again
MAX_IMAGES = 1000  # of one series
MAX_BYTES = 8 * 10**9  # of everything that waits
FOLDERS = ("incoming", "ready", "results", "sent", "done", "kept", "failed")


class Inbox:
    """The folder ``root``, for one node at a time; ``keep`` keeps answered images and results."""

    def __init__(self, root: Path, keep: bool) -> None:
        self.root, self.keep = root, keep
        self.held = 0  # waiting bytes: those of the last tidy() and those stored since
        self._lock = threading.Lock()

    def open(self) -> None:
        """Make the folders, for this user only; complete steps that a kill interrupted."""
        for name in FOLDERS:
            (self.root / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        for half in self.root.rglob("*.tmp"):
            half.unlink()
        for series in self.contents("incoming"):
            os.utime(series)  # its sender gets the whole quiet time to continue
        for result in self.contents("results"):
            if (self.root / "sent" / result.stem).exists():
                self.mark_sent(result)
        self.tidy()

    def contents(self, name: str) -> list[Path]:
        """The content of one of the ``FOLDERS``; complete series are sorted, the oldest first."""
        return sorted((self.root / name).iterdir())

    def store(self, series: str, image: str, content: bytes) -> bool:
        """Write an image to the disk; return False when a limit is reached."""
        with self._lock:
            path = self.root / "incoming" / series / f"{image}.dcm"
            full = len(list(path.parent.glob("*"))) >= MAX_IMAGES and not path.exists()
            if full or self.held + len(content) > MAX_BYTES:
                return False
            write_bytes(path, content)
            for folder in (path.parent, path.parent.parent):
                handle = os.open(folder, os.O_RDONLY)
                os.fsync(handle)  # of the names: a power cut must not lose an acknowledged image
                os.close(handle)
            self.held += len(content)
            return True

    def complete(self, quiet: float) -> None:
        """Make each series ready that got no image for ``quiet`` seconds."""
        for folder in self.contents("incoming"):
            with self._lock:
                if time.time() - folder.stat().st_mtime < quiet:
                    continue
                if any(folder.glob("*.dcm")):
                    folder.rename(self.root / "ready" / f"{time.time_ns()}-{folder.name}")
                else:  # writing its first image failed
                    shutil.rmtree(folder)

    def finish(self, series: Path, objects: dict[str, bytes] | None) -> None:
        """Put the answer to ``series`` among the results, then take the series away."""
        for uid, content in (objects or {}).items():
            if not (self.root / "sent" / uid).exists():
                write_bytes(self.root / "results" / f"{uid}.dcm", content)
        to = "failed" if objects is None else "kept" if self.keep else "done"
        series.rename(self.root / to / series.name)

    def mark_sent(self, result: Path) -> None:
        """The receiver has ``result``: never send it again."""
        (self.root / "sent" / result.stem).touch()
        if self.keep:
            result.rename(self.root / "kept" / result.name)
        else:
            result.unlink()

    def tidy(self) -> None:
        """Remove answered series and old markers, count the waiting bytes."""
        for series in self.contents("done"):
            shutil.rmtree(series)
        for marker in self.contents("sent"):
            if time.time() - marker.stat().st_mtime > REMEMBERED:
                marker.unlink()
        with self._lock:
            waiting = (self.root.glob(f"{n}/**/*.dcm") for n in ("incoming", "ready", "results"))
            self.held = sum(path.stat().st_size for paths in waiting for path in paths)
