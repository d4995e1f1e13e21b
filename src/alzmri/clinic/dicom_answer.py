"""The answer to a series: a picture (Secondary Capture) and a structured report.

Their UIDs are a function of the images, the model and this program's version, so that a PACS keeps
the answer once, even if the series is answered again.
"""

import io
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
from highdicom import sr
from PIL import Image, ImageDraw, ImageFont
from pydicom import Dataset
from pydicom.config import RAISE
from pydicom.datadict import dictionary_VR
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid
from pydicom.valuerep import validate_value

from alzmri import __version__, terminal
from alzmri.data.images import Pixels, Unreadable
from alzmri.inference import NOTICE, inputs
from alzmri.inference.explain import grad_cam, overlay
from alzmri.inference.predictor import PredictedSubject, PredictionReport, Predictor
from alzmri.inference.ventricles import SLICES

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
_SIDE, _MARGIN, _LINE = 192, 12, 24  # pixels of the picture's slices, their margin, a line of text
_STEP = _SIDE + _MARGIN
_GREY, _AMBER = (120, 120, 120), (255, 190, 60)


def answer(predictor: Predictor, folder: Path, fault: str) -> dict[str, bytes] | None:
    """The DICOM files for the images in ``folder``, by UID: a report, with a class a picture too.

    With a ``fault``, the reason for no class, it does not read the pixels. Returns None if even
    the headers are unreadable.
    """
    files = sorted(folder.glob("*.dcm"))
    wanted = ["SpecificCharacterSet", *_IDENTITY, *_SHARED, "BodyPartExamined", "EchoTime"]
    found = None
    try:
        headers = [pydicom.dcmread(file, specific_tags=wanted) for file in files]
        kept = [_reference(header) for header in headers]
        try:
            if not fault:
                found = _predict(predictor, files, headers[0])
        except Unreadable as error:
            fault = str(error)
        except Exception as error:  # noqa: BLE001 - as below
            fault = f"the images cannot be processed ({type(error).__name__})"
        made = [report(kept, predictor, found.subjects[0] if found else fault)]
        if found:
            made.append(picture(kept, predictor, found))
        contents = {}
        for item in made:
            item.save_as(file := io.BytesIO(), enforce_file_format=True)
            contents[item.SOPInstanceUID] = file.getvalue()
        return contents
    except Exception as error:  # noqa: BLE001 - headers are untrusted
        terminal.warn(f"no report is possible: {type(error).__name__}")
        return None


def _predict(predictor: Predictor, files: Sequence[Path], header: Dataset) -> PredictionReport:
    """The report of `alzmri predict` on the series; raises Unreadable, the reason for no class."""
    part = str(header.get("BodyPartExamined") or "").strip().upper()
    if part and not any(word in part for word in _BRAIN):
        raise Unreadable(f"not a brain: its header says {part[:16]}")
    echo = 0.0
    with suppress(TypeError, ValueError):  # not a number
        echo = float(header.get("EchoTime") or 0)
    if echo >= NO_T1_ECHO:
        raise Unreadable(f"not T1-weighted: echo time {echo:.0f} ms")
    source = inputs.Source("the series", "dicom", tuple(files))
    slices = inputs.read(source, predictor.preprocess)
    prediction = predictor.predict(np.stack([item.pixels for item in slices]))
    found = PredictionReport(predictor, slices, prediction, [])
    if found.subjects[0].probabilities is None:
        raise Unreadable("out of distribution: unlike the slices that the model was trained on")
    return found


def _reference(header: Dataset) -> Dataset:
    """The fields of a header that the answer repeats, in UTF-8: ``_SHARED`` ones only if valid."""
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
    headers: Sequence[Dataset], predictor: Predictor, said: PredictedSubject | str
) -> Dataset:
    """The structured report (Comprehensive 3D SR, TID 1500) on the series with these ``headers``.

    ``said`` is the prediction, or the reason for no class.
    """
    about = _about("report", headers, predictor)
    model, digest = about["manufacturer_model_name"], about["device_serial_number"]
    result, measured, text = _code("no-class", "No class"), None, f"No class: {said}."
    if isinstance(said, PredictedSubject):
        names, chances = predictor.classes, np.asarray(said.probabilities)
        best = int(chances.argmax())
        result, text = _code(f"class-{best}", names[best]), _mean(said)
        measured = [
            sr.Measurement(
                _code(f"probability-{number}", f"Probability of {name}"),
                round(float(chances[number]), 4),
                codes.UCUM.NoUnits,
            )
            for number, name in enumerate(names)
        ]
    device = sr.DeviceObserverIdentifyingAttributes(
        generate_uid(entropy_srcs=[digest]), "alzmri", "alzmri", model, digest
    )
    tracking = generate_uid(entropy_srcs=["tracking", about["sop_instance_uid"]])
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(tracking, "the series"),
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
    for element in root.iterall():
        if element.keyword == "ContinuityOfContent":
            element.value = "SEPARATE"  # viewers show CONTINUOUS without the names of the values
    return sr.Comprehensive3DSR(
        evidence=list(headers), content=root, series_number=9902, is_complete=True, **about
    )


def picture(headers: Sequence[Dataset], predictor: Predictor, found: PredictionReport) -> Dataset:
    """The Secondary Capture: slices, overlays, probabilities, the notice burned in."""
    about = _about("picture", headers, predictor)
    capture = hd.sc.SCImage.from_ref_dataset(
        headers[0],
        pixel_array=_draw(predictor, found, about["manufacturer_model_name"]),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("R", "A"),
        series_number=9901,
        **about,
    )
    capture.BodyPartExamined, capture.ConversionType = "BRAIN", "WSD"  # made on a workstation
    capture.BurnedInAnnotation = "NO"  # in the standard it means text that identifies the patient
    capture.DerivationDescription = f"{RESEARCH_ONLY}. {NOTICE}"
    return capture


def _about(kind: str, headers: Sequence[Dataset], predictor: Predictor) -> dict[str, Any]:
    """The identifiers and the device of both objects.

    The device's versions are the program's, the training run's id and the registered version.
    """
    weights, card = predictor.detector.weights, predictor.card
    versions = [item for item in (__version__, card.run, predictor.version) if item]
    images = sorted(header.SOPInstanceUID for header in headers)
    key = [weights, *versions, headers[0].StudyInstanceUID, headers[0].SeriesInstanceUID, *images]
    return {
        "series_instance_uid": generate_uid(entropy_srcs=[kind, "series", *key]),
        "sop_instance_uid": generate_uid(entropy_srcs=[kind, *key]),
        "instance_number": 1,
        "manufacturer": "alzmri",
        "manufacturer_model_name": "{name} {image_size}".format(**card.architecture),
        "device_serial_number": weights,
        "software_versions": versions,
        "series_description": f"alzmri {kind}. {RESEARCH_ONLY}",
    }


def _code(value: str, meaning: str) -> sr.CodedConcept:
    return sr.CodedConcept(value, "99ALZMRI", meaning[:64])


def _mean(subject: PredictedSubject) -> str:
    used = f"{len(subject.members)} of {subject.slices} slices"
    return f"Probabilities: mean over the {used} that are like the training slices."


def _draw(predictor: Predictor, found: PredictionReport, model: str) -> Pixels:
    """The picture, uint8 RGB ``[height, width, 3]``: slices, below each its Grad-CAM, then text."""
    subject, classes = found.subjects[0], predictor.classes
    chances = np.asarray(subject.probabilities)
    best = int(chances.argmax())
    slices = np.stack([item.pixels for item in found.slices])
    maps = grad_cam(predictor, slices, np.full(len(slices), best))
    row = _LINE + 2 * _STEP
    size = SLICES * _STEP + _MARGIN, row + (len(classes) + 4) * _LINE + _MARGIN
    canvas = Image.new("RGB", size)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(15)
    title = f"{RESEARCH_ONLY.upper()}. {NOTICE}"
    draw.text((_MARGIN, _MARGIN / 2), title, _AMBER, font)
    for number, (item, evidence) in enumerate(zip(found.slices, maps, strict=True)):
        left, top = _MARGIN + number * _STEP, _LINE + _MARGIN
        for values in (0 * evidence, evidence * (number in subject.members)):
            tile = Image.fromarray(overlay(item.pixels, values)).resize((_SIDE, _SIDE))
            canvas.paste(tile, (left, top))
            top += _STEP
        draw.text((left, _LINE + _MARGIN), f"{item.depth} mm", _GREY, font)
    for name, chance in zip(classes, map(float, chances), strict=True):
        row += _LINE
        draw.text((_MARGIN, row), name[:28], font=font)
        draw.rectangle((260, row + 3, 260 + 300 * chance, row + 15), _GREY)
        draw.text((570, row), f"{chance:.3f}", font=font)
    legend = (
        f"{_mean(subject)}\n"
        "mm: below the top of the brain. Front down, right is right. Colour (Grad-CAM): where, not"
        f" why, the model finds evidence for {classes[best][:28]}.\n"
        f"alzmri {__version__}, {model}, weights {predictor.detector.weights[:16]}"
    )
    draw.multiline_text((_MARGIN, row + _LINE), legend, font=font, spacing=8)
    return np.asarray(canvas)
