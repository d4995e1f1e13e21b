"""The node: receives images in threads; completes, answers and sends series in the main thread."""

import hashlib
import io
import multiprocessing
import threading
import zlib
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pydicom
from filelock import FileLock, Timeout
from prometheus_client import Counter, Gauge, start_http_server
from pydicom.pixels.decoders import get_decoder
from pydicom.uid import AllTransferSyntaxes, DeflatedExplicitVRLittleEndian, MRImageStorage
from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from alzmri import terminal
from alzmri.clinic.answer import Answer, confine, work
from alzmri.clinic.queue import Queue
from alzmri.clinic.sending import Receiver, Sender
from alzmri.errors import EnvironmentFault, UserError

SUCCESS, FULL, NOT_UNDERSTOOD = 0x0000, 0xA700, 0xC000
"""Statuses of a C-STORE."""
MAX_IMAGE = 2**26
"""Bytes of one image, as it comes and as inflated; more ends the association."""
NETWORK_SECONDS = 30
"""An association on which nothing comes for so long ends."""
_IDENTITY = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
_UID_LENGTH = 64

IMAGES = Counter("alzmri_dicom_images", "Images received, by what became of them.", ["outcome"])
SERIES = Counter("alzmri_dicom_series", "Series answered, by the answer.", ["answer"])
QUEUE = Gauge("alzmri_dicom_queue", "What is in each part of the queue.", ["part"])
BYTES = Gauge("alzmri_dicom_queue_bytes", "Bytes that wait in the queue.")


@dataclass(frozen=True)
class Settings:
    """What the options of ``alzmri dicom`` say; see its help."""

    aet: str
    host: str
    port: int
    receiver: Receiver | None
    accept: list[str]
    model: Path
    slices: int
    queue: Path
    keep: bool
    quiet_seconds: float
    max_seconds: float
    max_associations: int
    max_images: int
    max_bytes: int
    metrics_port: int


def run(settings: Settings) -> None:
    """Be the node until a signal comes.

    Raises:
        UserError: the model cannot be used, or another node has the queue.
        EnvironmentFault: a port is taken.
    """
    settings.queue.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        lock = FileLock(settings.queue / "lock").acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"another node uses {settings.queue}: stop it, or give this one its own --queue"
        ) from None
    with lock, _working(settings) as worker:
        queue = Queue(settings.queue, settings.max_images, settings.max_bytes)
        queue.open()
        confine()
        with _listening(settings, queue):
            _loop(settings, queue, worker)


class Worker:
    """The process of :func:`answer.work`, started again when it is lost."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        arguments = (other, self._settings.model, self._settings.slices)
        self._process = context.Process(target=work, args=arguments, daemon=True)
        self._process.start()
        other.close()
        try:
            fault = self._pipe.recv()
        except EOFError:
            raise EnvironmentFault("the process that predicts ended while it started") from None
        if fault is not None:
            raise fault

    def answer(self, series: Path) -> Answer | None:
        """The answer to ``series``; None when even a report that nothing can be read fails."""
        fault = ""
        for _ in range(2):
            self._pipe.send((series, fault))
            try:
                if self._pipe.poll(self._settings.max_seconds):
                    answer: Answer | None = self._pipe.recv()
                    return answer
                fault = f"the images took more than {self._settings.max_seconds:.0f} s"
            except (EOFError, ConnectionError):
                fault = "the images ended the process that reads them"
            self.stop()
            self._start()
        return None

    def stop(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.join()
        self._pipe.close()


@contextmanager
def _working(settings: Settings) -> Iterator[Worker]:
    worker = Worker(settings)
    try:
        yield worker
    finally:
        worker.stop()


@contextmanager
def _listening(settings: Settings, queue: Queue) -> Iterator[None]:
    """Answer C-ECHO and C-STORE, and serve ``/metrics``, in threads."""
    entity = AE(settings.aet)
    entity.require_called_aet = True
    entity.require_calling_aet = settings.accept
    entity.maximum_associations = settings.max_associations
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
    address = (settings.host, settings.port)
    try:
        port = settings.port
        entity.start_server(address, block=False, evt_handlers=handlers)
        if settings.metrics_port:
            port = settings.metrics_port
            start_http_server(port, "127.0.0.1")
    except OSError as error:
        raise EnvironmentFault(f"port {port}: {error.strerror}: choose another") from None
    terminal.say(f"{settings.aet} listens on {settings.host}:{settings.port}")
    try:
        yield
    finally:
        entity.shutdown()


def _readable() -> list[str]:
    """The transfer syntaxes that the volume reader decodes with the packages that are here."""
    known: list[str] = []
    for syntax in AllTransferSyntaxes:
        try:
            if get_decoder(syntax).is_available:
                known.append(syntax)
        except NotImplementedError:
            continue
    return known


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
    if not all(_is_uid(uid) for uid in (study, series, image)):
        return NOT_UNDERSTOOD
    try:
        return SUCCESS if queue.store(_hash(study, series), _hash(image), content) else FULL
    except OSError:
        return FULL


def _is_uid(text: str) -> bool:
    return 0 < len(text) <= _UID_LENGTH and set(text) <= set("0123456789.")


def _hash(*uids: str) -> str:
    """What stands for ``uids`` in file names and in the log."""
    return hashlib.sha256("/".join(uids).encode()).hexdigest()[:32]


def _loop(settings: Settings, queue: Queue, worker: Worker) -> None:
    """Complete, answer and send, for ever."""
    sender = None
    if settings.receiver:
        sender = Sender(settings.aet, settings.receiver, queue, keep=settings.keep)
    idle = threading.Event()
    while True:
        queue.complete(settings.quiet_seconds)
        ready = queue.ready()
        if ready:
            _answer(ready[0], queue, worker, keep=settings.keep)
        if sender:
            sender.send()
        queue.tidy()
        BYTES.set(queue.held)
        for part in ("incoming", "ready", "results", "failed"):
            QUEUE.labels(part).set(queue.count(part))
        if not ready:
            idle.wait(min(1.0, settings.quiet_seconds / 4))


def _answer(series: Path, queue: Queue, worker: Worker, *, keep: bool) -> None:
    answer = worker.answer(series)
    said = "failed" if answer is None else "class" if answer.has_class else "no class"
    queue.finish(series, answer.objects if answer else None, keep=keep)
    SERIES.labels(said).inc()
    terminal.say(f"series {series.name.split('-')[1][:12]}: {said}")
