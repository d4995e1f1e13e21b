"""How many images and subjects each class has in each part of the split."""

from collections.abc import Sequence
from typing import NamedTuple

from alzmri.data.prepared import PARTS, UNKNOWN, Row


class Count(NamedTuple):
    """Of one class in one part."""

    images: int
    subjects: int


def count(rows: Sequence[Row], classes: Sequence[str]) -> dict[tuple[str, str], Count]:
    """The counts by ``(class, part)``, also where there is nothing; parts, then classes in order.

    A subject with images in two classes, or parts, counts in both; unknown ones do not count.
    """
    subjects: dict[tuple[str, str], list[str]] = {
        (label, part): [] for part in PARTS for label in classes
    }
    for row in rows:
        subjects[row.label, row.split].append(row.subject)
    return {
        key: Count(len(names), len({name for name in names if not name.startswith(UNKNOWN)}))
        for key, names in subjects.items()
    }
