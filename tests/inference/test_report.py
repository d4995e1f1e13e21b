"""A subject's class is the mean of the slices that are in distribution, and of no others."""

from types import SimpleNamespace

import numpy as np
import pytest

from alzmri.inference.inputs import Slice
from alzmri.inference.predictor import Prediction
from alzmri.inference.report import OUT_OF_DISTRIBUTION, Report

CLASSES = ["Non Demented", "Demented"]


@pytest.fixture
def report():
    """Two subjects: Ann with two slices and a strange one, Bob with a strange one alone."""
    names = ("Ann", "Ann", "Ann", "Bob", None)
    slices = [
        Slice(f"/scans/{number}.png", name, None, np.zeros((32, 32), np.uint8))
        for number, name in enumerate(names)
    ]
    first = np.array([0.9, 0.7, 0.0, 0.4, 0.2])
    in_distribution = np.array([True, True, False, False, True])
    prediction = Prediction(
        np.stack([first, 1 - first], 1), np.where(in_distribution, 0.5, 3), in_distribution
    )
    card = SimpleNamespace(
        architecture={"name": "lenet"}, parameters={"data": {"source": "phantom"}}
    )
    predictor = SimpleNamespace(classes=CLASSES, card=card, detector=SimpleNamespace(weights="w"))
    return Report(predictor, slices, prediction, [("x.txt", "not an image")])


def test_the_mean_of_a_subject_leaves_out_what_is_out_of_distribution(report):
    ann, bob = report.subjects
    assert (ann.name, ann.members, ann.slices) == ("Ann", (0, 1), 3)
    np.testing.assert_allclose(ann.probabilities, [0.8, 0.2])
    assert (bob.name, bob.members, bob.slices) == ("Bob", (), 1)
    assert bob.probabilities is None


def test_json_and_csv_have_no_class_for_what_is_out_of_distribution(report):
    content = report.as_json()
    called = ["Non Demented", "Non Demented", None, None, "Demented"]
    assert [item["predicted"] for item in content["slices"]] == called
    assert [item["in_distribution"] for item in content["slices"]] == [
        name is not None for name in called
    ]
    assert content["slices"][1]["probabilities"] == pytest.approx(
        {"Non Demented": 0.7, "Demented": 0.3}
    )
    ann, bob = content["subjects"]
    assert (ann["predicted"], ann["slices"], ann["slices_in_distribution"]) == (
        "Non Demented",
        3,
        2,
    )
    assert (bob["predicted"], bob["probabilities"]) == (None, None)
    assert content["refused"] == [{"path": "x.txt", "reason": "not an image"}]
    header, *rows = report.as_csv()
    column = header.index("predicted")
    assert [row[column] for row in rows] == [name or OUT_OF_DISTRIBUTION for name in called]
    assert [row[header.index("Demented")] for row in rows][:2] == ["0.100000", "0.300000"]
