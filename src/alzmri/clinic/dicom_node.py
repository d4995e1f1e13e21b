"""The node: threads receive images; the main thread completes, answers and sends series.

A separate process predicts, because it reads untrusted files: a decoder that crashes, hangs or
takes all memory ends that process and not the node.
"""

import hashlib
import io
import multiprocessing
import re
import resource
import signal
import threading
import time
import zlib
from collections import defaultdict
from contextlib import ExitStack, suppress
from multiprocessing.connection import Connection
from pathlib import Path

import pydicom
from filelock import FileLock, Timeout
from prometheus_client import Counter, Gauge, start_http_server
from pydicom.pixels import decoders
from pydicom.uid import DeflatedExplicitVRLittleEndian, MRImageStorage
from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from alzmri import git, terminal
from alzmri.clinic.inbox import Inbox, ResultSender
from alzmri.errors import EnvironmentFault, UserError, require
from alzmri.inference.volumes import confine

SUCCESS, FULL, NOT_UNDERSTOOD = 0x0000, 0xA700, 0xC000  # statuses of a C-STORE
MAX_IMAGE = 2**26  # bytes of one image, received and inflated; more ends the association
MEMORY = 2 * 2**30
"""Bytes of address space for all concurrent images, which limits a caller's false lengths."""
WORKER_MEMORY = 4 * 2**30
"""Additional bytes of address space for prediction, once its process is ready."""
NETWORK_SECONDS = 30  # an association without data for so long ends
REPORT_SECONDS = 60  # for a report from headers only, after a failed prediction
STOPPING = threading.Event()
"""Set by SIGTERM. A handler that raises could interrupt the removal of a folder halfway."""
_IDENTITY = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")

Answer = tuple[dict[str, bytes], bool]
"""DICOM files by their SOP instance UID; whether the model gave a class."""

IMAGES = Counter("alzmri_dicom_images", "Images received, by what became of them.", ["outcome"])
SERIES = Counter("alzmri_dicom_series", "Series answered, by the answer.", ["answer"])
QUEUE = Gauge("alzmri_dicom_queue", "What is in each part of the queue.", ["part"])
BYTES = Gauge("alzmri_dicom_queue_bytes", "Bytes that wait in the queue.")


def run(
    entity: AE,
    address: tuple[str, int],
    metrics_port: int,
    inbox: Inbox,
    receiver: tuple[str, str, int] | None,
    worker: "DicomWorker",
    quiet_seconds: float,
) -> None:
    """Run the node until a signal comes; SIGTERM is not an error.

    Raises `UserError` when the model is unusable or another node has the inbox, and
    `EnvironmentFault` when a port is in use.
    """
    inbox.root.mkdir(mode=0o700, parents=True, exist_ok=True)
    with ExitStack() as stack:
        stack.enter_context(suppress(SystemExit))
        try:
            stack.enter_context(FileLock(inbox.root / "lock").acquire(timeout=0))
        except Timeout:
            raise UserError(
                f"another node uses {inbox.root}: stop it, or give this one its own --queue"
            ) from None
        stack.callback(worker.stop)
        worker.start()
        inbox.open()
        confine(MEMORY)
        sender = ResultSender(entity.ae_title, receiver, inbox) if receiver else None
        port = address[1]
        try:
            entity.start_server(address, block=False, evt_handlers=_handlers(inbox))
            stack.callback(entity.shutdown)
            if metrics_port:
                port = metrics_port
                start_http_server(port, "127.0.0.1")
        except OSError as error:
            reason = f"cannot listen on port {port} ({error.strerror}): choose another"
            raise EnvironmentFault(reason) from None
        signal.signal(signal.SIGTERM, lambda *_: STOPPING.set())
        terminal.say(f"{entity.ae_title} listens on {address[0]}:{address[1]}")
        while not STOPPING.is_set():
            _step(inbox, worker, sender, quiet_seconds)


def _step(inbox: Inbox, worker: "DicomWorker", sender: ResultSender | None, quiet: float) -> None:
    """Complete quiet series, answer one series, send waiting results."""
    inbox.complete(quiet)
    ready = inbox.contents("ready")
    for series in ready[:1]:
        objects, has_class = worker.answer(series) or (None, False)
        inbox.finish(series, objects)
        said = "failed" if objects is None else "class" if has_class else "no class"
        SERIES.labels(said).inc()
        terminal.say(f"series {series.name.split('-')[1][:12]}: {said}")
    if sender:
        sender.send()
    inbox.tidy()
    BYTES.set(inbox.held)
    for part in ("incoming", "ready", "results", "failed"):
        QUEUE.labels(part).set(len(inbox.contents(part)))
    if not ready:
        STOPPING.wait(min(1.0, quiet / 4))


def make_entity(aet: str, accept: list[str], max_associations: int) -> AE:
    """The entity that answers C-ECHO, and C-STORE of MR images that the volume reader decodes."""
    entity = AE(aet)
    entity.require_called_aet = True
    entity.require_calling_aet = accept
    entity.maximum_associations = max_associations
    entity.network_timeout = entity.acse_timeout = entity.dimse_timeout = NETWORK_SECONDS
    known = (item for item in vars(decoders).values() if isinstance(item, decoders.base.Decoder))
    entity.add_supported_context(Verification)
    entity.add_supported_context(MRImageStorage, [str(d.UID) for d in known if d.is_available])
    return entity


def _handlers(inbox: Inbox) -> list[evt.EventHandlerType]:
    received: defaultdict[object, int] = defaultdict(int)

    def count(event: evt.Event) -> None:
        received[event.assoc] += len(event.data)
        if received[event.assoc] > MAX_IMAGE:
            event.assoc.abort()

    def store(event: evt.Event) -> int:
        received.pop(event.assoc, None)
        status = _store(event, inbox)
        IMAGES.labels("refused" if status else "stored").inc()
        return status

    return [
        (evt.EVT_C_STORE, store),
        (evt.EVT_DATA_RECV, count),
        (evt.EVT_CONN_CLOSE, lambda event: received.pop(event.assoc, None)),
    ]


def _store(event: evt.Event, inbox: Inbox) -> int:
    """Keep an image; return the status for its sender."""
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
    if not all(re.fullmatch("[0-9.]{1,64}", uid) for uid in (study, series, image)):
        return NOT_UNDERSTOOD
    try:
        return SUCCESS if inbox.store(_hash(study, series), _hash(image), content) else FULL
    except OSError:
        return FULL


def _hash(*uids: str) -> str:
    """A pseudonym of ``uids`` for file names and the log."""
    return hashlib.sha256("/".join(uids).encode()).hexdigest()[:32]


class DicomWorker:
    """The process of :func:`work`, which it restarts when it ends."""

    def __init__(self, model: Path, slices: int, max_seconds: float) -> None:
        self._arguments, self._max_seconds = (model, slices), max_seconds

    def start(self) -> None:
        """Start the process; return when it can predict."""
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=work, args=(other, *self._arguments), daemon=True)
        self._process.start()
        other.close()
        try:
            fault = self._pipe.recv()
        except EOFError:
            raise EnvironmentFault("the prediction process ended during its start") from None
        if fault is not None:
            raise fault

    def stop(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._process.join()
        self._pipe.close()

    def answer(self, series: Path) -> Answer | None:
        """The answer to ``series``; None if even its headers are unreadable."""
        if not self._process.is_alive():  # not the fault of this series
            self.stop()
            self.start()
        fault = ""
        for seconds in (self._max_seconds, REPORT_SECONDS):
            try:
                self._pipe.send((series, fault))
                if self._answers_within(seconds):
                    found: Answer | None = self._pipe.recv()
                    return found
                fault = f"the prediction took more than {seconds:.0f} s"
            except (EOFError, ConnectionError):
                fault = "the images ended the process that reads them"
            self.stop()
            self.start()
        return None

    def _answers_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not (answers := self._pipe.poll(0.1)) and time.monotonic() < deadline:
            if STOPPING.is_set():
                raise SystemExit(0)
        return answers


def work(pipe: Connection, model: Path, count: int) -> None:
    """Answer series until the other end closes.

    It first sends None, or the reason why the model is unusable. Then it receives
    ``(folder, fault)`` and sends the result of :func:`dicom_answer.answer`.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the node decides
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))  # remove the node's limit
    try:
        # Load everything that a series needs now, before the first series and before the limit.
        for module in ("captum.attr", "highdicom", "nibabel"):
            require(module, "clinic")
        from alzmri.clinic import dicom_answer
        from alzmri.inference.predictor import Predictor

        predictor = Predictor.load(model, git.version(model))
    except (UserError, EnvironmentFault) as error:
        pipe.send(error)
        return
    confine(WORKER_MEMORY)
    pipe.send(None)
    while True:
        try:
            folder, fault = pipe.recv()
            pipe.send(dicom_answer.answer(predictor, folder, fault, count))
        except (EOFError, BrokenPipeError):
            return
