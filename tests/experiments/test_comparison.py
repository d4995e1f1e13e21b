"""The pages of compare and review: ranked, warned about, and concluding what the numbers allow."""

import json
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from alzmri.errors import UserError
from alzmri.experiments import comparison
from alzmri.experiments.comparison import compare, compared, grouped, ranked, reviewed, varying
from alzmri.experiments.finished_runs import Group

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
    assert "- **`slices` LEAKS (38 of 40 test subjects were in training too).**" in page.text
    mentions = [line for line in page.text.splitlines() if line[:1] in "|-" and "`slices`" in line]
    assert len(mentions) == 3  # a warning, the other warning, the table
    assert all("LEAK" in line or "Not comparable" in line for line in mentions)
    alone = _conclusion(_page(grouped([leak])))
    assert alone.startswith("**Merge nothing by scores: every run LEAKS.**")
    may = make_run("may", 0.2, train={"lr": 0.1}, shared=None)
    may.evaluation["split"]["several_groups"] = True
    both = _page(grouped([leak, may])).text
    assert "`may` MAY LEAK (a subject may have several names), `slices` LEAKS (38 of 40" in both
    assert "every run MAY LEAK" in both
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
        "| validation loss | 0.600 | 0.100 | -0.500 |",
        "| validation accuracy | 0.400 | 0.900 | +0.500 |",
        f"| accuracy | {before.shown('accuracy')} | {after.shown('accuracy')} | +",
        f"| subject-level macro F1 | {before.shown('subject.macro_f1')} | ",
    ):
        assert line in text
    assert "## Warnings" not in text
    assert "[" in before.shown("subject.macro_f1")
    text, content = review(after, before)
    assert content["conclusion"].startswith("Keep new: main is worse, -0.")
    assert "| validation loss | 0.100 | 0.600 | +0.500 |" in text
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
        ({"split": {"unit": "slice"}, "shared": 38}, "new LEAKS (38 of 40 test subjects"),
        (
            {"split": {"unit": "slice"}, "shared": None},
            "new LEAKS (subjects unknown).",
        ),
        ({"shared": 1}, "new LEAKS (1 of 40 test subjects"),
        ({"subjects": "Q"}, "Not comparable with new: main (other test subjects (0 of 40 in"),
        ({"near": 3}, "new: 3 test images have a near-duplicate in training."),
        ({"data": {"permute_labels": True}}, "permuted between subjects: new should score at"),
        ({"stale": True}, "The results of new do not belong to its parameters and code: train ran"),
        ({"ece": 0.9}, "Calibration is worse: error 0.900 instead of"),
        ({"epochs": 2}, "The best epoch of new was its last: more epochs"),
    ],
)
def test_a_warning_is_given_where_it_holds(make_run, changes, warning):
    (said,) = review(make_run("main", 0.5), make_run("new", 0.5, **changes))[1]["warnings"]
    assert warning in said


def test_no_conclusion_from_a_leak_from_other_tests_and_from_stale_results(make_run):
    before = make_run("main", 0.5)
    for base, changes, conclusion in (
        (before, LEAK, "Do not merge new for its score: it LEAKS. main does not."),
        (before, LEAK | {"shared": None}, "Do not merge new for its score: it LEAKS."),
        (before, {"subjects": "Q"}, "No conclusion about main: not comparable, other test"),
        (
            before,
            {"stale": True},
            "No conclusion. The results of new do not belong to its parameters",
        ),
        (make_run("main", 0.5, **LEAK), {}, "Keep main, or new for other merits"),
    ):
        said = review(base, make_run("new", 0.9 if changes else 0.5, **changes, code="x"))[1]
        assert said["conclusion"].startswith(conclusion)
    both = review(make_run("main", 0.4, **LEAK), make_run("new", 0.9, **LEAK))[1]["conclusion"]
    assert both.startswith("Merge new")
    assert both.endswith("new LEAKS, main LEAKS: it says nothing about new subjects.")
    other = review(make_run("main", 0.5), make_run("new", 0.9, subjects="Q"))[0]
    assert "| validation loss | 0.500 | 0.100 |  |" in other


def test_reports_are_quick_because_nothing_heavy_is_imported():
    code = (
        "import sys, alzmri.experiments.comparison;"
        "print(*{'torch', 'sklearn', 'scipy', 'dvc', 'pandas'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize(
    ("change", "groups"),
    [
        ({"train": {"seed": 1}}, 1),
        ({"split": {"seed": 1, "folds": 5}}, 1),
        ({"split": {"fold": 2, "folds": 5}}, 1),
        ({"train": {"keep_last": True, "checkpoint_every": 5}}, 1),
        ({"track": {"mode": "disabled"}}, 1),
        ({"split": {"folds": 3}}, 2),
        ({"split": {"folds": 5, "unit": "slice"}}, 2),
        ({"augment": {"p": 0.5}}, 2),
        ({"data": {"merge": "binary"}}, 2),
        ({"model": {"dropout": 0.1}}, 2),
        ({"evaluate": {"temperature": False}}, 2),
        ({"code": "beef"}, 2),
    ],
)
def test_seeds_and_folds_repeat_an_experiment_and_what_shapes_a_score_makes_another(
    make_run, change, groups
):
    change = {"split": {"folds": 5}, **change}
    runs = [make_run("a-seed0", 0.5, split={"folds": 5}), make_run("a-seed1", 0.5, **change)]
    found = grouped(runs)
    assert len(found) == groups
    assert [group.name for group in found] == (["a"] if groups == 1 else ["a-seed0", "a-seed1"])


def test_a_group_is_named_ordered_and_scored_as_its_runs_are(make_run):
    runs = [
        make_run(f"sweep-lr{lr}-seed{n}", lr, train={"lr": lr, "seed": n}, epochs=n)
        for lr in (0.4, 0.9)
        for n in (10, 9)
    ]
    low, high = grouped(runs)
    assert [low.name, high.name] == ["sweep-lr0.4", "sweep-lr0.9"]
    assert varying([low, high]) == ["train.lr"]
    assert [run.name for run in low.runs] == ["sweep-lr0.4-seed9", "sweep-lr0.4-seed10"]
    assert low.history("val_macro_f1").shape == (2, 9)
    scores = [run.score("macro_f1") for run in low.runs]
    assert low.shown("macro_f1") == f"{np.mean(scores):.3f} ± {np.std(scores, ddof=1):.3f}"
    start, end = low.interval
    assert start < np.mean(scores) < end
    same = [make_run(f"x-seed{n}", 0.5, code=str(n // 2), train={"seed": n}) for n in range(4)]
    assert [group.name for group in grouped(same)] == ["x-seed0", "x-seed2"]


def test_a_verdict_is_what_the_bootstrap_over_subjects_knows(make_run):
    weak, good, best = (
        Group(name, [make_run(name, right)])
        for name, right in (("w", 0.4), ("g", 0.9), ("b", 0.95))
    )
    better, worse, same, alike = (
        compare(*pair) for pair in ((good, weak), (weak, good), (good, good), (best, good))
    )
    assert [one.known for one in (better, worse, same, alike)] == [
        *("better", "worse", "the same", "not significantly different")
    ]
    assert compare(good, best).known == "not significantly different"  # whichever of them is ahead
    assert re.fullmatch(r"better: \+0\.\d{3} \[\+0\.\d{3}, \+0\.\d{3}\]", better.words)
    assert worse.words.startswith("worse: -0.")
    assert same.words == "the same"
    assert "ahead in 100 % of the resamples of 40 test subjects" in better.evidence
    assert better.difference["value"] == -worse.difference["value"]
    said = [one.advice("`new`", "`old`") for one in (better, worse, same, alike)]
    assert said[0].startswith("**Merge `new`: better than `old`**, +0.")
    assert said[1].startswith("**Keep `old`: `new` is worse**, -0.")
    assert "every prediction is the same class" in said[2]
    assert "for other merits: not significantly different" in said[3]


def test_equal_scores_of_other_mistakes_are_not_the_same(make_run):
    one, other = make_run("one", 0.6), make_run("other", 0.6)
    predicted = other.predictions.probabilities
    right = other.predictions.predicted == other.predictions.truth
    hit, miss = (next(n for n in range(0, len(right), 12) if right[n] == known) for known in (1, 0))
    predicted[[hit, miss]] = predicted[[miss, hit]]
    verdict = compare(Group("one", [one]), Group("other", [other]))
    assert verdict.difference["value"] == 0
    assert verdict.known == "not significantly different"


def test_other_test_subjects_classes_and_labels_are_not_compared(make_run):
    ours = Group("ours", [make_run("ours", 0.5)])
    relabelled = make_run("relabelled", 0.9)
    relabelled.predictions.truth[:3] = 2
    for run, evidence in (
        (make_run("others", 0.9, subjects="Q"), "other test subjects (0 of 40 in common)"),
        (make_run("two", 0.9, merged=True), "other classes"),
        (relabelled, "other labels"),
    ):
        verdict = compare(Group(run.name, [run]), ours)
        assert (verdict.words, verdict.evidence) == ("not comparable", evidence)
        assert verdict.difference is None
        assert f"No conclusion about `o`: not comparable**, {evidence}" in verdict.advice(
            "n", "`o`"
        )


def test_runs_of_one_seed_are_compared_and_those_without_counterpart_left_out(make_run):
    def group(name, right, *seeds):
        runs = [make_run(f"{name}{seed}", right, train={"seed": seed}) for seed in seeds]
        return Group(name, runs)

    alone = compare(group("a", 0.9, 0, 1, 2), group("b", 0.4, 1))
    assert "on the 1 of 3 runs that have a counterpart" in alone.evidence
    pair = compare(group("a", 0.9, 1), group("b", 0.4, 1))
    assert alone.difference["interval"] == pair.difference["interval"]
    assert compare(group("a", 0.9, 0, 1), group("b", 0.4, 2, 3)).evidence.endswith("pairs of runs")
    assert "runs" not in pair.evidence


def test_what_did_not_run_wholly_is_left_out_of_a_comparison(make_run, monkeypatch, capsys):
    def page(groups, baseline, *_):
        found = {"groups": [group.name for group in groups], "baseline": baseline}
        return SimpleNamespace(write=lambda _: found)

    committed = make_run("committed", 0.4, train={"lr": 0.5})
    monkeypatch.setattr(comparison, "compared", page)
    monkeypatch.setattr(comparison, "FinishedRun", lambda *_, **__: committed)
    monkeypatch.setattr(comparison.git, "head", lambda: "0" * 40)
    fresh, stale = make_run("fresh", 0.5), make_run("stale", 0.9, stale=True)
    found = comparison.write_comparison([fresh, stale], "page", "macro_f1")
    assert found == {"groups": ["fresh", "baseline"], "baseline": "baseline"}
    warned = " ".join(capsys.readouterr().err.split())
    assert "stale is left out: its stages train did not run" in warned
    with pytest.raises(UserError, match="no experiment ran the whole pipeline"):
        comparison.write_comparison([stale], "page", "macro_f1")
