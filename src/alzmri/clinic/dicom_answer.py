"""The answer to a series: a picture (Secondary Capture) and a structured report.

Their UIDs are a function of the images, the model and this program's version, so that a PACS keeps
the answer once, even if the series is answered again.
"""

import io
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
from highdicom import sr
from PIL import Image, ImageDraw, ImageFont
from pydicom import DataElement, Dataset
from pydicom.config import RAISE
from pydicom.datadict import dictionary_VR
from pydicom.sr.codedict import codes
from pydicom.uid import ImplicitVRLittleEndian
from pydicom.valuerep import validate_value

from alzmri import __version__, terminal
from alzmri.data.images import Pixels, Unreadable
from alzmri.inference import NOTICE, inputs
from alzmri.inference.explain import grad_cam, overlay
from alzmri.inference.predictor import PredictedSubject, PredictionReport, Predictor

RESEARCH_ONLY = "Research only, not for diagnosis"
NO_T1_ECHO = 30.0  # milliseconds; an image with at least this echo time is not T1-weighted
_BRAIN = ("HEAD", "BRAIN", "SKULL", "CRANI", "NEURO", "CEREB")
"""A header's body part, if it has one, must contain one of these."""
_IDENTITY = ("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID", "PatientID")
_SHARED = (
    *("PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID"),
    *("StudyDate", "StudyTime", "StudyDescription", "ReferringPhysicianName"),
)
"""Fields of the images' headers that both objects repeat, besides identifiers."""
_SIDE, _MARGIN, _LINE, _COLUMNS = 192, 12, 24, 6
"""The picture's slice, margin and line of text in pixels, and its number of slices in a row."""
_WHITE, _GREY, _AMBER = (255, 255, 255), (120, 120, 120), (255, 190, 60)


def answer(
    predictor: Predictor, folder: Path, fault: str, count: int
) -> tuple[dict[str, bytes], bool] | None:
    """The DICOM files for the images in ``folder``, by UID, and whether the model gave a class.

    With a ``fault``, the reason for no class, it does not read the pixels. Returns None if even
    the headers are unreadable. The model sees ``count`` slices.
    """
    files = sorted(folder.glob("*.dcm"))
    wanted = ["SpecificCharacterSet", *_IDENTITY, *_SHARED, "BodyPartExamined", "EchoTime"]
    try:
        headers = [pydicom.dcmread(file, specific_tags=wanted) for file in files]
        kept = [_reference(header) for header in headers]
        found, reason = None, fault or _no_brain_t1(headers[0])
        if not reason:
            found, reason = _predict(predictor, files, count)
        made = [report(kept, predictor, found.subjects[0] if found else None, reason)]
        if found:
            made.append(picture(kept, predictor, found))
        return {item.SOPInstanceUID: _encode(item) for item in made}, not reason
    except Exception as error:  # noqa: BLE001 - headers are untrusted
        terminal.warn(f"no report is possible: {type(error).__name__}")
        return None


def _no_brain_t1(header: Dataset) -> str:
    """The reason why an image with this header is not a T1 of a brain; empty if it may be one."""
    part = str(header.get("BodyPartExamined") or "").strip().upper()
    if part and not any(word in part for word in _BRAIN):
        return f"not a brain: its header says {part[:16]}"
    echo = 0.0
    with suppress(TypeError, ValueError):
        echo = float(header.get("EchoTime") or 0)
    return f"not T1-weighted: echo time {echo:.0f} ms" if echo >= NO_T1_ECHO else ""


def _predict(
    predictor: Predictor, files: Sequence[Path], count: int
) -> tuple[PredictionReport | None, str]:
    """The report of `alzmri predict` on the series, or None and the reason for no class."""
    try:
        source = inputs.Source("the series", "dicom", tuple(files))
        slices = inputs.read(source, predictor.preprocessing, count=count, by_folder=False)
        prediction = predictor.predict(np.stack([item.pixels for item in slices]))
    except Unreadable as error:
        return None, str(error)
    except Exception as error:  # noqa: BLE001 - see answer
        return None, f"the images cannot be processed ({type(error).__name__})"
    found = PredictionReport(predictor, slices, prediction, [])
    if found.subjects[0].probabilities is None:
        return None, "out of distribution: unlike the slices that the model was trained on"
    return found, ""


def _reference(header: Dataset) -> Dataset:
    """The fields of a header that the answer repeats, in UTF-8, with invalid values empty.

    UIDs and patient's ID, which identify the study, stay as they are.
    """
    kept = Dataset()
    kept.SpecificCharacterSet = "ISO_IR 192"
    with suppress(Exception):  # an unknown character set
        header.decode()
    for name in (*_IDENTITY, *_SHARED):
        value = str(header.get(name) or "")
        try:
            if name in _SHARED:
                validate_value(dictionary_VR(name), value, validation_mode=RAISE)
        except ValueError:
            value = ""
        setattr(kept, name, value)
    return kept


def report(
    headers: Sequence[Dataset], predictor: Predictor, subject: PredictedSubject | None, reason: str
) -> Dataset:
    """The structured report (Comprehensive 3D SR, TID 1500) on the series with these ``headers``.

    ``subject`` is the prediction, or None when there is no class for the ``reason`` given.
    """
    about = _common("report", headers, predictor)
    digest = about["device_serial_number"]
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=_uid("device", digest),
        name="alzmri",
        manufacturer_name="alzmri",
        model_name=about["manufacturer_model_name"],
        serial_number=digest,
    )
    result, measured, text = _code("no-class", "No class"), None, f"No class: {reason}."
    if subject is not None and subject.probabilities is not None:
        best = int(subject.probabilities.argmax())
        result, text = _code(f"class-{best}", predictor.classes[best]), _mean(subject)
        measured = [
            sr.Measurement(
                _code(f"probability-{number}", f"Probability of {name}"),
                round(float(chance), 4),
                codes.UCUM.NoUnits,
            )
            for number, (name, chance) in enumerate(
                zip(predictor.classes, subject.probabilities, strict=True)
            )
        ]
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            _uid("tracking", about["sop_instance_uid"]), "the series"
        ),
        algorithm_id=sr.AlgorithmIdentification("alzmri", __version__, [f"weights {digest}"]),
        finding_sites=[sr.FindingSite(codes.SCT.Brain)],
        measurements=measured,
        qualitative_evaluations=[
            sr.QualitativeEvaluation(_code("result", "Result of the model (research only)"), result)
        ],
    )
    (root,) = sr.MeasurementReport(
        observation_context=sr.ObservationContext(
            observer_device_context=sr.ObserverContext(codes.DCM.Device, device)
        ),
        procedure_reported=sr.CodedConcept("24590-2", "LN", "MR Brain"),
        imaging_measurements=[group],
    )
    for comment in (f"{RESEARCH_ONLY}. {NOTICE}", text):
        item = sr.TextContentItem(codes.DCM.Comment, comment, sr.RelationshipTypeValues.CONTAINS)
        root.ContentSequence.append(item)
    # Viewers show continuous content as running text, without the names of the values.
    root.walk(_separate)
    return sr.Comprehensive3DSR(
        evidence=list(headers), content=root, series_number=9902, is_complete=True, **about
    )


def _separate(_: Dataset, element: DataElement) -> None:
    if element.keyword == "ContinuityOfContent":
        element.value = "SEPARATE"


def picture(headers: Sequence[Dataset], predictor: Predictor, found: PredictionReport) -> Dataset:
    """The Secondary Capture: slices, overlays, probabilities, the notice burned in."""
    capture = hd.sc.SCImage.from_ref_dataset(
        headers[0],
        pixel_array=_draw(predictor, found),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("R", "A"),
        series_number=9901,
        transfer_syntax_uid=ImplicitVRLittleEndian,
        **_common("picture", headers, predictor),
    )
    capture.BodyPartExamined, capture.ConversionType = "BRAIN", "WSD"  # made on a workstation
    capture.BurnedInAnnotation = "NO"  # in the standard it means text that identifies the patient
    capture.DerivationDescription = f"{RESEARCH_ONLY}. {NOTICE}"
    return capture


def _encode(item: Dataset) -> bytes:
    file = io.BytesIO()
    item.save_as(file, enforce_file_format=True)
    return file.getvalue()


def _common(kind: str, headers: Sequence[Dataset], predictor: Predictor) -> dict[str, Any]:
    """The identifiers and the device of both objects.

    The device's versions are the program's, the training run's id and the registered version.
    """
    weights, card = predictor.detector.weights, predictor.card
    versions = [item for item in (__version__, card.run, predictor.version) if item]
    images = sorted(header.SOPInstanceUID for header in headers)
    series = headers[0].StudyInstanceUID, headers[0].SeriesInstanceUID
    key = [weights, *versions, *series, *images]
    return {
        "series_instance_uid": _uid(kind, "series", *key),
        "sop_instance_uid": _uid(kind, *key),
        "instance_number": 1,
        "manufacturer": "alzmri",
        "manufacturer_model_name": _model_name(predictor),
        "device_serial_number": weights,
        "software_versions": versions,
        "series_description": f"alzmri {kind}. {RESEARCH_ONLY}",
    }


def _uid(*parts: str) -> str:
    """A valid UID, always the same for the same ``parts``: a UUID of version 5 under 2.25."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, '/'.join(parts)).int}"


def _model_name(predictor: Predictor) -> str:
    architecture = predictor.card.architecture
    return f"{architecture['name']} {architecture['image_size']}"


def _code(value: str, meaning: str) -> sr.CodedConcept:
    return sr.CodedConcept(value, "99ALZMRI", meaning[:64])


def _mean(subject: PredictedSubject) -> str:
    used = len(subject.members)
    return f"Mean over the {used} of {subject.slices} slices that are like those in training."


def _draw(predictor: Predictor, found: PredictionReport) -> Pixels:
    """The picture, uint8 RGB ``[height, width, 3]``."""
    subject = found.subjects[0]
    assert subject.probabilities is not None
    slices = np.stack([item.pixels for item in found.slices])
    target = int(subject.probabilities.argmax())
    maps = grad_cam(predictor, slices, np.full(len(slices), target))
    step = _SIDE + _MARGIN
    row = _LINE + 2 * -(-len(slices) // _COLUMNS) * step + _MARGIN
    size = (_COLUMNS * step + _MARGIN, row + (len(predictor.classes) + 4) * _LINE)
    canvas = Image.new("RGB", size)
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(15)

    def write(text: str, colour: tuple[int, int, int] = _WHITE) -> None:
        nonlocal row
        draw.text((_MARGIN, row), text, colour, font)
        row += _LINE

    draw.text(
        (_MARGIN, _MARGIN / 2), f"{RESEARCH_ONLY.upper()} · alzmri {__version__}", _AMBER, font
    )
    for number, (pixels, evidence) in enumerate(zip(slices, maps, strict=True)):
        left = _MARGIN + number % _COLUMNS * step
        top = _LINE + _MARGIN + 2 * (number // _COLUMNS) * step
        shown = evidence if number in subject.members else np.zeros_like(evidence)
        for values, below in ((np.zeros_like(evidence), 0), (shown, step)):
            tile = Image.fromarray(overlay(pixels, values)).resize((_SIDE, _SIDE))
            canvas.paste(tile, (left, top + below))
        draw.text((left, top), f"{found.slices[number].depth} mm", _GREY, font)
    write(
        "mm below the top of the brain; front down, right is right. Colour (Grad-CAM): where, not"
        f" why, the model finds evidence for {predictor.classes[target][:28]}"
    )
    write(_mean(subject))
    for name, chance in zip(predictor.classes, subject.probabilities, strict=True):
        draw.rectangle((260, row + 3, 260 + 300 * float(chance), row + 15), _GREY)
        draw.text((570, row), f"{float(chance):.3f}", _WHITE, font)
        write(name[:28])
    write(f"{_model_name(predictor)}, weights {predictor.detector.weights[:16]}", _GREY)
    write(NOTICE, _AMBER)
    return np.asarray(canvas)
