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
from pydicom.uid import (
    Comprehensive3DSRStorage,
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
    SecondaryCaptureImageStorage,
)
from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from alzmri import git, terminal
from alzmri.clinic.inbox import Inbox
from alzmri.errors import EnvironmentFault, UserError, require
from alzmri.inference.volumes import confine

SUCCESS, FULL = 0x0000, 0xA700  # statuses of a C-STORE
STORED = (SUCCESS, 0xB000, 0xB006, 0xB007)  # done, or done with a warning
MAX_IMAGE = 2**26  # bytes of one image, received and inflated; more ends the association
MAX_ASSOCIATIONS = 8  # concurrent callers
MEMORY = 2 * 2**30  # bytes for all concurrent images, which limits a caller's false lengths
WORKER_MEMORY = 4 * 2**30  # bytes for prediction, once its process is ready
NETWORK_SECONDS = 30  # an association without data for so long ends
PREDICTION_SECONDS = 120
REPORT_SECONDS = 60  # for a report from headers only, after a failed prediction
LONGEST_PAUSE = 60.0  # seconds between two attempts to send
_IDENTITY = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")

Answer = dict[str, bytes]  # DICOM files by UID: a report; a picture too if the model gave a class

SERIES = Counter("alzmri_dicom_series", "Series answered, by the answer.", ["answer"])
QUEUE = Gauge("alzmri_dicom_queue", "What is in each part of the queue.", ["part"])
FAILURES = Counter("alzmri_dicom_send_failures", "Attempts that left an object unsent.")
PAUSE = Gauge("alzmri_dicom_send_pause_seconds", "Before the next attempt; 0: nothing failed.")


def run(
    entity: AE,
    address: tuple[str, int],
    metrics_port: int,
    inbox: Inbox,
    receiver: tuple[str, str, int] | None,
    model: Path,
    quiet_seconds: float,
) -> None:
    """Run the node until a signal comes; SIGTERM is not an error.

    Raises `UserError` (the model is unusable, another node has the inbox) or `EnvironmentFault`.
    """
    inbox.root.mkdir(mode=0o700, parents=True, exist_ok=True)
    with ExitStack() as stack:
        stack.enter_context(suppress(SystemExit))
        try:
            stack.enter_context(FileLock(inbox.root / "lock").acquire(timeout=0))
        except Timeout:
            raise UserError(f"another node uses {inbox.root}: give this one a --queue") from None
        worker = DicomWorker(model)
        stack.callback(worker.stop)
        inbox.open()
        confine(MEMORY)
        try:
            entity.start_server(address, block=False, evt_handlers=_handlers(inbox))
            stack.callback(entity.shutdown)
            if metrics_port:
                start_http_server(metrics_port, "127.0.0.1")
        except OSError as error:
            ports = f"--port {address[1]} or --metrics-port {metrics_port}"
            raise EnvironmentFault(f"cannot listen: {error.strerror}: change {ports}") from None
        terminal.say(f"{entity.ae_title} listens on {address[0]}:{address[1]}")
        pause = until = 0.0
        while True:
            inbox.complete(quiet_seconds)
            ready = inbox.contents("ready")
            for series in ready[:1]:
                objects = worker.answer(series)
                inbox.finish(series, objects)
                said = "failed" if objects is None else "class" if len(objects) > 1 else "no class"
                SERIES.labels(said).inc()
                terminal.say(f"series {series.name.split('-')[1][:12]}: {said}")
            if receiver and time.monotonic() >= until:
                sent = _send(entity, receiver, inbox)
                pause = 0.0 if sent else min(max(2.0, 2 * pause), LONGEST_PAUSE)
                until = time.monotonic() + pause
                PAUSE.set(pause)
                if not sent:
                    FAILURES.inc()
                    terminal.warn(f"the receiver did not take all results; again in {pause:.0f} s")
            inbox.tidy()
            for part in ("incoming", "ready", "results", "failed"):
                QUEUE.labels(part).set(len(inbox.contents(part)))
            if not ready:
                time.sleep(min(1.0, quiet_seconds / 4))


def make_entity(aet: str, accept: list[str]) -> AE:
    """The entity that answers C-ECHO, and C-STORE of MR images that the volume reader decodes."""
    entity = AE(aet)
    entity.require_called_aet = True
    entity.require_calling_aet = accept
    entity.maximum_associations = MAX_ASSOCIATIONS
    entity.connection_timeout = entity.network_timeout = NETWORK_SECONDS
    known = (item for item in vars(decoders).values() if isinstance(item, decoders.base.Decoder))
    entity.add_supported_context(Verification)
    entity.add_supported_context(MRImageStorage, [str(d.UID) for d in known if d.is_available])
    for kind in (SecondaryCaptureImageStorage, Comprehensive3DSRStorage):
        entity.add_requested_context(kind, ImplicitVRLittleEndian)
    return entity


def _handlers(inbox: Inbox) -> list[evt.EventHandlerType]:
    received: defaultdict[object, int] = defaultdict(int)

    def count(event: evt.Event) -> None:
        received[event.assoc] += len(event.data)
        if received[event.assoc] > MAX_IMAGE:
            event.assoc.abort()

    def store(event: evt.Event) -> int:
        """Keep an image; return the status for its sender, which is Cxxx if this raises."""
        received.pop(event.assoc, None)
        if event.context.transfer_syntax == DeflatedExplicitVRLittleEndian:
            inflater = zlib.decompressobj(-zlib.MAX_WBITS)
            inflater.decompress(event.encoded_dataset(include_meta=False), MAX_IMAGE)
            if inflater.unconsumed_tail:
                raise ValueError("too large")
        content = event.encoded_dataset()
        header = pydicom.dcmread(io.BytesIO(content), specific_tags=list(_IDENTITY))
        *series, image = (str(header[name].value) for name in _IDENTITY)
        if not all(re.fullmatch("[0-9.]{1,64}", uid) for uid in (*series, image)):
            raise ValueError("not UIDs")
        try:
            return SUCCESS if inbox.store(_hash("/".join(series)), _hash(image), content) else FULL
        except OSError:
            return FULL

    return [
        (evt.EVT_C_STORE, store),
        (evt.EVT_DATA_RECV, count),
        (evt.EVT_CONN_CLOSE, lambda event: received.pop(event.assoc, None)),
    ]


def _hash(uids: str) -> str:
    """A pseudonym of ``uids`` for file names and the log."""
    return hashlib.sha256(uids.encode()).hexdigest()[:32]


def _send(entity: AE, receiver: tuple[str, str, int], inbox: Inbox) -> bool:
    """Send all results in one association; those that fail stay. Return whether none is left."""
    if not (results := inbox.contents("results")):
        return True
    title, host, port = receiver
    association = entity.associate(host, port, ae_title=title)
    for result in results if association.is_established else ():
        with suppress(RuntimeError, ValueError):  # it broke, or it refused this kind of object
            if association.send_c_store(result).get("Status") in STORED:
                inbox.mark_sent(result)
    association.release()
    return not inbox.contents("results")


class DicomWorker:
    """The process of :func:`work`, which restarts if it ends; raises if it cannot predict."""

    def __init__(self, model: Path) -> None:
        self._model = model
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=work, args=(other, self._model), daemon=True)
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

    def answer(self, series: Path, max_seconds: float = PREDICTION_SECONDS) -> Answer | None:
        """The answer to ``series``, of :func:`dicom_answer.answer`."""
        fault = ""
        for seconds in (max_seconds, REPORT_SECONDS):
            if not self._process.is_alive():
                self._start()
            try:
                self._pipe.send((series, fault))
                if self._pipe.poll(seconds):
                    return self._pipe.recv()
                fault = f"the prediction took more than {seconds:.0f} s"
            except (EOFError, ConnectionError):
                fault = "the images ended the process that reads them"
            self.stop()
        return None


def work(pipe: Connection, model: Path) -> None:
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
    with suppress(EOFError, BrokenPipeError):
        while True:
            pipe.send(dicom_answer.answer(predictor, *pipe.recv()))
