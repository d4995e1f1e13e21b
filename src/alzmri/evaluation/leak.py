"""A test of people that the model was trained on is no test."""

from alzmri.data.prepared import Prepared
from alzmri.errors import LeakError, UserError
from alzmri.models.saved import Card


def check_leak(card: Card, prepared: Prepared, unit: str) -> int | None:
    """How many test people the model has seen in training; None where subjects are unknown.

    Raises:
        LeakError: when there are any and ``split.unit`` does not say that the split leaks.
        UserError: when the model was trained on another preparation of the data.
    """
    people = prepared.subjects("test")
    shared = card.shared_subjects(people)
    if shared and unit != "slice":
        raise LeakError(
            f"{shared} of {len(people)} test people were in this model's training: its score would"
            " measure recognition of people. Train on this split: `dvc repro train`"
        )
    # People may have other names in another preparation: only the data that it was trained on
    # can tell that the model has not seen them.
    if card.data_sha256 != prepared.digest:
        raise UserError(
            "models/ was trained on other data or another split than data/prepared: run"
            " `dvc repro train`"
        )
    return shared if prepared.subjects_known else None
