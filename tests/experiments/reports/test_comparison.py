"""Runs are grouped, ranked and judged, and the conclusion says what the numbers allow."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from alzmri.errors import UserError
from alzmri.experiments.metrics import check_metric
from alzmri.experiments.reports import charts, comparison_report
from alzmri.experiments.reports.charts import Line
from alzmri.experiments.reports.compare import chosen
from alzmri.experiments.reports.comparison import BASELINE, Comparison
from alzmri.experiments.reports.groups import Group, grouped, varying
from alzmri.experiments.reports.verdict import judge
from alzmri.experiments.runs import Finished

LEAK = {"split": {"unit": "slice"}, "shared": 38}


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


def test_seeds_and_folds_are_one_line_named_as_the_experiments_are(grid):
    groups = grouped(grid)
    assert [group.name for group in groups] == [
        "sweep-lr0.001-momentum0.85",
        "sweep-lr0.001-momentum0.9",
        "sweep-lr0.01-momentum0.85",
        "sweep-lr0.01-momentum0.9",
    ]
    assert varying(groups) == ["train.lr", "train.momentum"]
    first = groups[0]
    scores = [run.score("macro_f1") for run in first.runs]
    assert first.told("macro_f1") == f"{np.mean(scores):.3f} ± {np.std(scores, ddof=1):.3f}"
    low, high = first.interval
    assert low < np.mean(scores) < high


def test_experiments_named_by_dvc_are_described_by_what_differs(make_run):
    runs = [make_run(name, 0.5, train={"seed": seed}) for seed, name in enumerate(("a", "b"))]
    runs.append(make_run("lusty-gird", 0.5, train={"lr": 0.02}))
    assert [group.name for group in grouped(runs)] == ["lr0.0001", "lusty-gird"]


def test_keys_without_effect_on_the_score_make_no_other_group(make_run):
    one = make_run("a-seed0", 0.5)
    other = make_run("a-seed1", 0.5, train={"seed": 1, "keep_last": True, "checkpoint_every": 5})
    assert [group.name for group in grouped([one, other])] == ["a"]


def test_the_better_of_two_is_better_and_no_more_than_the_bootstrap_knows(make_run):
    weak, good, best = (
        Group(n, [make_run(n, r)]) for n, r in (("w", 0.4), ("g", 0.9), ("b", 0.95))
    )
    assert judge(good, weak).better
    assert judge(weak, good).worse
    assert judge(good, good).identical
    assert judge(best, good).alike
    assert judge(good, weak).words.startswith("better: +0.")
    assert "of 40 test people" in judge(good, weak).evidence


def test_other_test_people_are_not_compared(make_run):
    ours = Group("ours", [make_run("ours", 0.5)])
    others = Group("others", [make_run("others", 0.9, people="Q")])
    verdict = judge(others, ours)
    assert verdict.difference is None
    assert verdict.why_not == "other test people (0 of 40 in common)"
    assert verdict.words == "not comparable"
    classes = Group("two", [make_run("two", 0.9)])
    object.__setattr__(classes.runs[0].predictions, "classes", ("Non Demented", "Demented"))
    assert judge(classes, ours).why_not == "other classes"


def test_seeds_that_only_one_of_them_has_are_left_out_and_that_is_said(make_run):
    three = Group("a", [make_run(f"a{seed}", 0.9, train={"seed": seed}) for seed in (0, 1, 2)])
    one = Group("b", [make_run("b", 0.4)])
    assert (judge(three, one).pairs, judge(three, one).runs) == (1, 3)
    assert "on the 1 of 3 runs that have a counterpart" in judge(three, one).evidence


def test_the_conclusion_says_which_to_merge(grid):
    groups = grouped(grid)
    better = Comparison(groups, groups[0].name, "macro_f1")
    assert better.best.settings["train.lr"] == 0.01
    assert better.conclusion.startswith(f"**Merge `{better.best.name}`**: macro F1 0.")
    assert f"Better than the baseline `{groups[0].name}`: +0." in better.conclusion
    assert "cannot be told apart from `sweep-lr0.01-momentum0.9`" in better.conclusion
    alike = Comparison(groups[2:], better.ranked[1].name, "macro_f1")
    assert alike.conclusion.startswith("**Keep the baseline")
    assert Comparison(groups, None, "loss").best.settings["train.lr"] == 0.01
    assert Comparison(groups, better.best.name, "loss").conclusion.startswith("**Keep")


def test_what_leaks_is_never_the_best_and_is_labelled_everywhere(grid, make_run):
    leak = make_run("slices", 1.0, train={"lr": 0.01}, people="Q", **LEAK)
    groups = grouped([*grid, leak])
    comparison = Comparison(groups, BASELINE, "macro_f1")
    assert comparison.ranked[-1].name == "slices"
    comparison = Comparison(groups, None, "macro_f1")
    text = comparison_report.text(comparison, "all")
    mentions = [
        line for line in text.splitlines() if line.startswith(("|", "-")) and "`slices`" in line
    ]
    assert len(mentions) == 4  # a caveat, the other caveat, the table, the runs one by one
    assert all("LEAK" in line or "Not comparable" in line for line in mentions)
    alone = Comparison(grouped([leak]), None, "macro_f1")
    assert alone.conclusion.startswith("**Merge nothing by these scores: every run LEAKS.**")


def test_two_parameters_make_a_heat_map_and_one_does_not(grid):
    both = Comparison(grouped(grid), None, "macro_f1")
    assert "## train.lr by train.momentum" in comparison_report.text(both, "grid")
    assert "heatmap.png" in comparison_report.figures(both)
    one = Comparison(grouped(grid[:4]), None, "macro_f1")
    assert "heatmap.png" not in comparison_report.text(one, "grid")
    assert "heatmap.png" not in comparison_report.figures(one)


def test_every_picture_of_the_text_is_drawn_and_every_row_is_whole(grid):
    comparison = Comparison(grouped(grid), None, "val_macro_f1")
    text = comparison_report.text(comparison, "grid")
    for path in comparison_report.figures(comparison):
        assert f"(<{path}>)" in text
    table = text[text.index("| experiment |") :].split("\n\n")[0].splitlines()
    assert len(table) == 2 + 4
    assert len({line.count("|") for line in table}) == 1


def test_experiments_are_chosen_by_how_their_names_begin():
    finished = {name: Finished(name, "c0ffee") for name in ("sweep-a", "sweep-b", "other")}
    assert [run.name for run in chosen(finished, [])] == list(finished)
    assert [run.name for run in chosen(finished, ["sweep", "other"])] == list(finished)
    assert [run.name for run in chosen(finished, ["sweep-b"])] == ["sweep-b"]
    with pytest.raises(UserError, match="swep: no experiment of this commit begins so"):
        chosen(finished, ["swep", "other"])
    with pytest.raises(UserError, match="dvc exp run"):
        chosen({}, [])


def test_an_unknown_metric_is_answered_with_those_there_are():
    with pytest.raises(UserError, match=r"macrof1: allowed are macro_f1, .* did you mean macro_f1"):
        check_metric("macrof1")


def test_the_legend_names_what_leaks_also_in_a_crowd(make_run):
    names = [Line(Group(f"g{n}", [make_run(f"g{n}", 0.5)]), "other") for n in range(5)]
    leak = Line(Group("slices", [make_run("slices", 0.9, **LEAK)]), "other")
    assert leak.label == "slices LEAKS"
    assert Line(leak.group, "best").label == "slices (best) LEAKS"
    assert _legend([*names, leak]) == ["6 others, 1 of them LEAK"]
    assert _legend([*names[:3], leak]) == ["g0", "g1", "g2", "slices LEAKS"]
    best, baseline = Line(names[0].group, "best"), Line(names[1].group, "baseline")
    assert _legend([best, *names[2:4], baseline]) == ["g0 (best)", "g1 (baseline)", "g2", "g3"]


def _legend(lines):
    figure = Figure(layout="constrained")
    charts.plot_curves(figure, lines, "val_loss", "loss")
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]
