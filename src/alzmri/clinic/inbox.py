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

from prometheus_client import Counter, Gauge
from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    Comprehensive3DSRStorage,
    SecondaryCaptureImageStorage,
)

from alzmri import terminal
from alzmri.files import write_bytes

REMEMBERED = 24 * 3600
"""Seconds during which a sent object is not sent again, even if its series comes again."""
FOLDERS = ("incoming", "ready", "results", "sent", "done", "kept", "failed")
STORED = (0x0000, 0xB000, 0xB006, 0xB007)  # statuses of a C-STORE: done, or done with a warning
SECONDS = 30  # for the receiver to answer
LONGEST_PAUSE = 60.0  # seconds between two attempts to send

SENT = Counter("alzmri_dicom_objects_sent", "Objects that the receiver has taken.")
FAILURES = Counter("alzmri_dicom_send_failures", "Attempts that left an object unsent.")
PAUSE = Gauge("alzmri_dicom_send_pause_seconds", "Before the next attempt; 0: nothing failed.")


class Inbox:
    """The folder ``root``, for one node at a time.

    ``max_images`` limits one series, ``max_bytes`` everything that waits; ``keep`` keeps images and
    results after they are answered and sent.
    """

    def __init__(self, root: Path, keep: bool, max_images: int, max_bytes: int) -> None:
        self.root, self.keep = root, keep
        self.held = 0  # waiting bytes: those of the last tidy() and those stored since
        self._max_images, self._max_bytes = max_images, max_bytes
        self._lock = threading.Lock()

    def open(self) -> None:
        """Make the folders, for this user only; complete steps that a kill interrupted."""
        for name in FOLDERS:
            (self.root / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        for half in self.root.rglob("*.tmp"):
            half.unlink()
        for series in self.contents("incoming"):
            os.utime(series)  # its sender gets the whole quiet time to continue
        self.tidy()

    def contents(self, name: str) -> list[Path]:
        """The content of one of the ``FOLDERS``; complete series are sorted, the oldest first."""
        return sorted((self.root / name).iterdir())

    def store(self, series: str, image: str, content: bytes) -> bool:
        """Write an image to the disk; return False when a limit is reached."""
        with self._lock:
            folder = self.root / "incoming" / series
            if not folder.exists():
                folder.mkdir()
                _sync(folder.parent)
            path = folder / f"{image}.dcm"
            full = len(list(folder.iterdir())) >= self._max_images and not path.exists()
            if full or self.held + len(content) > self._max_bytes:
                return False
            _write(path, content)
            self.held += len(content)
            return True

    def complete(self, quiet: float) -> None:
        """Make each series ready that got no image for ``quiet`` seconds."""
        for folder in self.contents("incoming"):
            with self._lock:
                if time.time() - folder.stat().st_mtime < quiet:
                    continue
                if any(folder.glob("*.dcm")):
                    self._move(folder, "ready", f"{time.time_ns()}-{folder.name}")
                else:  # its first image was refused
                    shutil.rmtree(folder)

    def finish(self, series: Path, objects: dict[str, bytes] | None) -> None:
        """Put the answer to ``series`` among the results, then take the series away."""
        for uid, content in (objects or {}).items():
            if not (self.root / "sent" / uid).exists():
                _write(self.root / "results" / f"{uid}.dcm", content)
        to = "failed" if objects is None else "kept" if self.keep else "done"
        self._move(series, to, series.name)

    def mark_sent(self, result: Path) -> None:
        """The receiver has ``result``: never send it again."""
        _write(self.root / "sent" / result.stem, b"")
        if self.keep:
            self._move(result, "kept", result.name)
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

    def _move(self, path: Path, to: str, name: str) -> None:
        path.replace(self.root / to / name)
        _sync(self.root / to)


def _write(path: Path, content: bytes) -> None:
    write_bytes(path, content)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    """Sync the names in ``folder``: a power cut must not lose an acknowledged image."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class ResultSender:
    """Sends the results in ``inbox`` to a receiver: AE title, host, port. Waits when it fails."""

    def __init__(self, aet: str, receiver: tuple[str, str, int], inbox: Inbox) -> None:
        self._receiver, self._inbox = receiver, inbox
        self._pause = self._until = 0.0
        self._entity = AE(aet)
        for kind in (SecondaryCaptureImageStorage, Comprehensive3DSRStorage):
            self._entity.add_requested_context(kind, ImplicitVRLittleEndian)
        for name in ("acse", "dimse", "network", "connection"):
            setattr(self._entity, f"{name}_timeout", SECONDS)

    def send(self) -> None:
        """Send all results in one association; those that fail stay for the next attempt."""
        results = self._inbox.contents("results")
        if not results or time.monotonic() < self._until:
            return
        title, host, port = self._receiver
        association = self._entity.associate(host, port, ae_title=title)
        for result in results if association.is_established else ():
            try:
                if association.send_c_store(result).get("Status") not in STORED:
                    continue
            except (RuntimeError, ValueError):  # it broke, or it refused this kind of object
                continue
            self._inbox.mark_sent(result)
            SENT.inc()
        association.release()
        failed = bool(self._inbox.contents("results"))
        self._pause = min(max(2.0, 2 * self._pause), LONGEST_PAUSE) if failed else 0
        self._until = time.monotonic() + self._pause
        PAUSE.set(self._pause)
        if failed:
            FAILURES.inc()
            late = f"next attempt in {self._pause:.0f} s"
            terminal.warn(f"the receiver did not accept all results; {late}")
