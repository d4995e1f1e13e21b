"""What a reviewer should know before reading the scores of a change."""

from collections.abc import Iterator

from alzmri.experiments.reports.document import code
from alzmri.experiments.reports.groups import Run

_ECE_WORSE = 0.01
"""A rise in calibration error that is worth a word; below it is rounding to a reader."""


def warnings(base: Run, head: Run) -> list[str]:
    """One sentence each, the gravest first."""
    return [
        *_leaks(base),
        *_leaks(head),
        *_tested(base, head),
        *_stale(base),
        *_stale(head),
        *_training(base, head),
    ]


def _leaks(run: Run) -> Iterator[str]:
    name, split, people = code(run.name), run.test["split"], run.test["subject"]["n"]
    if split["unit"] == "slice":
        yield (
            f"**{name} LEAKS**: its split is of slices; {split['shared_subjects']} of {people} test"
            " people were in training too."
        )
    elif split["shared_subjects"]:
        yield f"**{name} LEAKS**: {split['shared_subjects']} of {people} test people are known."
    if twins := run.prepare["leak"]["test_images_with_training_twin"]:
        yield f"{name}: {twins} test images have a near twin in training."
    if run.settings.get("data.shuffle_labels"):
        yield f"{name}: labels are shuffled between people; its score should be at chance."


def _tested(base: Run, head: Run) -> Iterator[str]:
    if base.predictions.paths != head.predictions.paths:
        people, others = set(base.predictions.subjects), set(head.predictions.subjects)
        yield (
            f"**The scores are of different tests**: {len(people)} people in {code(base.name)},"
            f" {len(others)} in {code(head.name)}, {len(people & others)} in both."
        )
    fewer = head.prepare["subjects"] - base.prepare["subjects"]
    if fewer < 0:
        yield (
            f"{-fewer} fewer people in the collection: {head.prepare['subjects']} instead of"
            f" {base.prepare['subjects']}."
        )


def _stale(run: Run) -> Iterator[str]:
    if run.stale:
        yield (
            f"The results of {code(run.name)} are not of its parameters and code:"
            f" {', '.join(run.stale)} ran with others. `dvc repro` brings them up to date."
        )


def _training(base: Run, head: Run) -> Iterator[str]:
    worse = head.score("ece") - base.score("ece")
    if worse > _ECE_WORSE:
        yield (
            f"Calibration is worse: error {head.score('ece'):.3f} instead of"
            f" {base.score('ece'):.3f}. `evaluate.temperature` mends part of it."
        )
    best, epochs = head.train["best_epoch"], head.train["epochs"]
    if best == epochs:
        yield (
            f"{code(head.name)} was at its best in its last epoch, {best} of {epochs}: it might"
            " gain from more."
        )
