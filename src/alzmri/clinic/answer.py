"""The process that predicts: a series in, the bytes of its DICOM objects out.

It is one of its own because what it reads comes from outside: a decoder that crashes, hangs or
takes all memory ends this process and not the node.
"""

import resource
import signal
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from alzmri import terminal
from alzmri.inference.volumes import confine

if TYPE_CHECKING:
    from pydicom import Dataset

    from alzmri.inference.prediction_report import PredictionReport as Report
    from alzmri.inference.predictor import Predictor

MEMORY = 4 * 2**30
"""Bytes of address space that this process may take beyond what it has when it is ready."""
NO_T1_ECHO = 30.0
"""Milliseconds: with an echo time from here on an image is not T1-weighted."""
_BRAIN = ("HEAD", "BRAIN", "SKULL", "CRANI", "NEURO", "CEREB")
"""One of these is in the name of the body part, where a header has one."""


@dataclass(frozen=True)
class Answer:
    """What goes back for a series.

    Attributes:
        objects: SOP instance UID to the content of the DICOM file.
        has_class: whether the model gave one.
    """

    objects: dict[str, bytes]
    has_class: bool


def work(pipe: Connection, model: Path, count: int) -> None:
    """Answer series until the other end closes.

    First sends None, or why the model cannot be used. Then receives ``(folder, fault)`` and sends
    an :class:`Answer` or None if even the headers cannot be read; a ``fault`` is the reason for no
    class, and the pixels are not read.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the node decides
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))  # not the node's own bound
    from alzmri import registry
    from alzmri.errors import EnvironmentFault, UserError, require

    try:
        # All that a series needs is loaded now: before the first one comes, and before the bound.
        for module in ("captum.attr", "highdicom", "nibabel", "alzmri.clinic.objects"):
            require(module, "clinic")
        from alzmri.inference.predictor import Predictor

        predictor = Predictor.load(model, registry.version(model))
    except (UserError, EnvironmentFault) as error:
        pipe.send(error)
        return
    confine(MEMORY)
    pipe.send(None)
    while True:
        try:
            folder, fault = pipe.recv()
            pipe.send(_answer(predictor, folder, fault, count))
        except (EOFError, BrokenPipeError):
            return


def _answer(predictor: "Predictor", folder: Path, fault: str, count: int) -> Answer | None:
    """The objects on the images in ``folder``; see :func:`work`."""
    import pydicom

    from alzmri.clinic import objects

    files = sorted(folder.glob("*.dcm"))
    wanted = [*objects.KEPT, "BodyPartExamined", "EchoTime"]
    try:
        headers = [pydicom.dcmread(file, specific_tags=wanted) for file in files]
        kept = [objects.reference(header) for header in headers]
        found, reason = None, fault or _no_brain_t1(headers[0])
        if not reason:
            found, reason = _predict(predictor, files, count)
        made = [objects.report(kept, predictor, found.subjects[0] if found else None, reason)]
        if found:
            made.append(objects.picture(kept, predictor, found))
        return Answer({item.SOPInstanceUID: objects.encode(item) for item in made}, not reason)
    except Exception as error:  # noqa: BLE001 - headers come from outside
        terminal.warn(f"no report is possible: {type(error).__name__}")
        return None


def _no_brain_t1(header: "Dataset") -> str:
    """Why an image with this header is no T1 of a brain; empty when it may be one."""
    part = str(header.get("BodyPartExamined") or "").strip().upper()
    if part and not any(word in part for word in _BRAIN):
        return f"not a brain: its header says {part[:16]}"
    try:
        echo = float(header.get("EchoTime") or 0)
    except (TypeError, ValueError):
        return ""
    return f"not T1-weighted: echo time {echo:.0f} ms" if echo >= NO_T1_ECHO else ""


def _predict(predictor: "Predictor", files: list[Path], count: int) -> tuple["Report | None", str]:
    """What `alzmri predict` says of the series; or None and why there is no class."""
    import numpy as np

    from alzmri.data.images import Unreadable
    from alzmri.inference import inputs
    from alzmri.inference.prediction_report import PredictionReport as Report

    try:
        source = inputs.Source("the series", "dicom", tuple(files))
        slices = inputs.read(source, predictor.preprocessing, count=count, by_folder=False)
        prediction = predictor.predict(np.stack([item.pixels for item in slices]))
    except Unreadable as error:
        return None, str(error)
    except Exception as error:  # noqa: BLE001 - see _answer
        return None, f"the images cannot be processed ({type(error).__name__})"
    found = Report(predictor, slices, prediction, [])
    if found.subjects[0].probabilities is None:
        return None, "out of distribution: unlike the slices that the model was trained on"
    return found, ""
