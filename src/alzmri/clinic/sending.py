"""Results go to the receiver; what it does not take is sent again after growing pauses."""

import time
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import Counter, Gauge
from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    Comprehensive3DSRStorage,
    SecondaryCaptureImageStorage,
)

from alzmri import terminal
from alzmri.clinic.queue import Queue

STORED = (0x0000, 0xB000, 0xB006, 0xB007)
"""Statuses of a C-STORE: done, or done with a warning."""
SECONDS = 30
"""For the receiver to answer."""
LONGEST_PAUSE = 300
"""Seconds between two attempts."""

SENT = Counter("alzmri_dicom_objects_sent", "Objects that the receiver has taken.")
FAILURES = Counter("alzmri_dicom_send_failures", "Attempts to send that failed.")
PAUSE = Gauge("alzmri_dicom_send_pause_seconds", "The longest pause now; 0: nothing failed.")


Receiver = tuple[str, str, int]
"""To whom results go: AE title, host, port."""


@dataclass
class _Pause:
    """After the nth failure in a row 2ⁿ seconds."""

    seconds: float = 0
    until: float = 0

    def lengthen(self) -> None:
        self.seconds = min(max(2.0, 2 * self.seconds), LONGEST_PAUSE)
        self.until = time.monotonic() + self.seconds


class Sender:
    """Sends what is in ``queue`` and knows what failed: the receiver as a whole, or an object."""

    def __init__(self, aet: str, receiver: Receiver, queue: Queue, *, keep: bool) -> None:
        self._entity = AE(aet)
        self._receiver, self._queue, self._keep = receiver, queue, keep
        self._pauses: dict[str, _Pause] = {}
        for kind in (SecondaryCaptureImageStorage, Comprehensive3DSRStorage):
            self._entity.add_requested_context(kind, ImplicitVRLittleEndian)
        for name in ("acse", "dimse", "network", "connection"):
            setattr(self._entity, f"{name}_timeout", SECONDS)

    def send(self) -> None:
        """Send each object that waits for no pause, in one association."""
        due = [path for path in self._queue.results() if self._is_due("", path.name)]
        if due:
            title, host, port = self._receiver
            association = self._entity.associate(host, port, ae_title=title)
            for path in due:
                if not association.is_established:
                    self._failed("")
                    pause = self._pauses[""].seconds
                    terminal.warn(f"the receiver does not answer; next attempt in {pause:.0f} s")
                    break
                self._pauses.pop("", None)
                if _takes(association, path):
                    self._queue.mark_sent(path, keep=self._keep)
                    self._pauses.pop(path.name, None)
                    SENT.inc()
                else:
                    self._failed(path.name)
            association.release()
        PAUSE.set(max((pause.seconds for pause in self._pauses.values()), default=0))

    def _is_due(self, *names: str) -> bool:
        pauses = (self._pauses[name] for name in names if name in self._pauses)
        return all(pause.until <= time.monotonic() for pause in pauses)

    def _failed(self, name: str) -> None:
        FAILURES.inc()
        self._pauses.setdefault(name, _Pause()).lengthen()


def _takes(association: Association, path: Path) -> bool:
    """Whether the receiver has stored the object in ``path``."""
    try:
        status = association.send_c_store(path)
    except (RuntimeError, ValueError):  # the association broke, or it refused this kind of object
        return False
    return status.get("Status") in STORED
