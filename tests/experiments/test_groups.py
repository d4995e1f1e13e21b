"""Runs that repeat one experiment are one group; the verdict is what the bootstrap knows."""

import re

import numpy as np
import pytest

from alzmri.experiments.groups import Group, compare, grouped, varying


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
    assert better.difference.value == -worse.difference.value
    said = [one.advice("`new`", "`old`") for one in (better, worse, same, alike)]
    assert said[0].startswith("**Merge `new`: better than `old`**, +0.")
    assert said[1].startswith("**Keep `old`: `new` is worse**, -0.")
    assert "every prediction is the same class" in said[2]
    assert "for another reason: the two are not significantly different" in said[3]


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
    assert alone.difference.interval == pair.difference.interval
    assert compare(group("a", 0.9, 0, 1), group("b", 0.4, 2, 3)).evidence.endswith("pairs of runs")
    assert "runs" not in pair.evidence
