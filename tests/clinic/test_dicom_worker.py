"""The process that predicts: what stalls or ends it does not reach the node."""

import io
import multiprocessing
import os
import signal
import subprocess
from pathlib import Path

import pydicom
import pytest

from alzmri import __version__
from alzmri.clinic.dicom_node import DicomWorker


@pytest.fixture
def registered(model, tmp_path, monkeypatch):
    """A repository in which the model is ``alzmri@v1.2.3``; the test works in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").symlink_to(model)
    (tmp_path / "dvc.lock").touch()
    name = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init"], ["add", "dvc.lock"], [*name, "commit", "-m", "a run"]):
        subprocess.run(["git", *words], check=True, capture_output=True)
    subprocess.run(["git", *name, "tag", "-a", "alzmri@v1.2.3", "-m", "registered"], check=True)
    return model


def test_images_that_stall_the_prediction_get_a_report_that_says_so(registered):
    worker = DicomWorker(Path("models"))
    (process,) = multiprocessing.active_children()
    os.kill(process.pid, signal.SIGSTOP)
    objects = worker.answer(registered / "series", 1)
    assert not process.is_alive()
    worker.stop()
    (content,) = objects.values()
    report = pydicom.dcmread(io.BytesIO(content))
    assert "No class: the prediction took more than 1 s" in report.to_json()
    assert report.SoftwareVersions == [__version__, "alzmri@v1.2.3"]
