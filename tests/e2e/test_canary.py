"""The canary, through the pipeline: with shuffled labels only a leak scores above chance."""

import pytest

CHANCE = 0.25
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
def test_shuffled_labels_are_learnt_only_where_people_are_on_both_sides(clone, unit):
    words = [word for value in (*SETTINGS, f"split.unit={unit}") for word in ("-S", value)]
    done = clone.run("dvc", "exp", "run", *words)
    assert "with SHUFFLED LABELS" in done.stdout
    low, high = clone.metrics("evaluate")["ci95"]["accuracy"]
    if unit == "subject":
        assert low <= CHANCE <= high
    else:
        assert low > 1.5 * CHANCE
