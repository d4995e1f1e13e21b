"""Results go to the receiver; while it takes none, they are sent again after growing pauses."""

import time
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

Receiver = tuple[str, str, int]
"""To whom results go: AE title, host, port."""
STORED = (0x0000, 0xB000, 0xB006, 0xB007)
"""Statuses of a C-STORE: done, or done with a warning."""
SECONDS = 30
"""For the receiver to answer."""
LONGEST_PAUSE = 60.0
"""Seconds between two attempts."""

SENT = Counter("alzmri_dicom_objects_sent", "Objects that the receiver has taken.")
FAILURES = Counter("alzmri_dicom_send_failures", "Attempts that left an object unsent.")
PAUSE = Gauge("alzmri_dicom_send_pause_seconds", "Before the next attempt; 0: nothing failed.")


class Sender:
    """Sends what is among the results of ``queue``, and waits when the receiver fails."""

    def __init__(self, aet: str, receiver: Receiver, queue: Queue) -> None:
        self._receiver, self._queue = receiver, queue
        self._pause = self._until = 0.0
        self._entity = AE(aet)
        for kind in (SecondaryCaptureImageStorage, Comprehensive3DSRStorage):
            self._entity.add_requested_context(kind, ImplicitVRLittleEndian)
        for name in ("acse", "dimse", "network", "connection"):
            setattr(self._entity, f"{name}_timeout", SECONDS)

    def send(self) -> None:
        """Send all results in one association; those that fail stay for the next attempt."""
        results = self._queue.results()
        if not results or time.monotonic() < self._until:
            return
        title, host, port = self._receiver
        association = self._entity.associate(host, port, ae_title=title)
        for result in results:
            if _takes(association, result):
                self._queue.mark_sent(result)
                SENT.inc()
        association.release()
        self._pause = min(max(2.0, 2 * self._pause), LONGEST_PAUSE) if self._queue.results() else 0
        self._until = time.monotonic() + self._pause
        PAUSE.set(self._pause)
        if self._pause:
            FAILURES.inc()
            terminal.warn(f"the receiver did not take all; next attempt in {self._pause:.0f} s")


def _takes(association: Association, result: Path) -> bool:
    """Whether the receiver has stored the object in the file ``result``."""
    if not association.is_established:
        return False
    try:
        return association.send_c_store(result).get("Status") in STORED
    except (RuntimeError, ValueError):  # the association broke, or it refused this kind of object
        return False
