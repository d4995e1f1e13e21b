"""The node: receives images in threads; completes, answers and sends series in the main thread."""

import hashlib
import io
import multiprocessing
import re
import threading
import zlib
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pydicom
from filelock import FileLock, Timeout
from prometheus_client import Counter, Gauge, start_http_server
from pydicom.pixels import decoders
from pydicom.uid import DeflatedExplicitVRLittleEndian, MRImageStorage
from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from alzmri import terminal
from alzmri.clinic.answer import Answer, work
from alzmri.clinic.queue import Queue
from alzmri.clinic.sending import Receiver, Sender
from alzmri.errors import EnvironmentFault, UserError
from alzmri.inference.volumes import confine

SUCCESS, FULL, NOT_UNDERSTOOD = 0x0000, 0xA700, 0xC000
"""Statuses of a C-STORE."""
MAX_IMAGE = 2**26
"""Bytes of one image, as it comes and as inflated; more ends the association."""
MEMORY = 2 * 2**30
"""Bytes of address space for all images that come at once; a caller's false lengths end there."""
NETWORK_SECONDS = 30
"""An association on which nothing comes for so long ends."""
REPORT_SECONDS = 60
"""For a report that reads headers only, after the prediction has failed."""
_IDENTITY = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
_UID = re.compile(r"[0-9.]{1,64}")

IMAGES = Counter("alzmri_dicom_images", "Images received, by what became of them.", ["outcome"])
SERIES = Counter("alzmri_dicom_series", "Series answered, by the answer.", ["answer"])
QUEUE = Gauge("alzmri_dicom_queue", "What is in each part of the queue.", ["part"])
BYTES = Gauge("alzmri_dicom_queue_bytes", "Bytes that wait in the queue.")


@dataclass(frozen=True)
class Listener:
    """Where the node listens, and to whom; see the help of ``alzmri dicom``."""

    aet: str
    host: str
    port: int
    accept: list[str]
    max_associations: int
    metrics_port: int


def run(
    listener: Listener,
    queue: Queue,
    receiver: Receiver | None,
    worker: "Worker",
    quiet_seconds: float,
) -> None:
    """Be the node until a signal comes; SIGTERM is no error.

    Raises:
        UserError: the model cannot be used, or another node has the queue.
        EnvironmentFault: a port is taken.
    """
    queue.root.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        lock = FileLock(queue.root / "lock").acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"another node uses {queue.root}: stop it, or give this one its own --queue"
        ) from None
    with lock, worker.running():
        queue.open()
        confine(MEMORY)
        sender = Sender(listener.aet, receiver, queue) if receiver else None
        # To be stopped by SIGTERM is how a node ends well.
        with suppress(SystemExit), _listening(listener, queue):
            while True:
                _step(queue, worker, sender, quiet_seconds)


def _step(queue: Queue, worker: "Worker", sender: Sender | None, quiet_seconds: float) -> None:
    """Complete what is quiet, answer one series, send what waits."""
    queue.complete(quiet_seconds)
    ready = queue.ready()
    if ready:
        answer = worker.answer(ready[0])
        queue.finish(ready[0], answer.objects if answer else None)
        said = "failed" if answer is None else "class" if answer.has_class else "no class"
        SERIES.labels(said).inc()
        terminal.say(f"series {ready[0].name.split('-')[1][:12]}: {said}")
    if sender:
        sender.send()
    queue.tidy()
    BYTES.set(queue.held)
    for part in ("incoming", "ready", "results", "failed"):
        QUEUE.labels(part).set(queue.count(part))
    if not ready:
        threading.Event().wait(min(1.0, quiet_seconds / 4))


class Worker:
    """The process of :func:`answer.work`, started again when it is lost."""

    def __init__(self, model: Path, slices: int, max_seconds: float) -> None:
        self._arguments, self._max_seconds = (model, slices), max_seconds

    @contextmanager
    def running(self) -> Iterator[None]:
        """Have the process, from when it can predict on."""
        self._start()
        try:
            yield
        finally:
            self._stop()

    def answer(self, series: Path) -> Answer | None:
        """The answer to ``series``; None when not even its headers can be read."""
        if not self._process.is_alive():  # not the fault of this series
            self._restart()
        answer, fault = self._ask(series, "", self._max_seconds)
        if fault:
            self._restart()
            answer, fault = self._ask(series, fault, REPORT_SECONDS)
        if fault:
            self._restart()
        return answer

    def _ask(self, series: Path, fault: str, seconds: float) -> tuple[Answer | None, str]:
        """The process's answer; or how this ask ended it or stalled it."""
        try:
            self._pipe.send((series, fault))
            if self._pipe.poll(seconds):
                return self._pipe.recv(), ""
        except (EOFError, ConnectionError):
            return None, "the images ended the process that reads them"
        return None, f"to predict took more than {seconds:.0f} s"

    def _restart(self) -> None:
        self._stop()
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=work, args=(other, *self._arguments), daemon=True)
        self._process.start()
        other.close()
        try:
            fault = self._pipe.recv()
        except EOFError:
            raise EnvironmentFault("the process that predicts ended while it started") from None
        if fault is not None:
            raise fault

    def _stop(self) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()


@contextmanager
def _listening(listener: Listener, queue: Queue) -> Iterator[None]:
    """Answer C-ECHO and C-STORE, and serve ``/metrics``, in threads."""
    entity = AE(listener.aet)
    entity.require_called_aet = True
    entity.require_calling_aet = listener.accept
    entity.maximum_associations = listener.max_associations
    entity.network_timeout = entity.acse_timeout = entity.dimse_timeout = NETWORK_SECONDS
    entity.add_supported_context(Verification)
    entity.add_supported_context(MRImageStorage, _readable())
    received: defaultdict[object, int] = defaultdict(int)

    def count(event: evt.Event) -> None:
        received[event.assoc] += len(event.data)
        if received[event.assoc] > MAX_IMAGE:
            event.assoc.abort()

    def store(event: evt.Event) -> int:
        received.pop(event.assoc, None)
        status = _store(event, queue)
        IMAGES.labels("refused" if status else "stored").inc()
        return status

    handlers: list[evt.EventHandlerType] = [
        (evt.EVT_C_STORE, store),
        (evt.EVT_DATA_RECV, count),
        (evt.EVT_CONN_CLOSE, lambda event: received.pop(event.assoc, None)),
    ]
    port = listener.port
    try:
        entity.start_server((listener.host, port), block=False, evt_handlers=handlers)
        if listener.metrics_port:
            port = listener.metrics_port
            start_http_server(port, "127.0.0.1")
    except OSError as error:
        raise EnvironmentFault(f"port {port}: {error.strerror}: choose another") from None
    terminal.say(f"{listener.aet} listens on {listener.host}:{listener.port}")
    try:
        yield
    finally:
        entity.shutdown()


def _readable() -> list[str]:
    """The transfer syntaxes that the volume reader decodes with the packages that are here."""
    known = (item for item in vars(decoders).values() if isinstance(item, decoders.base.Decoder))
    return [str(decoder.UID) for decoder in known if decoder.is_available]


def _store(event: evt.Event, queue: Queue) -> int:
    """Queue an image; the status that its sender gets."""
    try:
        if event.context.transfer_syntax == DeflatedExplicitVRLittleEndian:
            inflater = zlib.decompressobj(-zlib.MAX_WBITS)
            inflater.decompress(event.encoded_dataset(include_meta=False), MAX_IMAGE)
            if inflater.unconsumed_tail:
                return NOT_UNDERSTOOD
        content = event.encoded_dataset()
        header = pydicom.dcmread(io.BytesIO(content), specific_tags=list(_IDENTITY))
        study, series, image = (str(header[name].value) for name in _IDENTITY)
    except Exception:  # noqa: BLE001 - a damaged image can make pydicom raise anything
        return NOT_UNDERSTOOD
    if not all(_UID.fullmatch(uid) for uid in (study, series, image)):
        return NOT_UNDERSTOOD
    try:
        return SUCCESS if queue.store(_hash(study, series), _hash(image), content) else FULL
    except OSError:
        return FULL


def _hash(*uids: str) -> str:
    """What stands for ``uids`` in file names and in the log."""
    return hashlib.sha256("/".join(uids).encode()).hexdigest()[:32]
