"""The process that predicts: what stalls or ends it does not reach the node."""

import io
import multiprocessing
import os
import signal

import pydicom

from alzmri.clinic.node import Worker


def test_images_that_stall_the_prediction_get_a_report_that_says_so(model):
    worker = Worker(model, slices=6, max_seconds=1)
    with worker.running():
        (process,) = multiprocessing.active_children()
        assert process.pid is not None
        os.kill(process.pid, signal.SIGSTOP)
        answer = worker.answer(model / "series")
        assert not process.is_alive()
    assert answer is not None
    assert not answer.has_class
    (content,) = answer.objects.values()
    said = pydicom.dcmread(io.BytesIO(content)).to_json()
    assert "No class: to predict took more than 1 s" in said
