"""What a model's outputs mean, and how they are reported."""

import numpy as np
import pytest

from alzmri.inference.inputs import InputSlice
from alzmri.inference.predictor import Prediction, PredictionReport, interpret

from .conftest import CARD


def test_logits_are_divided_by_the_temperature_and_the_distant_is_out_of_distribution(predictor):
    logits = np.array([[2.0, 0.0, -2.0, 0.0], [0.0, 1.0, 0.5, 0.0]])
    middle = predictor.detector.mean
    activations = np.stack([middle, middle + 50])
    found = interpret(logits, activations, CARD, predictor.detector)
    divided = np.exp(logits / 1.5)
    np.testing.assert_allclose(found.probabilities, divided / divided.sum(axis=1, keepdims=True))
    assert found.in_distribution.tolist() == [True, False]
    assert found.ood_score[0] < 1 < found.ood_score[1]


def test_out_of_distribution_has_no_class_and_no_share_in_a_subjects_mean(predictor):
    """Ann has two slices and a strange one, Bob a strange one alone."""
    names = ("Ann", "Ann", "Ann", "Bob", None)
    slices = [
        InputSlice(f"/scans/{number}.png", name, None, np.zeros((32, 32), np.uint8))
        for number, name in enumerate(names)
    ]
    first = np.array([0.9, 0.7, 0.0, 0.4, 0.2])
    inside = np.array([True, True, False, False, True])
    chances = np.stack([first, 1 - first, 0 * first, 0 * first], 1)
    prediction = Prediction(chances, np.where(inside, 0.5, 3), inside)
    report = PredictionReport(predictor, slices, prediction, [("x.txt", "not an image")])
    ann, bob = report.subjects
    assert (ann.name, ann.members, ann.slices) == ("Ann", (0, 1), 3)
    np.testing.assert_allclose(ann.probabilities, [0.8, 0.2, 0, 0])
    assert (bob.name, bob.members, bob.slices, bob.probabilities) == ("Bob", (), 1, None)

    content = report.as_json()
    called = ["a", "a", None, None, "b"]
    assert [item["predicted"] for item in content["slices"]] == called
    assert [item["in_distribution"] for item in content["slices"]] == inside.tolist()
    chances = content["slices"][1]["probabilities"]
    assert chances == pytest.approx({"a": 0.7, "b": 0.3, "c": 0, "d": 0})
    ann, bob = content["subjects"]
    assert (ann["predicted"], ann["slices"], ann["slices_in_distribution"]) == ("a", 3, 2)
    assert (bob["predicted"], bob["probabilities"]) == (None, None)
    assert content["refused"] == [{"path": "x.txt", "reason": "not an image"}]
    header, *rows = report.as_csv()
    column = header.index("predicted")
    assert [row[column] for row in rows] == [name or "out of distribution" for name in called]
    assert [row[header.index("b")] for row in rows][:2] == ["0.100000", "0.300000"]
    shown = report.table()
    assert list(shown.columns[1].cells) == [
        f"[bold]{name}[/]" if name else "[yellow]OOD[/]" for name in (*called, "a", None)
    ]
    assert list(shown.columns[2].cells)[-2:] == ["0.800", "–"]
    assert list(shown.columns[-1].cells)[-2:] == ["2 of 3 slices", "0 of 1 slices"]
