"""Runs are grouped, ranked and compared, and the conclusion says what the numbers allow."""

import json
import re

import numpy as np
import pytest
from matplotlib.figure import Figure

from alzmri.errors import UserError
from alzmri.experiments import charts
from alzmri.experiments.charts import Curve
from alzmri.experiments.comparison import BASELINE, ranked, report
from alzmri.experiments.groups import Group, compare, grouped, varying
from alzmri.experiments.scores import check_metric

LEAK = {"split": {"unit": "slice"}, "shared": 38}


def _page(groups, baseline=None, metric="macro_f1"):
    return report(groups, baseline, metric, "title")


def _conclusion(page):
    """As Markdown."""
    return page.text.splitlines()[2].removeprefix("> ")


def _names(page):
    return [one["name"] for one in page.content["experiments"]]


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


def test_seeds_are_one_line_named_as_the_experiments_are(grid):
    groups = grouped(grid[::-1])
    assert [group.name for group in groups][::-1] == [
        "sweep-lr0.001-momentum0.85",
        "sweep-lr0.001-momentum0.9",
        "sweep-lr0.01-momentum0.85",
        "sweep-lr0.01-momentum0.9",
    ]
    assert varying(groups) == ["train.lr", "train.momentum"]
    first = groups[-1]
    assert [run.repetition for run in first.runs] == [(0, 0, 0), (1, 0, 0)]
    scores = [run.score("macro_f1") for run in first.runs]
    assert first.shown("macro_f1") == f"{np.mean(scores):.3f} ± {np.std(scores, ddof=1):.3f}"
    low, high = first.interval
    assert low < np.mean(scores) < high


def test_runs_are_in_the_order_of_their_seeds_and_drawn_as_far_as_all_of_them_go(make_run):
    runs = [make_run(f"a-seed{n}", 0.5, train={"seed": n}, epochs=n) for n in (10, 9)]
    (group,) = grouped(runs)
    assert [run.name for run in group.runs] == ["a-seed9", "a-seed10"]
    assert group.history("val_macro_f1").shape == (2, 9)


@pytest.mark.parametrize(
    "repeats",
    [
        *({"train": {"seed": 1}}, {"split": {"seed": 1}}, {"split": {"folds": 3, "fold": 2}}),
        *({"train": {"keep_last": True, "checkpoint_every": 5}}, {"track": {"mode": "disabled"}}),
    ],
)
def test_what_makes_no_other_experiment_is_one_line(make_run, repeats):
    folds = {"folds": 3} if "folds" in repeats.get("split", {}) else {}
    one, other = make_run("a-seed0", 0.5, split=folds), make_run("a-seed1", 0.5, **repeats)
    assert [group.name for group in grouped([one, other])] == ["a"]


def test_experiments_named_by_dvc_are_described_by_what_differs(make_run):
    runs = [make_run(name, 0.5, train={"seed": seed}) for seed, name in enumerate(("a", "b"))]
    runs.append(make_run("lusty-gird", 0.5, train={"lr": 0.02}))
    assert [group.name for group in grouped(runs)] == ["lr0.0001", "lusty-gird"]
    same = [make_run("x-seed1", 0.5, train={"lr": lr}) for lr in (0.1, 0.2)]
    same += [make_run("x-seed2", 0.5, train={"lr": lr, "seed": 2}) for lr in (0.1, 0.2)]
    assert [group.name for group in grouped(same)] == ["lr0.1", "lr0.2"]


def test_other_code_or_data_is_another_experiment_and_that_is_said(make_run):
    def run(name, seed, code):
        return make_run(f"{name}-seed{seed}", 0.5, code=code, train={"seed": seed})

    groups = grouped([run(name, seed, code=name) for name in "ab" for seed in (0, 1)])
    assert [group.name for group in groups] == ["a", "b"]
    (warning,) = _page(groups, None, "val_macro_f1").content["warnings"]
    assert "Other code or data than a ran in b" in warning
    groups = grouped([run("x", seed, code=str(seed // 2)) for seed in range(4)])
    assert [group.name for group in groups] == ["x-seed0", "x-seed2"]


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
    assert better.difference.value == -worse.difference.value
    said = [one.advice("`new`", "`old`") for one in (better, worse, same, alike)]
    assert said[0].startswith("**Merge `new`: better than `old`**, +0.")
    assert said[1].startswith("**Keep `old`: `new` is worse**, -0.")
    assert "every prediction is the same class" in said[2]
    assert "wanted for another reason: the two are not significantly different" in said[3]


def test_equal_scores_of_other_mistakes_are_not_the_same(make_run):
    one, other = make_run("one", 0.6), make_run("other", 0.6)
    predicted = other.predictions.probabilities
    right = other.predictions.predicted == other.predictions.truth
    hit, miss = (next(n for n in range(0, len(right), 12) if right[n] == known) for known in (1, 0))
    predicted[[hit, miss]] = predicted[[miss, hit]]
    verdict = compare(Group("one", [one]), Group("other", [other]))
    assert verdict.difference.value == 0
    assert verdict.known == "not significantly different"


def test_other_test_subjects_classes_and_labels_are_not_compared(make_run):
    ours = Group("ours", [make_run("ours", 0.5)])
    verdict = compare(Group("others", [make_run("others", 0.9, subjects="Q")]), ours)
    assert verdict.words == "not comparable"
    assert verdict.evidence == "other test subjects (0 of 40 in common)"
    assert verdict.difference is None
    assert "No conclusion about `o`: not comparable**, other test" in verdict.advice("`n`", "`o`")
    assert (
        compare(Group("two", [make_run("two", 0.9, merged=True)]), ours).evidence == "other classes"
    )
    relabelled = make_run("relabelled", 0.9)
    relabelled.predictions.truth[:3] = 2
    assert compare(Group("relabelled", [relabelled]), ours).evidence == "other labels"


def test_runs_of_one_seed_are_compared_and_those_without_counterpart_left_out(make_run):
    def group(name, right, *seeds):
        runs = [make_run(f"{name}{seed}", right, train={"seed": seed}) for seed in seeds]
        return Group(name, runs)

    alone = compare(group("a", 0.9, 0, 1, 2), group("b", 0.4, 1))
    assert "on the 1 of 3 runs that have a counterpart" in alone.evidence
    pair = compare(group("a", 0.9, 1), group("b", 0.4, 1))
    assert alone.difference == pair.difference
    assert compare(group("a", 0.9, 0, 1), group("b", 0.4, 2, 3)).evidence.endswith("pairs of runs")
    assert "runs" not in pair.evidence


def test_the_conclusion_says_which_to_merge(grid, make_run):
    groups = grouped(grid)
    better = _page(groups, groups[0].name)
    best, second, *_ = _names(better)
    assert better.content["experiments"][0]["parameters"]["train.lr"] == 0.01
    said = _conclusion(better)
    assert said.startswith(f"**Merge `{best}`: better than the baseline `{groups[0].name}`**, +0.")
    assert f"`{best}` scores best: macro F1 0." in said
    assert "over 2 runs, [0." in said
    assert said.endswith("It is not significantly different from `sweep-lr0.01-momentum0.9`.")
    close = grouped([make_run("a", 0.95), make_run("b", 0.9, train={"lr": 0.5}), *grid[:1]])
    assert _conclusion(_page(close)).endswith("significantly different from `b`.")
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
    assert _names(page)[-1] == "slices"
    text = page.text
    assert "- **LEAKS: `slices` (38 of 40) of the test subjects were in training too.**" in text
    mentions = [line for line in text.splitlines() if line[:1] in "|-" and "`slices`" in line]
    assert len(mentions) == 4  # a warning, the other warning, the table, the runs one by one
    assert all("LEAK" in line or "Not comparable" in line for line in mentions)
    alone = _conclusion(_page(grouped([leak])))
    assert alone.startswith("**Merge nothing by these scores: every run LEAKS.**")
    known = make_run("known", 1.0, shared=1)
    assert _page(grouped([known])).content["experiments"][0]["leaks"]


def test_warnings_are_given_where_they_hold_and_nowhere_else(grid, make_run):
    groups = grouped(grid[:4])
    assert _page(groups).content["warnings"] == []
    more = grouped([*grid, make_run("shuffled", 0.3, data={"permute_labels": True})])
    luck, shuffled = "owes some of it to luck", "shuffled should score at chance"
    found = _page(more).content["warnings"]
    assert [luck in one or shuffled in one for one in found] == [True, True]
    (only,) = _page(more, None, "val_macro_f1").content["warnings"]
    assert shuffled in only


def test_two_parameters_make_a_heat_map_and_one_does_not(grid, make_run):
    both = _page(grouped(grid))
    assert "## train.lr by train.momentum" in both.text
    one = _page(grouped(grid[:4]))
    assert "heatmap.png" in both.figures.keys() - one.figures.keys()
    assert "heatmap.png" not in one.text
    leak = make_run("slices", 0.9, train={"lr": 0.5}, **LEAK)
    assert "heatmap.png" in _page(grouped([*grid, leak])).figures


def test_every_picture_of_the_text_is_there_and_every_row_is_whole(grid, make_run):
    page = _page(grouped(grid), None, "val_macro_f1")
    assert re.findall(r"\(<(.+?)>\)", page.text) == sorted(page.figures, key=page.text.index)
    table = page.text[page.text.index("| experiment |") :].split("\n\n")[0].splitlines()
    assert len(table) == 2 + 4
    assert len({line.count("|") for line in table}) == 1
    assert table[2].startswith("| **`sweep-lr0.01-momentum0.85`** | **0.900 ± 0.000** |")
    assert " | 0.01 | 0.85 | 2 |" in table[2]
    assert "| `train.batch_size` |" in page.text
    assert not re.search(r"\| `(train.lr|split.seed|split.fold)` \|", page.text)
    crowd = [make_run(f"m{n}", 0.5, train={"lr": n / 100}) for n in range(1, 16)]
    crowded = _page(grouped(crowd))
    assert sum("confusion" in path for path in crowded.figures) == 12


def test_a_program_reads_the_same(grid):
    groups = grouped(grid)
    page = _page(groups, "sweep-lr0.001-momentum0.85")
    content = json.loads(json.dumps(page.content, allow_nan=False))
    assert content["conclusion"] == _conclusion(page).replace("`", "").replace("**", "")
    best, *_, last = content["experiments"]
    assert best["best_against_this"] is None
    assert best["runs"] == [f"sweep-lr0.01-momentum0.85-seed{seed}" for seed in (0, 1)]
    assert best["parameters"] == {"train.lr": 0.01, "train.momentum": 0.85}
    assert best["scores"]["macro_f1"] > last["scores"]["macro_f1"]
    assert last["best_against_this"]["known"] == "better"
    assert last["ci95"]["macro_f1"] == ranked(groups, "macro_f1")[-1].interval


def test_an_unknown_metric_is_answered_with_those_there_are():
    with pytest.raises(UserError, match=r"macrof1: allowed are macro_f1, .* did you mean macro_f1"):
        check_metric("macrof1")


def test_the_legend_names_what_leaks_also_in_a_crowd(make_run):
    names = [Curve(Group(f"g{n}", [make_run(f"g{n}", 0.5)]), "other") for n in range(5)]
    leak = Curve(Group("slices", [make_run("slices", 0.9, **LEAK)]), "other")
    assert _legend([*names, leak]) == ["6 others, 1 of them LEAK"]
    assert _legend([*names[:3], leak]) == ["g0", "g1", "g2", "slices LEAKS"]
    assert _legend([Curve(leak.group, "best")]) == ["slices (best) LEAKS"]
    best, baseline = Curve(names[0].group, "best"), Curve(names[1].group, "baseline")
    assert _legend([best, *names[2:4], baseline]) == ["g0 (best)", "g1 (baseline)", "g2", "g3"]
    assert _legend([Curve(Group(BASELINE, baseline.group.runs), "baseline")]) == [BASELINE]


def _legend(lines):
    figure = Figure(layout="constrained")
    charts.plot(figure, lines, "val_loss")
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]
