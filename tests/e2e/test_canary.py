"""The canary, through the pipeline: with shuffled labels only a leak scores above chance."""

import csv

import pytest

SETTINGS = (
    "data.shuffle_labels=true",
    "phantom.subjects=12",
    "phantom.slices=10",
    "split.fractions=[0.5, 0.2, 0.3]",
    "train.lr=0.02",
    "train.epochs=30",
    "train.batch_size=16",
    "augment.p=0",
)


@pytest.mark.parametrize("unit", ["subject", "slice"])
def test_shuffled_labels_are_learnt_only_where_people_are_on_both_sides(clone, by_chance, unit):
    words = [word for value in (*SETTINGS, f"split.unit={unit}") for word in ("-S", value)]
    done = clone.run("dvc", "exp", "run", *words)
    assert "with SHUFFLED LABELS" in done.stdout
    with (clone.root / "plots/predictions.csv").open() as handle:
        tested = [
            (row["actual"], row["predicted"], row["subject"]) for row in csv.DictReader(handle)
        ]
    p = by_chance(*zip(*tested, strict=True))
    if unit == "subject":
        assert p > 0.001
    else:
        assert p < 0.001
