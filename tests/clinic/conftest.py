"""A model folder, DICOM series of a small head, a node as a process, a receiver that counts."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import torch
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid
from pynetdicom import AE, AllStoragePresentationContexts, evt

from alzmri.data import images
from alzmri.inference import inputs
from alzmri.models import saved
from alzmri.models.architectures import build
from alzmri.models.forward import MEAN, STD
from alzmri.ood.detector import Detector
from alzmri.ood.features import WithFeatures, run

from .. import forks
from ..processes import limit

SPACING = np.array([2.0, 2.0, 4.0])
"""The size of a voxel of a series in mm: to the right, front and top."""
NAME = "Müller^Zoë"


def program(tool: str) -> str:
    """The path of a program; pynetdicom has scripts of the same names beside any Python."""
    for folder in (*os.environ["PATH"].split(os.pathsep), "/usr/sbin"):
        found = shutil.which(tool, path=folder)
        if found and not Path(found).read_bytes().startswith(b"#!"):
            return found
    raise AssertionError(
        f"no {tool}: run `make browser`, or install dcmtk, dicom3tools and orthanc"
    )


def small_head() -> np.ndarray:
    """An egg of 100 by 120 by 100 mm with ventricles, ``[x, y, z]`` at :data:`SPACING`."""
    shape = (58, 68, 29)
    places = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, SPACING, strict=True)]
    x, y, z = np.meshgrid(*places, indexing="ij")
    brain = np.hypot(np.hypot(x / 50, y / 60), z / 50) < 1
    fluid = np.hypot(np.hypot((np.abs(x) - 8) / 5, y / 18), (z + 12) / 9) < 1
    voxels = np.where(brain, 180, 0) - np.where(fluid, 150, 0)
    return (voxels + np.where(brain, 10 * np.cos(x / 4) * np.cos(y / 5), 0)).astype(np.uint16)


def write_series(
    folder: Path, voxels: np.ndarray | None = None, syntax: str = "", **tags: Any
) -> str:
    """``voxels`` as axial MR slices of a new series and study in ``folder``; the series' UID.

    Without voxels of the small head.
    """
    voxels = small_head() if voxels is None else voxels
    folder.mkdir(parents=True)
    study, series = generate_uid(), generate_uid()
    for number in range(voxels.shape[2]):
        item = Dataset()
        item.file_meta = FileMetaDataset()
        item.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        item.file_meta.MediaStorageSOPClassUID = item.SOPClassUID = MRImageStorage
        item.file_meta.MediaStorageSOPInstanceUID = item.SOPInstanceUID = generate_uid()
        item.SpecificCharacterSet = "ISO_IR 100"
        item.StudyInstanceUID, item.SeriesInstanceUID, item.Modality = study, series, "MR"
        item.PatientName, item.PatientID, item.PatientBirthDate = NAME, "SECRET-17", "19400229"
        item.PatientSex, item.StudyDate, item.StudyTime = "F", "20260102", "101112"
        item.StudyID = item.AccessionNumber = item.ReferringPhysicianName = ""
        item.SeriesNumber, item.InstanceNumber = 3, number + 1
        # Columns run to the back, rows to the left.
        plane = voxels[::-1, ::-1, number]
        item.Rows, item.Columns = plane.T.shape
        item.PixelSpacing, item.SliceThickness = [SPACING[1], SPACING[0]], SPACING[2]
        item.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        item.ImagePositionPatient = [0.0, 0.0, float(number * SPACING[2])]
        item.SamplesPerPixel, item.PhotometricInterpretation = 1, "MONOCHROME2"
        item.BitsAllocated, item.BitsStored, item.HighBit = 16, 16, 15
        item.PixelRepresentation = 0
        item.PixelData = plane.T.astype("<u2").tobytes()
        for name, value in tags.items():
            setattr(item, name, value)
        if syntax:
            item.compress(syntax)
        item.save_as(folder / f"{number:03d}.dcm", enforce_file_format=True)
    return str(series)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a LeNet of random weights that knows slices of the small head."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    architecture = {"name": "lenet", "image_size": 32, "classes": 4, "dropout": 0.5}
    network = build(**architecture)
    preprocessing = {"fit": "pad", "channels": 1, "mean": MEAN, "std": STD}
    classes = ["Non Demented", "Very Mild Demented", "Mild Demented", "Moderate Demented"]
    parameters = {"data": {"source": "none"}, "split": {"unit": "subject"}}
    card = saved.Card(architecture, classes, preprocessing, parameters, [], "0" * 64, 1.0, {})
    saved.save(folder, network.state_dict(), card)
    write_series(folder / "series")
    source = inputs.Source("head", "dicom", tuple(folder.glob("series/*.dcm")))
    pad = partial(images.fit, image_size=32, mode="pad")
    seen = inputs.read(source, pad)
    rng = np.random.default_rng(0)
    pixels = np.stack([item.pixels for item in seen for _ in range(20)]).astype(int)
    pixels = np.clip(pixels + rng.integers(-12, 13, pixels.shape), 0, 255).astype(np.uint8)
    network.eval()
    _, known = run(WithFeatures(network), pixels, np.arange(len(pixels)), torch.device("cpu"))
    validation = known[1::2]
    whose = [f"subject {number % 8}" for number in range(len(validation))]
    labels = np.zeros(len(validation), int)
    Detector.fit(known[::2], validation, whose, labels, saved.digest(folder)).save(folder)
    return folder


@dataclass
class Node:
    """``alzmri dicom`` as a process in a folder of its own, and what one asks it."""

    port: int
    options: list[str]
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self, eventually: Callable[..., None]) -> None:
        """Start it; return when it answers C-ECHO."""
        command = ["alzmri", "dicom", *self.options]
        command += ["--port", str(self.port), "--metrics-port", str(self.port + 1)]
        self.log.touch()
        before = self.log.stat().st_size
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self.log.parent, env=forks.environment()
            )
            process = self.process

        def listens() -> bool:
            assert process.poll() is None, self.log.read_text()
            return b"listens on" in self.log.read_bytes()[before:]

        eventually(listens, 120)
        assert self.answers()

    def answers(self, caller: str = "ECHOSCU") -> bool:
        """Whether it answers C-ECHO."""
        return self._ask("echoscu", "-aet", caller) == 0

    def send(self, folder: Path, *options: str) -> bool:
        """Send a series by storescu; whether all of it was acknowledged."""
        return self._ask("storescu", *options, "+sd", files=[str(folder)]) == 0

    def _ask(self, tool: str, *options: str, files: Sequence[str] = ()) -> int:
        call = [program(tool), *options, "-aec", "ALZMRI", "127.0.0.1", str(self.port), *files]
        return subprocess.run(call, capture_output=True, check=False).returncode

    def metric(self, name: str) -> float:
        """A value of ``/metrics``, by ``name{label="value"}``; 0 for what is not there."""
        page = requests.get(f"http://127.0.0.1:{self.port + 1}/metrics", timeout=limit(10)).text
        found = [line.split()[-1] for line in page.splitlines() if line.startswith(f"{name} ")]
        return float(found[0]) if found else 0.0

    def memory(self) -> int:
        """Bytes that it and its processes have for themselves."""
        found = (forks.find(self.log.parent, name) for name in ("alzmri", "-c"))
        return sum(one.memory_full_info().uss for of in found for one in of)

    def stop(self, number: int) -> None:
        if self.process is not None and self.process.poll() is None:
            node = next(forks.find(self.log.parent, "alzmri"), self.process)
            node.send_signal(number)
            self.process.wait(limit(30))


@pytest.fixture
def make_node(tmp_path: Path, model: Path) -> Iterator[Callable[..., Node]]:
    """``make_node(port, "--send-to", …)``: a node, not yet started, that ends with the test."""
    made: list[Node] = []

    def make(port: int, *options: str) -> Node:
        common = ["--model", str(model), "--queue", str(tmp_path / "queue"), *options]
        (tmp_path / "node").mkdir()
        made.append(Node(port, common, tmp_path / "node/log"))
        return made[-1]

    yield make
    for node in made:
        node.stop(signal.SIGKILL)


@dataclass
class Receiver:
    """A storage SCP that counts: every object it was sent, in order."""

    port: int
    objects: list[Dataset] = field(default_factory=list)
    _entity: AE = field(default_factory=lambda: AE("RECEIVER"))

    def start(self) -> None:
        self._entity.supported_contexts = AllStoragePresentationContexts
        handlers = [(evt.EVT_C_STORE, self._keep)]
        self._entity.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)

    def stop(self) -> None:
        self._entity.shutdown()

    def _keep(self, event: evt.Event) -> int:
        item = event.dataset
        item.file_meta = event.file_meta
        self.objects.append(item)
        return 0


@pytest.fixture
def make_receiver() -> Iterator[Callable[[int], Receiver]]:
    made: list[Receiver] = []

    def make(port: int) -> Receiver:
        made.append(Receiver(port))
        return made[-1]

    yield make
    for receiver in made:
        receiver.stop()
