"""The canary, through the pipeline: with shuffled labels only a leak scores above chance."""

import csv

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


def test_shuffled_labels_are_learnt_only_where_people_are_on_both_sides(clone, by_chance):
    def tested(unit):
        words = [word for value in (*SETTINGS, f"split.unit={unit}") for word in ("-S", value)]
        done = clone.run("dvc", "exp", "run", *words)
        assert "with SHUFFLED LABELS" in done.stdout
        with (clone.root / "plots/predictions.csv").open() as handle:
            rows = list(csv.DictReader(handle))
        return ([row[name] for row in rows] for name in ("actual", "predicted", "subject"))

    assert by_chance(*tested("subject")) > 0.001
    assert by_chance(*tested("slice")) < 0.001
