"""Who is trained on, who chooses the epoch, who is tested.

One procedure serves every split: groups of images are dealt out whole, class by class. A group
is a subject for the honest split, a single image for the protocol's leaking one.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from alzmri.data.class_folders import Entry
from alzmri.data.prepared import COPY, PARTS
from alzmri.errors import UserError
from alzmri.params import Split


def parts(
    entries: Sequence[Entry],
    labels: Sequence[str],
    people: Sequence[str],
    split: Split,
    copy_of: Mapping[str, str],
) -> list[str]:
    """The part of each image, of its class and subject, by ``split.unit``: see :func:`assign`.

    A subject split scores one image of each slice: in validation and test, the other copies of it,
    as :func:`class_folders.copies` tells them, are :data:`COPY`. The protocol's slice split scores
    every copy, as published.
    """
    if split.unit == "slice":
        return assign(labels, [entry.sha256 for entry in entries], split)
    dealt = assign(labels, people, split)
    slices = [
        (part, copy_of.get(entry.path, entry.path))
        for part, entry in zip(dealt, entries, strict=True)
    ]
    scored: dict[tuple[str, str], str] = {}
    for which, entry in zip(slices, entries, strict=True):
        if entry.path == which[1] or which not in scored:  # the original, else the first copy
            scored[which] = entry.path
    return [
        part if part == "train" or scored[which] == entry.path else COPY
        for part, which, entry in zip(dealt, slices, entries, strict=True)
    ]


def assign(labels: Sequence[str], groups: Sequence[str], split: Split) -> list[str]:
    """The part of each image, by its class and group: ``train``, ``val`` or ``test``.

    Images of one group always share a part: a subject's, or the same hash. The order of the images
    does not change the answer. With ``split.folds`` 0, parts are by ``fractions``. Otherwise the
    test part is fold number ``fold``, and the other folds are divided by the first two of
    ``fractions``.

    Raises:
        UserError: when a part would be empty.
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
            # No class has a third group: one that would be tested chooses the epoch.
            part[min(tested, key=lambda group: _draw(group, split.seed))] = "val"
    if empty := [name for name in PARTS if name not in part.values()]:
        raise UserError(
            f"too few {split.unit}s ({len(part)}) for this split: nothing is left for"
            f" {' and '.join(empty)}; bring more data or change split.fractions or split.folds"
        )
    return [part[group] for group in groups]


def _strata(labels: Sequence[str], groups: Sequence[str]) -> tuple[dict[str, str], dict[str, int]]:
    """Each group's most frequent class (ties by name) and number of images."""
    votes: dict[str, Counter[str]] = defaultdict(Counter)
    for label, group in zip(labels, groups, strict=True):
        votes[group][label] += 1
    stratum = {
        group: min(count, key=lambda label: (-count[label], label))
        for group, count in votes.items()
    }
    return stratum, {group: count.total() for group, count in votes.items()}


def _draw(group: str, seed: int) -> bytes:
    """By which groups are ordered at random, whatever the order of the images."""
    return hashlib.sha256(f"{seed}:{group}".encode()).digest()


def _deal(
    stratum: dict[str, str], size: dict[str, int], shares: Sequence[float], seed: int
) -> dict[str, int]:
    """Give each group the index of a share, so that each class is divided as ``shares`` say.

    Each group goes to the part that lacks most images of its class. Where a class has too few
    groups for every part, training comes first, then the last part, which is the test.
    """
    dealt: dict[str, int] = {}
    number = len(shares)
    first_come = [0, *range(number - 1, 0, -1)]
    alike = max(shares) == min(shares)
    for turn, label in enumerate(sorted(set(stratum.values()))):
        # Folds take turns, lest the first one gets what is left over of every class.
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
    """The label of each image after the labels were permuted between subjects.

    The label permutation test: such labels say nothing, so only a leak scores above chance. All
    images of a subject get one label: the most frequent one (ties by name) of the subject whose
    label it receives. The order of the images does not change the result.
    """
    own, _ = _strata(labels, subjects)
    names = sorted(own)
    order = np.random.default_rng(seed).permutation(len(names))
    given = {name: own[names[other]] for name, other in zip(names, order, strict=True)}
    return [given[subject] for subject in subjects]
