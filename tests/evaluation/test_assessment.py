"""What is said of a test part, in numbers and in tables; a leak is refused, or labelled."""

import csv
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from alzmri.classes import CLASSES
from alzmri.data.prepared import Row
from alzmri.errors import LeakError, UserError
from alzmri.evaluation import assessment, metrics
from alzmri.evaluation.assessment import check_leak
from alzmri.models.architectures import build
from alzmri.models.forward import predict, probabilities
from alzmri.training.loop import TrainingState
from alzmri.training.results import card

TEMPERATURE = 3.0
LEAK = {"unit": "subject", "shared_subjects": 2}
NONE_OOD = SimpleNamespace(score=lambda activations: np.zeros(len(activations)))


@pytest.fixture
def make_test():
    """``make_test(calibrated)``: an over-confident model, right on three slices of each four."""
    truth = np.tile([0, 1, 1, 3, 1, 0, 0, 2], 4)
    guess = np.where(np.arange(len(truth)) % 4, truth, (truth + 1) % 4)
    rows = tuple(
        Row(number, f"{number}.png", CLASSES[label], f"P{number // 8}-{label}", "test", "")
        for number, label in enumerate(truth)
    )

    def make(*, calibrated: bool) -> assessment.Predictions:
        return assessment.Predictions(
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
    make_test, calibrated
):
    test = make_test(calibrated=calibrated)
    plain, divided = probabilities(test.logits), probabilities(test.logits / TEMPERATURE)
    found = assessment.details(test, {**LEAK, "shared_subjects": 0}, seed=0)
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


def test_scores_of_slices_and_of_subjects_are_not_mixed_up(make_test):
    found = assessment.details(make_test(calibrated=False), LEAK, seed=0)
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
    assert found["split"] == LEAK
    assert found["shared_subjects"] == 2
    # Slices that `alzmri predict` leaves out do not count for their subject.
    test = make_test(calibrated=False)
    test = replace(test, ood=test.predicted != test.truth)
    without = assessment.details(test, LEAK, seed=0)
    assert without["accuracy"] == found["accuracy"]
    assert without["subject"]["loss"] < found["subject"]["loss"]


def test_the_test_part_is_predicted_and_no_other(prepared):
    model = build("lenet", classes=4, image_size=32, dropout=0.5)
    found = assessment.predict_test(model, TEMPERATURE, prepared, NONE_OOD, calibrated=True)
    rows = prepared.indices("test")
    assert found.rows == tuple(prepared.rows[row] for row in rows)
    assert {row.split for row in found.rows} == {"test"}
    np.testing.assert_array_equal(found.images, prepared.images[rows])
    np.testing.assert_array_equal(found.truth, prepared.labels[rows])
    expected = predict(model, prepared.images, rows, torch.device("cpu"))
    np.testing.assert_allclose(found.logits, expected, rtol=1e-4, atol=1e-5)


def test_tables_have_a_row_per_slice_with_its_own_probabilities(make_test, tmp_path):
    test = make_test(calibrated=True)
    assessment.write_tables(tmp_path, test)
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


@pytest.fixture
def trained(prepared, make_params):
    """The card of an untrained model."""
    params = make_params(model={"name": "lenet"})
    state = TrainingState.start(prepared, params, torch.device("cpu"))
    return card(state, prepared, params, "0123456789abcdef")


def summary(near=0, gap=(0.4, 0.6)):
    """The part of ``summary.json`` that says whether a subject may have several names."""
    people = {"from": "pixels", "gap": gap}
    return {"leak": {"near_duplicates_across_subject_split": near}, "people": people}


def test_a_leak_is_refused_unless_it_is_declared_and_then_labelled(trained, prepared):
    none = {"unit": "subject", "shared_subjects": 0}
    assert check_leak(trained, prepared, "subject", summary()) == none
    rows = tuple(
        replace(row, split="test") if row.path.endswith("0-0_3.png") else row
        for row in prepared.rows
    )
    leaking = replace(prepared, rows=rows)
    with pytest.raises(LeakError, match=r"1 of 5 test subjects.*dvc repro train"):
        check_leak(trained, leaking, "subject", summary())
    trained = replace(trained, data_sha256=leaking.digest)
    leak = check_leak(trained, leaking, "slice", summary(gap=None))
    assert leak["shared_subjects"] == 1
    model = build(**trained.architecture)
    test = assessment.predict_test(model, 1.0, leaking, NONE_OOD, calibrated=True)
    shown = assessment.note(test, leak, permuted=False)
    assert "1 of them in training too: THIS SPLIT LEAKS" in shown
    assert "none seen in training" in assessment.note(test, none, permuted=False)
    near = check_leak(trained, leaking, "slice", summary(7))
    assert near["shared_subjects"] is None
    shown = assessment.note(test, near, permuted=True)
    assert "PERMUTED LABELS; 7 near-duplicates across the parts: THIS SPLIT LEAKS" in shown


def test_subjects_from_pixels_without_a_gap_may_leak(trained, prepared):
    """Such a subject may be in several groups, one of them in training, another in the test."""
    leak = check_leak(trained, prepared, "subject", summary(gap=None))
    assert leak["shared_subjects"] is None
    test = assessment.predict_test(
        build(**trained.architecture), 1.0, prepared, NONE_OOD, calibrated=True
    )
    shown = assessment.note(test, leak, permuted=False)
    assert shown.endswith("who may be in several groups: THIS SPLIT MAY LEAK")
    assert assessment.details(test, leak, seed=0)["shared_subjects"] is None


def test_other_names_do_not_hide_a_leak(trained, prepared):
    """The same subjects under other names, training and test exchanged."""
    other = {"train": "test", "test": "train", "val": "val"}
    rows = tuple(
        replace(row, subject=f"new {row.subject}", split=other[row.split]) for row in prepared.rows
    )
    with pytest.raises(UserError, match="trained on other data or another split"):
        check_leak(trained, replace(prepared, rows=rows), "subject", summary())


def test_mistakes_are_counted_by_the_number_of_stages_that_they_are_off():
    truth, predicted = np.array([0, 0, 3, 1, 2]), np.array([0, 1, 0, 3, 1])
    tested = truth, 0.6 * np.eye(4)[predicted] + 0.1, list("abcde")
    found = assessment.score(*tested, CLASSES, 0, np.ones(5, bool))
    assert found["stages_off"] == {
        str(distance): {"slices": count, "people": count}
        for distance, count in enumerate((1, 2, 1, 1))
    }


def test_of_unknown_subjects_nothing_is_said_but_that(trained, prepared):
    """A split of slices without subjects shares nobody by name; that must not read as 0."""
    rows = tuple(replace(row, subject=f"?{row.index:016}") for row in prepared.rows)
    unknown = replace(prepared, rows=rows)
    trained = replace(trained, data_sha256=unknown.digest, training_subjects=[])
    leak = check_leak(trained, unknown, "slice", summary())
    assert leak == {"unit": "slice", "shared_subjects": None}
    model = build(**trained.architecture)
    test = assessment.predict_test(model, 1.0, unknown, NONE_OOD, calibrated=True)
    found = assessment.details(test, leak, seed=0)
    assert found["subject"] == {"n": None, "accuracy": None, "macro_f1": None, "ci95": {}}
    assert (found["subject_macro_f1"], found["subject_accuracy"]) == (None, None)
    assert {off["people"] for off in found["stages_off"].values()} == {None}
    shown = assessment.note(test, leak, permuted=False)
    assert shown == "16 test slices of unknown subjects: subjects unknown, THIS SPLIT LEAKS"


def test_slices_beyond_the_detectors_threshold_are_marked(prepared, tmp_path):
    scores = np.arange(16) / 8  # the threshold itself is within
    detector = SimpleNamespace(score=lambda activations: scores[: len(activations)])
    model = build("lenet", classes=4, image_size=32, dropout=0.5)
    found = assessment.predict_test(model, TEMPERATURE, prepared, detector, calibrated=True)
    assert found.ood.tolist() == [False] * 9 + [True] * 7
    assessment.write_tables(tmp_path, found)
    with (tmp_path / "predictions.csv").open(newline="") as handle:
        assert [row["ood"] for row in csv.DictReader(handle)] == ["0"] * 9 + ["1"] * 7
