"""What is said of a test set: with the temperature and without it, in numbers and in tables."""

import csv
from dataclasses import replace

import numpy as np
import pytest
import torch

from alzmri.classes import CLASSES
from alzmri.data.prepared import Row
from alzmri.evaluation import metrics, report
from alzmri.models import build
from alzmri.models.forward import predict, probabilities

TEMPERATURE = 3.0


@pytest.fixture
def make_test():
    """``make_test(calibrated)``: an over-confident model, right on three slices of each four."""
    truth = np.tile([0, 1, 1, 3, 1, 0, 0, 2], 4)
    guess = np.where(np.arange(len(truth)) % 4, truth, (truth + 1) % 4)
    rows = tuple(
        Row(number, f"{number}.png", CLASSES[label], f"P{number // 8}-{label}", "test", "")
        for number, label in enumerate(truth)
    )

    def make(*, calibrated: bool) -> report.Predictions:
        return report.Predictions(
            rows=rows,
            images=np.zeros((len(rows), 32, 32), np.uint8),
            truth=truth,
            logits=6.0 * np.eye(4)[guess],
            ood=np.zeros(len(rows), bool),
            temperature=TEMPERATURE,
            calibrated=calibrated,
            classes=CLASSES,
        )

    return make


@pytest.mark.parametrize("calibrated", [False, True])
def test_calibration_divides_the_logits_and_the_scores_are_of_what_params_ask_for(
    make_test, make_params, calibrated
):
    test = make_test(calibrated=calibrated)
    plain, divided = probabilities(test.logits), probabilities(test.logits / TEMPERATURE)
    found = report.details(test, make_params().split, shared=0)
    calibration = found["calibration"]
    assert (calibration["temperature"], calibration["applied"]) == (TEMPERATURE, calibrated)
    for name, expected in (("before", plain), ("after", divided)):
        scored = metrics.confidence_scores(test.truth, expected)
        assert {key: calibration[name][key] for key in scored} == scored, name
        low, high = calibration[name]["ci95"]["ece"]
        assert 0 <= low <= high
    # An over-confident model gains by it; one more sharpened would lose.
    assert calibration["after"]["loss"] < calibration["before"]["loss"]
    assert calibration["after"]["ece"] < calibration["before"]["ece"]
    applied = calibration["after" if calibrated else "before"]
    assert {key: found[key] for key in scored} == {key: applied[key] for key in scored}
    assert found["ci95"]["ece"] == applied["ci95"]["ece"]
    np.testing.assert_array_equal(test.probabilities, divided if calibrated else plain)


def test_scores_of_slices_and_of_subjects_are_not_mixed_up(make_test, make_params):
    found = report.details(make_test(calibrated=False), make_params().split, shared=2)
    # Every fourth of 32 slices is wrong, but the mean of each of the 16 subjects is right.
    assert found["accuracy"] == 0.75
    assert sum(off["slices"] for off in found["stages_off"].values()) == 32
    assert found["stages_off"]["0"]["slices"] == 24
    assert found["subject"]["n"] == 16
    assert [off["people"] for off in found["stages_off"].values()] == [16, 0, 0, 0]
    assert found["subject"]["accuracy"] == found["subject"]["macro_f1"] == 1
    for scores in (found, found["subject"]):
        for key in ("accuracy", "macro_f1"):
            low, high = scores["ci95"][key]
            assert low <= scores[key] <= high
    assert found["split"] == {"unit": "subject", "shared_subjects": 2}


def test_slices_that_predict_leaves_out_do_not_count_for_their_subject(make_test, make_params):
    test = make_test(calibrated=True)
    wrong = test.predicted != test.truth
    with_all = report.details(test, make_params().split, 0)
    without = report.details(replace(test, ood=wrong), make_params().split, 0)
    assert without["accuracy"] == with_all["accuracy"]
    assert without["subject"]["loss"] < with_all["subject"]["loss"]


def test_the_headline_has_the_interval_from_low_to_high():
    scores = {"macro_f1": 0.5, "accuracy": 0.6, "loss": 0.7, "ci95": {"macro_f1": [0.4, 0.55]}}
    assert report.headline(scores) == "macro F1 0.500 [0.400, 0.550], accuracy 0.600, loss 0.700"


def test_the_test_part_is_predicted_and_no_other(prepared, make_params):
    model = build("lenet", classes=4, image_size=32, dropout=0.5)
    found = report.predict_test(model, TEMPERATURE, prepared, make_params().evaluate)
    rows = prepared.indices("test")
    assert found.rows == tuple(prepared.rows[row] for row in rows)
    assert {row.split for row in found.rows} == {"test"}
    np.testing.assert_array_equal(found.images, prepared.images[rows])
    np.testing.assert_array_equal(found.truth, prepared.labels[rows])
    expected = predict(model, prepared.images, rows, torch.device("cpu"))
    np.testing.assert_allclose(found.logits, expected, rtol=1e-4, atol=1e-5)


def test_tables_have_a_row_per_slice_with_its_own_probabilities(make_test, tmp_path):
    test = make_test(calibrated=True)
    report.write_tables(tmp_path, test)
    with (tmp_path / "predictions.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["actual"] for row in rows] == [CLASSES[label] for label in test.truth]
    assert [row["subject"] for row in rows] == test.subjects
    assert {row["ood"] for row in rows} == {"0"}
    found = np.array([[float(row[name]) for name in CLASSES] for row in rows])
    np.testing.assert_allclose(found, test.probabilities, atol=1e-6)
    assert [row["predicted"] for row in rows] == [CLASSES[k] for k in found.argmax(axis=1)]
    with (tmp_path / "confusion.csv").open(newline="") as handle:
        pairs = list(csv.DictReader(handle))
    # Numbered from 0, so that renderers which sort by letter keep the order.
    for column in ("actual", "predicted"):
        expected = [f"{CLASSES.index(row[column])} {row[column]}" for row in rows]
        assert [pair[column] for pair in pairs] == expected
