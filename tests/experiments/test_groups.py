"""Runs that repeat one experiment are one group; every other difference makes another."""

import pytest

from alzmri.experiments.groups import grouped


@pytest.mark.parametrize(
    "repetitions",
    [
        [{"train": {"seed": 0}}, {"train": {"seed": 1}}],
        [{"split": {"seed": 0}}, {"split": {"seed": 1}}],
        [{"split": {"folds": 5, "fold": 0}}, {"split": {"folds": 5, "fold": 4}}],
        [
            {"train": {"seed": 0}, "split": {"seed": 1}},
            {"train": {"seed": 1}, "split": {"seed": 0}},
        ],
    ],
)
def test_other_seeds_of_training_and_split_and_other_folds_repeat_an_experiment(
    make_run, repetitions
):
    runs = [make_run(f"run{n}", 0.5, **sections) for n, sections in enumerate(repetitions)]
    other = make_run("other", 0.5, train={"lr": 0.02})
    groups = grouped([*runs, other])
    assert sorted(len(group.runs) for group in groups) == [1, 2]


@pytest.mark.parametrize(
    "change",
    [
        {"split": {"folds": 5}},
        {"split": {"unit": "slice"}},
        {"augment": {"p": 0.5}},
        {"data": {"merge": "binary"}},
        {"model": {"dropout": 0.1}},
        {"evaluate": {"temperature": False}},
    ],
)
def test_what_shapes_a_score_makes_another_group(make_run, change):
    assert len(grouped([make_run("a", 0.5), make_run("b", 0.5, **change)])) == 2
