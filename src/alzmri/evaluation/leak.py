"""A test of subjects that the model was trained on is no test."""

import json

from alzmri.data.prepared import PREPARED, Prepared
from alzmri.errors import LeakError, UserError
from alzmri.models.saved import Card


def check_leak(card: Card, prepared: Prepared, unit: str) -> int | None:
    """How many test subjects the model has seen in training; None where subjects are unknown.

    Raises:
        LeakError: when there are any and ``split.unit`` does not say that the split leaks.
        UserError: when the model was trained on another preparation of the data.
    """
    people = prepared.subjects("test")
    shared = card.shared_subjects(people)
    if shared and unit != "slice":
        raise LeakError(
            f"{shared} of {len(people)} test subjects were in this model's training: its score"
            " would measure recognition of subjects. Train on this split: `dvc repro train`"
        )
    # Subjects may have other names in another preparation: only the data that it was trained on
    # can tell that the model has not seen them.
    if card.data_sha256 != prepared.digest:
        raise UserError(
            "models/ was trained on other data or another split than data/prepared: run"
            " `dvc repro train`"
        )
    return shared if prepared.subjects_known else None


def near_duplicates() -> int:
    """How many images have a near-duplicate in another part of a subject split, as prepare counted.

    Where there are any, one subject has several names, and the model may have seen it in training.
    """
    summary = json.loads((PREPARED / "summary.json").read_bytes())
    return int(summary["leak"]["near_duplicates_across_subject_split"])
