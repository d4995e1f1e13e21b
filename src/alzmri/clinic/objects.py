"""The two DICOM objects of an answer: a picture (Secondary Capture) and a structured report.

Their UIDs are a function of the images, the model and this program's version: whoever answers the
same series again makes the same object, and a PACS keeps it once.
"""

import io
import uuid
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import highdicom as hd
import numpy as np
from highdicom import sr
from PIL import Image, ImageDraw, ImageFont
from pydicom import DataElement, Dataset
from pydicom.config import RAISE
from pydicom.datadict import dictionary_VR
from pydicom.sr.codedict import codes
from pydicom.uid import ImplicitVRLittleEndian
from pydicom.valuerep import validate_value

from alzmri import __version__
from alzmri.data.images import Pixels
from alzmri.inference import NOTICE
from alzmri.inference.explain import grad_cam, overlay
from alzmri.inference.prediction_report import PredictedSubject as Subject
from alzmri.inference.prediction_report import PredictionReport as Report
from alzmri.inference.predictor import Predictor

RESEARCH_ONLY = "Research only, not for diagnosis"
_SCHEME = "99ALZMRI"
_IDENTITY = ("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID")
_SHARED = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber"),
    *("StudyID", "StudyDate", "StudyTime", "StudyDescription", "ReferringPhysicianName"),
)
KEPT = ("SpecificCharacterSet", *_IDENTITY, *_SHARED)
"""What an answer takes over from the headers of the images."""
_SIDE, _MARGIN, _LINE = 192, 12, 24
"""Pixels of the picture: a slice, the space around, a line of text."""
_WHITE, _GREY, _AMBER = (255, 255, 255), (120, 120, 120), (255, 190, 60)


def reference(header: Dataset) -> Dataset:
    """What of a header (:data:`KEPT`) the answer repeats, in UTF-8, invalid values left empty."""
    kept = Dataset()
    kept.SpecificCharacterSet = "ISO_IR 192"
    with suppress(Exception):  # an unknown character set
        header.decode()
    for name in (*_IDENTITY, *_SHARED):
        value = str(header.get(name) or "")
        # A study is found by its UIDs and the patient's ID: those stay as they are.
        if name in _SHARED and name != "PatientID":
            try:
                validate_value(dictionary_VR(name), value, validation_mode=RAISE)
            except ValueError:
                value = ""
        setattr(kept, name, value)
    return kept


def report(
    headers: Sequence[Dataset], predictor: Predictor, subject: Subject | None, reason: str
) -> Dataset:
    """The structured report (Comprehensive 3D SR, TID 1500) on the series with these ``headers``.

    Args:
        headers: of all images, by :func:`reference`.
        predictor: the model.
        subject: what it says; None when there is no class.
        reason: why there is no class; empty when there is one.
    """
    digest = predictor.detector.weights
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=_uid("device", digest),
        name="alzmri",
        manufacturer_name="alzmri",
        model_name=_model_name(predictor),
        serial_number=digest,
    )
    result, measured, text = _code("no-class", "No class"), None, f"No class: {reason}."
    if subject is not None and subject.probabilities is not None:
        chances, classes = subject.probabilities, predictor.classes
        best = int(chances.argmax())
        result = _code(f"class-{best}", classes[best])
        measured = [
            sr.Measurement(
                _code(f"probability-{number}", f"Probability of {name}"),
                round(float(chance), 4),
                codes.UCUM.NoUnits,
            )
            for number, (name, chance) in enumerate(zip(classes, chances, strict=True))
        ]
        text = _mean(subject)
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            _uid("tracking", *_key(headers, predictor)), "the series"
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
    # What is continuous, viewers show as running text, without the names of the values.
    root.walk(_separate)
    return sr.Comprehensive3DSR(
        evidence=list(headers),
        content=root,
        series_number=9902,
        is_complete=True,
        **_common("report", headers, predictor),
    )


def _separate(_: Dataset, element: DataElement) -> None:
    if element.keyword == "ContinuityOfContent":
        element.value = "SEPARATE"


def picture(headers: Sequence[Dataset], predictor: Predictor, found: Report) -> Dataset:
    """The Secondary Capture: slices, overlays, probabilities, the notice burned in."""
    pixels = _draw(predictor, found)
    capture = hd.sc.SCImage.from_ref_dataset(
        headers[0],
        pixel_array=pixels,
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("R", "A"),
        series_number=9901,
        transfer_syntax_uid=ImplicitVRLittleEndian,
        **_common("picture", headers, predictor),
    )
    capture.BodyPartExamined, capture.ConversionType = "BRAIN", "WSD"  # made on a workstation
    capture.BurnedInAnnotation = "NO"  # the standard means by it: nothing that names the patient
    capture.DerivationDescription = f"{RESEARCH_ONLY}. {NOTICE}"
    return capture


def encode(item: Dataset) -> bytes:
    """``item`` as the content of a DICOM file."""
    file = io.BytesIO()
    item.save_as(file, enforce_file_format=True)
    return file.getvalue()


def _common(kind: str, headers: Sequence[Dataset], predictor: Predictor) -> dict[str, Any]:
    """What both objects say of themselves: who they are, and by which device they were made."""
    key = _key(headers, predictor)
    return {
        "series_instance_uid": _uid(kind, "series", *key),
        "sop_instance_uid": _uid(kind, *key),
        "instance_number": 1,
        "manufacturer": "alzmri",
        "manufacturer_model_name": _model_name(predictor),
        "device_serial_number": predictor.detector.weights,
        "software_versions": _versions(predictor),
        "series_description": f"alzmri {kind}. {RESEARCH_ONLY}",
    }


def _key(headers: Sequence[Dataset], predictor: Predictor) -> list[str]:
    """What makes an answer: the model, the programs and the images."""
    images = sorted(header.SOPInstanceUID for header in headers)
    series = headers[0].StudyInstanceUID, headers[0].SeriesInstanceUID
    return [predictor.detector.weights, *_versions(predictor), *series, *images]


def _versions(predictor: Predictor) -> list[str]:
    """The program's version, the id of the training run, the version in the registry."""
    return [item for item in (__version__, predictor.card.run, predictor.version) if item]


def _uid(*parts: str) -> str:
    """A valid UID, always the same for the same ``parts``: a UUID of version 5 under 2.25."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, '/'.join(parts)).int}"


def _model_name(predictor: Predictor) -> str:
    architecture = predictor.card.architecture
    return f"{architecture['name']} {architecture['image_size']}"


def _code(value: str, meaning: str) -> sr.CodedConcept:
    return sr.CodedConcept(value, _SCHEME, meaning[:64])


def _mean(subject: Subject) -> str:
    used = len(subject.members)
    return f"Mean over the {used} of {subject.slices} slices that are like those in training."


def _draw(predictor: Predictor, found: Report) -> Pixels:
    """The picture, uint8 RGB ``[height, width, 3]``."""
    subject = found.subjects[0]
    assert subject.probabilities is not None
    slices = np.stack([item.pixels for item in found.slices])
    target = int(subject.probabilities.argmax())
    maps = grad_cam(predictor, slices, np.full(len(slices), target))
    step, columns = _SIDE + _MARGIN, 6
    bottom = _LINE + 2 * -(-len(slices) // columns) * step + _MARGIN
    size = (columns * step + _MARGIN, bottom + (len(predictor.classes) + 4) * _LINE)
    canvas = Image.new("RGB", size)
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(15)

    def write(row: float, text: str, colour: tuple[int, int, int] = _WHITE) -> None:
        draw.text((_MARGIN, row), text, colour, font)

    write(_MARGIN / 2, f"{RESEARCH_ONLY.upper()} · alzmri {__version__}", _AMBER)
    for number, (pixels, evidence) in enumerate(zip(slices, maps, strict=True)):
        left = _MARGIN + number % columns * step
        top = _LINE + _MARGIN + 2 * (number // columns) * step
        plain = overlay(pixels, np.zeros_like(evidence))
        inside = number in subject.members
        for tile, below in ((plain, 0), (overlay(pixels, evidence) if inside else plain, step)):
            canvas.paste(Image.fromarray(tile).resize((_SIDE, _SIDE)), (left, top + below))
        draw.text((left, top), f"{found.slices[number].depth} mm", _GREY, font)
    write(
        bottom,
        "mm below the top of the brain; front down, right is right. Colour (Grad-CAM): where, not"
        f" why, the model finds evidence for {predictor.classes[target][:28]}",
    )
    write(bottom + _LINE, _mean(subject))
    top = bottom + 2 * _LINE
    for name, chance in zip(predictor.classes, subject.probabilities, strict=True):
        write(top, name[:28])
        draw.rectangle((260, top + 3, 260 + 300 * float(chance), top + 15), _GREY)
        draw.text((570, top), f"{float(chance):.3f}", _WHITE, font)
        top += _LINE
    write(top, f"{_model_name(predictor)}, weights {predictor.detector.weights[:16]}", _GREY)
    write(top + _LINE, NOTICE, _AMBER)
    return np.asarray(canvas)
