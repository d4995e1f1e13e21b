"""Split images into training, validation and test.

Every split distributes whole groups of images, class by class. A group is a subject in the subject
split, and a single image in the protocol's slice split, which leaks.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from alzmri.data.class_folders import Entry
from alzmri.data.prepared import COPY, PARTS
from alzmri.errors import UserError
from alzmri.params import Split


def parts(
    entries: Sequence[Entry], labels: Sequence[str], subjects: Sequence[str], split: Split
) -> list[str]:
    """The part of each image, by ``split.unit``: see :func:`assign`.

    A subject split scores one image of each slice: in validation and test, its other copies (see
    :class:`Entry`) are :data:`COPY`. The protocol's slice split scores every copy, as published.
    """
    if split.unit == "slice":
        return assign(labels, [entry.sha256 for entry in entries], split)
    dealt = assign(labels, subjects, split)
    scored: dict[tuple[str, str], str] = {}
    for part, entry in zip(dealt, entries, strict=True):
        if entry.path == entry.original or (part, entry.original) not in scored:
            scored[part, entry.original] = entry.path
    return [
        part if part == "train" or scored[part, entry.original] == entry.path else COPY
        for part, entry in zip(dealt, entries, strict=True)
    ]


def assign(labels: Sequence[str], groups: Sequence[str], split: Split) -> list[str]:
    """The part of each image, by its class and group (a subject or a hash), whatever the order of
    images. With ``split.folds`` 0, the parts follow ``fractions``. Otherwise the test part is fold
    number ``fold``, and the first two of ``fractions`` divide the other folds.

    Raises:
        UserError: a part would be empty.
    """
    stratum, size = _strata(labels, groups)
    if split.folds:
        folds = _deal(stratum, size, [1 / split.folds] * split.folds, split.seed)
        test = {group for group, fold in folds.items() if fold == split.fold}
        rest = {group: label for group, label in stratum.items() if group not in test}
        train, val, _ = split.fractions
        dealt = _deal(rest, size, [train / (train + val), val / (train + val)], split.seed)
        part = {group: PARTS[index] for group, index in dealt.items()} | dict.fromkeys(test, "test")
    else:
        dealt = _deal(stratum, size, split.fractions, split.seed)
        part = {group: PARTS[index] for group, index in dealt.items()}
        tested = [group for group, name in part.items() if name == "test"]
        if "val" not in part.values() and len(tested) > 1:
            # No class has a third group: move one from the test to validation.
            part[min(tested, key=lambda group: _draw(group, split.seed))] = "val"
    if empty := [name for name in PARTS if name not in part.values()]:
        raise UserError(
            f"too few {split.unit}s ({len(part)}) for this split: none is left for"
            f" {' and '.join(empty)}; add data, or change split.fractions or split.folds"
        )
    return [part[group] for group in groups]


def _strata(labels: Sequence[str], groups: Sequence[str]) -> tuple[dict[str, str], dict[str, int]]:
    """Each group's most frequent class (ties by name) and number of images."""
    votes: dict[str, Counter[str]] = defaultdict(Counter)
    for label, group in zip(labels, groups, strict=True):
        votes[group][label] += 1
    most = {group: max(sorted(count), key=count.__getitem__) for group, count in votes.items()}
    return most, {group: count.total() for group, count in votes.items()}


def _draw(group: str, seed: int) -> bytes:
    """The random sort key of a group, independent of the order of images."""
    return hashlib.sha256(f"{seed}:{group}".encode()).digest()


def _deal(
    stratum: dict[str, str], size: dict[str, int], shares: Sequence[float], seed: int
) -> dict[str, int]:
    """Give each group the index of a share, so that ``shares`` divide each class.

    Each group goes to the part that lacks most images of its class. If a class has too few groups
    for every part, training comes first, then the last part, which is the test.
    """
    dealt: dict[str, int] = {}
    number = len(shares)
    first_come = [0, *range(number - 1, 0, -1)]
    alike = max(shares) == min(shares)
    for turn, label in enumerate(sorted(set(stratum.values()))):
        # Folds take turns, so that the first one does not get the remainder of every class.
        shift = turn if alike else 0
        members = [group for group in stratum if stratum[group] == label]
        members.sort(key=lambda group: _draw(group, seed))
        total = sum(size[group] for group in members)
        lacking = [share * total for share in shares]
        for position, group in enumerate(members):
            if position < number:
                index = (first_come[position] + shift) % number
            else:
                index = max(range(number), key=lambda k: (lacking[k], -((k - shift) % number)))
            lacking[index] -= size[group]
            dealt[group] = index
    return dealt


def permuted(labels: Sequence[str], subjects: Sequence[str], seed: int) -> list[str]:
    """Permute labels between subjects; return the label of each image. In this label permutation
    test only a leak scores above chance. All images of a subject get the most frequent label (ties
    by name) of another subject, whatever the order of images."""
    own, _ = _strata(labels, subjects)
    names = sorted(own)
    order = np.random.default_rng(seed).permutation(len(names))
    given = {name: own[names[other]] for name, other in zip(names, order, strict=True)}
    return [given[subject] for subject in subjects]
