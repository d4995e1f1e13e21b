"""The pages of compare and review: ranked, warned about, and concluding what the numbers allow."""

import json
import re
import subprocess
import sys

import pytest

from alzmri.experiments.comparison import compared, ranked, reviewed
from alzmri.experiments.groups import Group, grouped

LEAK = {"split": {"unit": "slice"}, "shared": 38}


def _page(groups, baseline=None, metric="macro_f1"):
    return compared(groups, baseline, metric, "title")


def _conclusion(page):
    """As Markdown."""
    return page.text.splitlines()[2].removeprefix("> ")


def review(before, after):
    """Text and JSON of the review."""
    page = reviewed(before, after)
    plain = _conclusion(page).replace("`", "").replace("**", "")
    assert plain == page.content["conclusion"]
    return page.text, json.loads(json.dumps(page.content, allow_nan=False))


@pytest.fixture
def grid(make_run):
    """Two rates by two momenta by two seeds; the higher rate is better, the momentum no matter."""
    return [
        make_run(
            f"sweep-lr{lr}-momentum{momentum}-seed{seed}",
            right,
            train={"lr": lr, "momentum": momentum, "seed": seed},
        )
        for lr, right in ((0.001, 0.4), (0.01, 0.9))
        for momentum in (0.85, 0.9)
        for seed in (0, 1)
    ]


def test_the_conclusion_says_which_to_merge(grid):
    groups = grouped(grid)
    better = _page(groups, groups[0].name)
    best, second, *_ = (one["name"] for one in better.content["experiments"])
    said = _conclusion(better)
    assert said.startswith(f"**Merge `{best}`: better than the baseline `{groups[0].name}`**, +0.")
    assert f"`{best}` scores best: macro F1 0." in said
    assert "over 2 runs, [0." in said
    assert _conclusion(_page(groups[2:], second)).startswith("**Keep the baseline")
    assert _conclusion(_page(groups, best, "loss")).startswith(
        f"**Keep the baseline `{best}`.** Nothing scores higher: loss 0."
    )
    assert _conclusion(_page(groups, None, "loss")).startswith("**No baseline.** `sweep-lr0.01")


def test_the_best_comes_first_whichever_way_a_score_runs_and_the_undefined_last(grid, make_run):
    groups = grouped(grid)
    for metric in ("macro_f1", "accuracy", "subject.macro_f1", "loss", "brier", "val_loss"):
        rates = [group.settings["train.lr"] for group in ranked(groups, metric)]
        assert rates == [0.01, 0.01, 0.001, 0.001], metric
    undefined = make_run("undefined", 1.0)
    undefined.evaluation["macro_auc"] = None
    assert ranked([Group("undefined", [undefined]), *groups], "macro_auc")[-1].name == "undefined"


def test_what_leaks_is_never_the_best_and_is_labelled_everywhere(grid, make_run):
    leak = make_run("slices", 1.0, train={"lr": 0.01}, subjects="Q", **LEAK)
    page = _page(grouped([*grid, leak]))
    assert page.content["experiments"][-1]["name"] == "slices"
    assert "- **LEAKS: `slices` (38 of 40 test subjects were in training too).**" in page.text
    mentions = [line for line in page.text.splitlines() if line[:1] in "|-" and "`slices`" in line]
    assert len(mentions) == 3  # a warning, the other warning, the table
    assert all("LEAK" in line or "Not comparable" in line for line in mentions)
    assert "heatmap.png" in page.figures  # of those that do not
    alone = _conclusion(_page(grouped([leak])))
    assert alone.startswith("**Merge nothing by these scores: every run LEAKS.**")
    known = make_run("known", 1.0, shared=1)
    assert _page(grouped([known])).content["experiments"][0]["leaks"]


def test_warnings_about_a_ranking_are_given_where_they_hold(grid, make_run):
    assert _page(grouped(grid[:4])).content["warnings"] == []
    more = grouped([*grid, make_run("shuffled", 0.3, data={"permute_labels": True})])
    luck, shuffled = "is partly luck", "shuffled should score at chance"
    found = _page(more).content["warnings"]
    assert [luck in one or shuffled in one for one in found] == [True, True]
    (only,) = _page(more, None, "val_macro_f1").content["warnings"]
    assert shuffled in only
    other = grouped([make_run("a", 0.5), make_run("b", 0.5, code="beef")])
    assert "b ran with other code or data than a" in _page(other).content["warnings"][0]


def test_every_row_is_whole_and_a_program_reads_the_same(grid, make_run):
    groups = grouped(grid)
    page = _page(groups, "sweep-lr0.001-momentum0.85", "val_macro_f1")
    assert re.findall(r"\(<(.+?)>\)", page.text) == sorted(page.figures, key=page.text.index)
    assert "## train.lr by train.momentum" in page.text
    table = page.text[page.text.index("| experiment |") :].split("\n\n")[0].splitlines()
    assert len(table) == 2 + 4
    assert len({line.count("|") for line in table}) == 1
    assert table[2].startswith("| **`sweep-lr0.01-momentum0.85`** | **0.900 ± 0.000** |")
    assert " | 0.01 | 0.85 | 2 |" in table[2]
    content = json.loads(json.dumps(page.content, allow_nan=False))
    assert content["conclusion"] == _conclusion(page).replace("`", "").replace("**", "")
    best, *_, last = content["experiments"]
    assert best["best_against_this"] is None
    assert best["runs"] == [f"sweep-lr0.01-momentum0.85-seed{seed}" for seed in (0, 1)]
    assert best["parameters"] == {"train.lr": 0.01, "train.momentum": 0.85}
    assert best["scores"]["macro_f1"] > last["scores"]["macro_f1"]
    assert last["best_against_this"]["known"] == "better"
    assert last["ci95"]["macro_f1"] == ranked(groups, "macro_f1")[-1].interval
    crowd = [make_run(f"m{n}", 0.5, train={"lr": n / 100}) for n in range(1, 16)]
    crowded = _page(grouped(crowd)).figures
    assert sum("confusion" in path for path in crowded) == 12
    assert "heatmap.png" not in crowded


def test_a_review_of_a_better_one_lists_what_changed(make_run):
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
    shown = [run.shown("macro_f1") for run in (after, before)]
    assert f"| macro F1 | {' | '.join(shown)} | worse: -0." in text


def test_nothing_changed_only_where_parameters_data_code_and_scores_are_the_same(make_run):
    before = make_run("main", 0.5)
    text, content = review(before, make_run("new", 0.5))
    assert content["conclusion"].startswith("Nothing changed.")
    assert text.count("The same in both") == 3
    for other in (
        *({"code": "beef"}, {"total": 130}, {"ece": 0.9}, {"train": {"epochs": 7}}, {"shared": 1}),
    ):
        changed = review(before, make_run("new", 0.5, **other))[1]["conclusion"]
        assert not changed.startswith("Nothing changed."), other


def test_a_change_of_the_data_is_listed_by_class_and_part(make_run):
    text, content = review(make_run("main", 0.5), make_run("new", 0.5, total=90))
    assert "| `Non Demented` | 120 (40) → 90 (30) | 30 (10) | 30 (10) |" in text
    assert content["images"][0]["train"] == "120 (40) → 90 (30)"
    assert content["code"] == {}  # what another stage wrote is no source
    merged = review(make_run("main", 0.5), make_run("new", 0.5, merged=True))[0]
    assert "| `Demented` | – → 30 (10) |" in merged
    assert "| `Mild Demented` | 30 (10) → – |" in merged


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        ({"split": {"unit": "slice"}, "shared": 38}, "LEAKS: new (38 of 40 test subjects"),
        (
            {"split": {"unit": "slice"}, "shared": None},
            "LEAKS: new (subjects unknown, this split LEAKS).",
        ),
        ({"shared": 1}, "LEAKS: new (1 of 40 test subjects"),
        ({"subjects": "Q"}, "Not comparable with new: main (other test subjects (0 of 40 in"),
        ({"near": 3}, "new: 3 test images have a near-duplicate in training."),
        ({"data": {"permute_labels": True}}, "permuted between subjects: new should score at"),
        ({"stale": True}, "The results of new do not belong to its parameters and code: train ran"),
        ({"ece": 0.9}, "Calibration is worse: error 0.900 instead of"),
        ({"epochs": 2}, "The best epoch of new was its last, 2 of 2: more epochs"),
    ],
)
def test_a_warning_is_given_where_it_holds(make_run, changes, warning):
    (said,) = review(make_run("main", 0.5), make_run("new", 0.5, **changes))[1]["warnings"]
    assert warning in said


def test_no_conclusion_from_a_leak_from_other_tests_and_from_stale_results(make_run):
    before = make_run("main", 0.5)
    for base, changes, conclusion in (
        (before, LEAK, "Do not merge new for its score: it LEAKS. Its test subjects were in"),
        (before, LEAK | {"shared": None}, "Do not merge new for its score: it LEAKS. Its test"),
        (before, {"subjects": "Q"}, "No conclusion about main: not comparable, other test"),
        (
            before,
            {"stale": True},
            "No conclusion. The results of new do not belong to its parameters",
        ),
        (make_run("main", 0.5, **LEAK), {}, "Keep main, unless you want new"),
    ):
        said = review(base, make_run("new", 0.9 if changes else 0.5, **changes, code="x"))[1]
        assert said["conclusion"].startswith(conclusion)
    both = review(make_run("main", 0.4, **LEAK), make_run("new", 0.9, **LEAK))[1]["conclusion"]
    assert both.startswith("Merge new")
    assert both.endswith("Both LEAK: this says nothing about new subjects.")
    other = review(make_run("main", 0.5), make_run("new", 0.9, subjects="Q"))[0]
    assert "| validation loss | 0.500 | 0.100 |  |" in other


def test_reports_are_quick_because_nothing_heavy_is_imported():
    code = (
        "import sys, alzmri.experiments.comparison;"
        "print(*{'torch', 'sklearn', 'scipy', 'dvc', 'pandas'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
