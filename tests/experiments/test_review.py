"""A review says what a change does to parameters, data, code and scores, and whether to merge."""

import json
import subprocess
import sys

import pytest

from alzmri.experiments.review import report


def review(before, after):
    """Text and JSON of the review."""
    page = report(before, after)
    assert page.text.splitlines()[2].replace("`", "").replace("**", "") == (
        f"> {page.content['conclusion']}"
    )
    return page.text, json.loads(json.dumps(page.content, allow_nan=False))


def test_a_better_one_is_to_be_merged_and_what_changed_is_listed(make_run):
    before, after = make_run("main", 0.4), make_run("new", 0.9, train={"lr": 0.05}, code="beef")
    text, content = review(before, after)
    assert content["conclusion"].startswith("Merge new: better than main, +0.")
    assert content["verdict"]["known"] == "better"
    assert content["verdict"]["difference"]["ahead"] == 1
    assert content["parameters"] == {"train.lr": {"base": 0.0001, "head": 0.05}}
    assert content["code"] == {"train": ["src/alzmri/training"]}
    assert content["warnings"] == []
    assert content["scores"]["subject.macro_f1"]["head"] == after.score("subject.macro_f1")
    for line in (
        "| `train.lr` | 0.0001 | 0.05 |",
        "| `train` | `src/alzmri/training` |",
        "The same in both: 360 images of 120 subjects.",
        "| best epoch | 2 of 3 | 2 of 3 |  |",
        "| validation loss | 0.600 | 0.100 | -0.500 better |",
        "| validation accuracy | 0.400 | 0.900 | +0.500 better |",
        f"| accuracy | {before.shown('accuracy')} | {after.shown('accuracy')} | +",
        f"| subject-level macro F1 | {before.shown('subject.macro_f1')} | ",
    ):
        assert line in text
    assert "## Warnings" not in text
    assert "[" in before.shown("subject.macro_f1")
    text, content = review(after, before)
    assert content["conclusion"].startswith("Keep new: main is worse, -0.")
    assert "| validation loss | 0.100 | 0.600 | +0.500 worse |" in text
    assert (
        f"| macro F1 | {after.shown('macro_f1')} | {before.shown('macro_f1')} | worse: -0." in text
    )


def test_of_unknown_subjects_nothing_is_said_but_that_it_leaks(make_run):
    slices = make_run("slices", 0.9, shared=None, split={"unit": "slice"})
    text, content = review(make_run("main", 0.4), slices)
    assert content["conclusion"].startswith("Do not merge slices for its score: it LEAKS.")
    assert "Its test subjects may have been in training too" in text
    assert "- **Subjects unknown, this split LEAKS: `slices`.** No estimate for new" in text
    assert "360 images of unknown subjects" in text


def test_nothing_changed_only_where_parameters_data_code_and_scores_are_the_same(make_run):
    before = make_run("main", 0.5)
    text, content = review(before, make_run("new", 0.5))
    assert content["conclusion"].startswith("Nothing changed.")
    assert text.count("The same in both") == 3
    assert "| loss | 1." in text
    assert "| same |" in text
    for other in (
        *({"code": "beef"}, {"total": 130}, {"ece": 0.9}, {"train": {"epochs": 7}}, {"shared": 1}),
    ):
        changed = review(before, make_run("new", 0.5, **other))[1]["conclusion"]
        assert not changed.startswith("Nothing changed."), other
    assert "every prediction is the same class" in review(before, make_run("n", 0.5, code="x"))[0]


def test_a_change_of_the_data_is_listed_by_class_and_part(make_run):
    text, content = review(make_run("main", 0.5), make_run("new", 0.5, total=90))
    assert "| `Non Demented` | 120 (40) → 90 (30) | 30 (10) | 30 (10) |" in text
    assert content["images"][0]["train"] == "120 (40) → 90 (30)"
    assert content["code"] == {}  # what another stage wrote is no source
    assert content["warnings"] == ["30 fewer subjects in the collection: 90 instead of 120."]
    assert not review(make_run("main", 0.5), make_run("new", 0.5, total=130))[1]["warnings"]
    merged = review(make_run("main", 0.5), make_run("new", 0.5, merged=True))[0]
    assert "| `Demented` | – → 30 (10) |" in merged
    assert "| `Mild Demented` | 30 (10) → – |" in merged


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        ({"split": {"unit": "slice"}, "shared": 38}, "LEAKS: new (38 of 40) of the test subjects"),
        ({"shared": 1}, "LEAKS: new (1 of 40) of the test subjects"),
        ({"subjects": "Q"}, "Not comparable with new: main (other test subjects (0 of 40 in"),
        ({"near": 3}, "new: 3 test images have a near-duplicate in training."),
        ({"data": {"permute_labels": True}}, "permuted between subjects: new should score at"),
        ({"stale": True}, "The results of new are not of its parameters and code: train ran"),
        ({"ece": 0.9}, "Calibration is worse: error 0.900 instead of"),
        ({"epochs": 2}, "new was at its best in its last epoch, 2 of 2: it might gain"),
    ],
)
def test_a_warning_is_given_where_it_holds(make_run, changes, warning):
    (said,) = review(make_run("main", 0.5), make_run("new", 0.5, **changes))[1]["warnings"]
    assert warning in said


def test_no_conclusion_from_a_leak_from_other_tests_and_from_stale_results(make_run):
    before = make_run("main", 0.5)
    leak = {"split": {"unit": "slice"}, "shared": 38}
    for base, changes, conclusion in (
        (before, leak, "Do not merge new for its score: it LEAKS."),
        (before, {"subjects": "Q"}, "No conclusion about main: not comparable, other test"),
        (before, {"stale": True}, "No conclusion. The results of new are not of its parameters"),
        (make_run("main", 0.5, **leak), {}, "Keep main, unless new is wanted"),
    ):
        said = review(base, make_run("new", 0.9 if changes else 0.5, **changes, code="x"))[1]
        assert said["conclusion"].startswith(conclusion)
    both = review(make_run("main", 0.4, **leak), make_run("new", 0.9, **leak))[1]["conclusion"]
    assert both.startswith("Merge new")
    assert both.endswith("Both LEAK: this says nothing about new subjects.")
    other = review(make_run("main", 0.5), make_run("new", 0.9, subjects="Q"))[0]
    assert "| validation loss | 0.500 | 0.100 |  |" in other


def test_reports_are_quick_because_nothing_heavy_is_imported():
    code = (
        "import sys, alzmri.experiments.review;"
        "print(*{'torch', 'sklearn', 'scipy', 'dvc', 'pandas'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
