"""A leak is refused unless it is accepted and labelled."""

from dataclasses import replace

import pytest
import torch

from alzmri.data.prepared import PREPARED
from alzmri.errors import LeakError, UserError
from alzmri.evaluation import report
from alzmri.evaluation.leak import check_leak, near_duplicates
from alzmri.files import write_json
from alzmri.models import build, saved
from alzmri.training.loop import Run
from alzmri.training.results import card


@pytest.fixture
def trained(prepared, make_params):
    params = make_params(model={"name": "lenet"})
    run = Run.start(prepared, params, torch.device("cpu"))
    return card(run, prepared, params, "0123456789abcdef")


@pytest.fixture
def leaking(prepared):
    """A test part with a subject of the training part."""
    rows = tuple(
        replace(row, split="test") if row.path.endswith("0-0_3.png") else row
        for row in prepared.rows
    )
    return replace(prepared, rows=rows)


def test_a_clean_split_passes(trained, prepared):
    assert check_leak(trained, prepared, "subject") == 0


def test_a_leak_is_refused_with_the_remedy(trained, leaking):
    with pytest.raises(LeakError, match=r"1 of 5 test subjects.*dvc repro train"):
        check_leak(trained, leaking, "subject")


def test_a_declared_leak_is_counted_and_labelled(trained, leaking, make_params):
    trained = replace(trained, data_sha256=leaking.digest)
    shared = check_leak(trained, leaking, "slice")
    assert shared == 1
    params = make_params(split={"unit": "slice"})
    test = report.predict_test(build(**trained.architecture), 1.0, leaking, params.evaluate)
    assert "1 of them in training too: THIS SPLIT LEAKS" in report.note(test, params, shared)


def test_near_duplicates_across_the_parts_end_the_claim(
    trained, prepared, make_params, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    write_json(PREPARED / "summary.json", {"leak": {"near_duplicates_across_subject_split": 7}})
    params = make_params()
    test = report.predict_test(build(**trained.architecture), 1.0, prepared, params.evaluate)
    assert "none seen in training" in report.note(test, params, 0, 0)
    note = report.note(test, params, 0, near_duplicates())
    assert "7 near-duplicates across the parts: THIS SPLIT LEAKS" in note
    assert "none seen" not in note
    found = report.details(test, params.split, 0, near_duplicates())
    assert found["shared_subjects"] is None


def test_new_names_do_not_hide_a_leak(trained, prepared):
    """The same subjects under other names, training and test exchanged."""
    other = {"train": "test", "test": "train", "val": "val"}
    rows = tuple(
        replace(row, subject=f"new {row.subject}", split=other[row.split]) for row in prepared.rows
    )
    with pytest.raises(UserError, match="trained on other data or another split"):
        check_leak(trained, replace(prepared, rows=rows), "subject")


def test_the_card_names_every_training_person_by_digest(trained):
    assert len(trained.training_subjects) == 16
    assert saved.subject_digest("0-0") in trained.training_subjects
