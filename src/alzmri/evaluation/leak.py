"""A test of people that the model was trained on is no test."""

from alzmri.data.prepared import Prepared
from alzmri.errors import LeakError
from alzmri.models.saved import Card


def check_leak(card: Card, prepared: Prepared, unit: str) -> int:
    """How many test people the model has seen in training.

    Raises:
        LeakError: when there are any and ``split.unit`` does not say that the split leaks.
    """
    people = prepared.subjects("test")
    shared = card.shared_subjects(people)
    if shared and unit != "slice":
        raise LeakError(
            f"{shared} of {len(people)} test people were in this model's training: its score would"
            " measure recognition of people. Train on this split (`dvc repro train`), or accept"
            " the leak and have it labelled (-S split.unit=slice)"
        )
    return shared
