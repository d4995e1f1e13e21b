"""The DICOM node between real senders and receivers: dcmtk, Orthanc, and its own death."""

import json
import os
import re
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import nibabel as nib
import nilearn
import numpy as np
import pytest
import requests
from pydicom import Dataset
from pydicom.uid import JPEGLSLossless, RLELossless
from pynetdicom import AE
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from alzmri.clinic.dicom_node import MAX_ASSOCIATIONS
from alzmri.models import saved

from ..processes import limit
from .conftest import program, small_head, write_series

DOCS = (Path(__file__).parents[2] / "docs/clinic.md").read_text()
TEMPLATE = Path(nilearn.__file__).parent / (
    "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
)
SERIES = int(os.environ.get("ALZMRI_TEST_SERIES", "9"))
"""The number of series; 200, as many as in an hour of a hospital, take minutes."""
BROKEN = max(4, SERIES // 5)
"""The number of broken series among them."""
SYNTAXES = {
    "whole-00": (RLELossless, "-xr"),
    "whole-01": (JPEGLSLossless, "-xt"),
    "whole-02": ("", "-xd"),
    "whole-03": ("", "-xs"),
}
"""Series that are sent in another transfer syntax: pydicom's name, storescu's option."""
LOSSLESS = "whole-03"
"""The series that dcmtk encodes as JPEG Lossless, which pydicom cannot."""


def _reports(receiver) -> list[Dataset]:
    return [item for item in receiver.objects if item.Modality == "SR"]


def _source(result: Dataset) -> str:
    """The series that a report is about."""
    (study,) = result.CurrentRequestedProcedureEvidenceSequence
    (series,) = study.ReferencedSeriesSequence
    return str(series.SeriesInstanceUID)


@pytest.fixture
def orthanc(tmp_path, free_block, eventually):
    """Orthanc as docs/clinic.md configures it; the ports of the node, of its HTTP and DICOM."""
    node, web, dicom = (free_block() for _ in range(3))
    blocks = dict(re.findall(r"```(json|lua)\n(.*?)```", DOCS, re.DOTALL))
    config = json.loads(blocks["json"]) | {"DicomPort": dicom, "HttpPort": web, "StableAge": 1}
    config["DicomModalities"]["alzmri"][2] = node
    config["StorageDirectory"] = config["IndexDirectory"] = str(tmp_path / "storage")
    (tmp_path / "orthanc.json").write_text(json.dumps(config))
    (tmp_path / "alzmri.lua").write_text(blocks["lua"])
    with (tmp_path / "orthanc.log").open("wb") as log:
        process = subprocess.Popen(
            [program("Orthanc"), str(tmp_path / "orthanc.json")],
            stdout=log,
            stderr=log,
            cwd=tmp_path,
        )

    def is_up():
        assert process.poll() is None, (tmp_path / "orthanc.log").read_text()
        try:
            return requests.get(f"http://127.0.0.1:{web}/system", timeout=limit(5)).ok
        except requests.ConnectionError:
            return False

    try:
        eventually(is_up)
        yield node, web, dicom
    finally:
        process.terminate()
        process.wait(limit(30))


def test_results_appear_in_orthanc_in_the_same_study(orthanc, make_node, tmp_path, eventually):
    port, web, dicom = orthanc
    node = make_node(port, "--send-to", f"ORTHANC@127.0.0.1:{dicom}", "--quiet-seconds", "1")
    node.start(eventually)
    image = nib.as_closest_canonical(nib.load(TEMPLATE))
    voxels = np.asarray(image.dataobj)[::2, ::2, ::4].astype(np.uint16)
    forwarded = write_series(tmp_path / "forwarded", voxels, PatientID="17")
    write_series(tmp_path / "direct", PatientID="18")
    store = [program("storescu"), "-aec", "ORTHANC", "127.0.0.1", str(dicom)]
    subprocess.run([*store, *(tmp_path / "forwarded").iterdir()], check=True)
    assert node.send(tmp_path / "direct")

    def found(patient: str) -> dict[str, dict[str, str]]:
        """Modality to the Orthanc series, in the one study of a patient."""
        query = {"Level": "Series", "Query": {"PatientID": patient}, "Expand": True}
        series = requests.post(
            f"http://127.0.0.1:{web}/tools/find", json=query, timeout=limit(10)
        ).json()
        assert len({item["ParentStudy"] for item in series}) <= 1
        return {item["MainDicomTags"]["Modality"]: item for item in series}

    eventually(lambda: {"MR", "SR"} <= set(found("17")), 60)
    eventually(lambda: set(found("18")) == {"OT", "SR"}, 60)
    assert found("17")["MR"]["MainDicomTags"]["SeriesInstanceUID"] == forwarded
    files = {}
    for modality, series in found("18").items():
        (instance,) = series["Instances"]
        base = f"http://127.0.0.1:{web}/instances/{instance}"
        files[modality] = tmp_path / f"{modality}.dcm"
        files[modality].write_bytes(requests.get(f"{base}/file", timeout=limit(10)).content)
        if modality == "OT":
            preview = requests.get(f"{base}/preview", timeout=limit(10))
            assert preview.headers["content-type"] == "image/png"
            assert len(set(preview.content)) > 50
    for file in files.values():
        checked = subprocess.run([program("dciodvfy"), str(file)], capture_output=True, text=True)
        assert "Error" not in checked.stderr
        subprocess.run([program("dcm2xml"), str(file), str(tmp_path / "object.xml")], check=True)
        assert "not for diagnosis" in (tmp_path / "object.xml").read_text()
    said = subprocess.run([program("dsr2html"), files["SR"]], capture_output=True, text=True).stdout
    for words in ("Müller", "Mild Demented", "Probability of Non Demented", "not for diagnosis"):
        assert words in said


def _make_many(folder: Path) -> dict[str, str]:
    """SERIES, some broken, each in its own way; series UID to what must be answered."""
    head = small_head()
    broken = {
        "not evenly": {},
        "out of distribution": {"voxels": np.where(head > 0, 255 - head % 7 * 30, 0)},
        "cannot be decoded": {"PixelData": b"\0\0"},
        "KNEE": {"BodyPartExamined": "KNEE", "PatientBirthDate": "born in 1940"},
    }
    expected = {}
    for number in range(BROKEN):
        reason, how = list(broken.items())[number % 4]
        expected[write_series(folder / f"broken-{number}", **how)] = reason
        if not number % 4:
            (folder / f"broken-{number}/012.dcm").unlink()
    for number in range(SERIES - BROKEN):
        syntax = SYNTAXES.get(f"whole-{number:02}", ("", ""))[0]
        expected[write_series(folder / f"whole-{number:02}", syntax=syntax)] = ""
    return expected


@contextmanager
def _associations(port: int, count: int) -> Iterator[None]:
    """Have ``count`` of a node's associations."""
    caller = AE("ECHOSCU")
    caller.add_requested_context(Verification)
    made = [caller.associate("127.0.0.1", port, ae_title="ALZMRI") for _ in range(count)]
    assert all(one.is_established for one in made)
    yield
    for one in made:
        one.release()


def test_every_acknowledged_series_is_answered_once_whatever_happens(
    make_node, make_receiver, tmp_path, free_block, eventually, model
):
    """Some are broken, the node is killed again and again, the receiver is down at first."""
    expected = _make_many(tmp_path / "series")
    for file in (tmp_path / "series" / LOSSLESS).iterdir():
        subprocess.run([program("dcmcjpeg"), file, file], check=True)
    port = free_block()
    receiver = make_receiver(port + 2)
    options = ["--send-to", f"RECEIVER@127.0.0.1:{port + 2}", "--accept", "STORESCU,ECHOSCU"]
    node = make_node(port, *options, "--quiet-seconds", "5")
    node.start(eventually)
    assert not node.answers("STRANGER")
    with _associations(port, MAX_ASSOCIATIONS):
        assert not node.answers()
    eventually(node.answers)
    rng = np.random.default_rng()
    folders = sorted((tmp_path / "series").iterdir())
    kills = dict.fromkeys(rng.choice(len(folders), max(2, SERIES // 10), replace=False), True)
    for number, folder in enumerate(folders):
        if kills.pop(number, False):
            sender = subprocess.Popen(
                [program("storescu"), "-aec", "ALZMRI", "127.0.0.1", str(port), *folder.iterdir()],
                stderr=subprocess.DEVNULL,
            )
            with suppress(subprocess.TimeoutExpired):
                sender.wait(rng.uniform(0.01, 0.3))
            node.stop(signal.SIGKILL)
            sender.wait(limit(30))
            node.start(eventually)
        assert node.send(folder, SYNTAXES.get(folder.name, ("", "-x="))[1])
    eventually(lambda: node.metric("alzmri_dicom_send_failures_total") > 0, 60)
    assert node.metric("alzmri_dicom_send_pause_seconds") >= 2
    receiver.start()
    eventually(lambda: node.metric('alzmri_dicom_series_total{answer="class"}') >= 1, 240)
    before = node.memory()
    eventually(lambda: len(_reports(receiver)) >= SERIES, 12 * SERIES)
    assert node.memory() < before + 90_000_000
    queue = tmp_path / "queue"

    def left() -> list[Path]:
        # Not `rglob`, which fails when the node removes a folder that it reads.
        files = [Path(folder, name) for folder, _, names in os.walk(queue) for name in names]
        return [path for path in files if path.parent.name != "sent"]

    eventually(lambda: left() == [queue / "lock"])

    uids = Counter(item.SOPInstanceUID for item in receiver.objects)
    assert len(uids) == SERIES + SERIES - BROKEN  # each a report, the whole ones a picture
    assert set(uids.values()) == {1}
    reports = {_source(report): report for report in _reports(receiver)}
    assert reports.keys() == expected.keys()
    for series, reason in expected.items():
        said = reports[series].to_json()
        assert "Research only, not for diagnosis" in said
        assert ("No class" in said) == bool(reason)
        assert ("Probability of" in said) == (not reason)
        assert reason in said
        assert saved.digest(model) in said  # of the device that says so

    log = node.log.read_text()
    studies = [report.StudyInstanceUID for report in reports.values()]
    for secret in ("SECRET", "Zo", "born", *expected, *studies):
        assert secret not in log
    assert queue.stat().st_mode & 0o077 == 0
    assert node.send(folders[-1])  # the same again
    assert len(left()) > 1
    eventually(lambda: left() == [queue / "lock"], 60)
    node.stop(signal.SIGTERM)
    assert node.process.returncode == 0
    assert len(receiver.objects) == len(uids)
