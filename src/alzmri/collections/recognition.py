"""Recognise the subject, the published part and the original of each image of an import."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np

from alzmri import classes, terminal
from alzmri.classes import Naming
from alzmri.data import similarity, subjects
from alzmri.data.class_folders import Collection
from alzmri.data.prepared import PARTS
from alzmri.data.subjects import SubjectNames
from alzmri.errors import UserError

PATTERNS = {
    "OASIS IDs": re.compile(r"(?<![A-Za-z0-9])OAS[1-4]_?\d{4,5}(?!\d)"),
    "ADNI IDs": re.compile(r"(?<!\d)\d{3}_S_\d{4,5}(?!\d)"),
    "BIDS names": re.compile(r"(?<![A-Za-z0-9])sub-[A-Za-z0-9]+"),
}
"""Patterns of subject IDs of studies, in names of files or folders."""

_PARTS = {"training": "train", "valid": "val", "validation": "val", "testing": "test"}
"""Other names of parts."""

_COMPLETE = 0.9
"""Least fraction of copies with a near-duplicate among the originals: in the public collection
0.97, among half of it 0.86."""
_CLOSE = 0.9
"""Least median similarity of copies to their originals: 0.95 in the public collection, whose
neighbouring slices have 0.88."""
_SAME = 0.95
"""Least similarity of two images of one slice; neighbouring slices are below."""
_REPEATED = 0.05
"""Largest fraction of originals that show the slice of another: 0 in the public collection."""
_COPIES_ALONE = 0.5
"""Least fraction of images that show the slice of another, if no originals exist: 0.77 for copies.
Of 4,339 copies of 1,468 slices, 1,633 represent the others, with every slice among them."""
_COMMON = 0.01
"""Least fraction of all images for a size to be that of originals or copies."""
_TRIED = 500
"""Size of a sample that estimates such a fraction."""


def by_pattern(pattern: str, paths: Sequence[str]) -> SubjectNames:
    """The match of ``--subject`` in each path: its group, or else the whole; `UserError` if it is
    not a regular expression, has several groups, or does not match some path."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(f"--subject '{pattern}' is not a regular expression: {error}") from None
    if compiled.groups > 1:
        raise UserError(f"--subject '{pattern}' has {compiled.groups} groups: use one, or none")
    found = [compiled.search(path) for path in paths]
    names = [match.group(compiled.groups) if match else None for match in found]
    if missing := [path for path, name in zip(paths, names, strict=True) if not name]:
        raise UserError(
            f"--subject '{pattern}' does not match {len(missing)} of {len(paths)} images, such as"
            f" {', '.join(missing[:3])}: it must match a part of the path in the source"
        )
    return SubjectNames([name for name in names if name], known_by=f"--subject '{pattern}'")


def by_names(paths: Sequence[str], labels: Sequence[str], naming: Naming) -> SubjectNames | None:
    """The subjects by names in use; None if not all paths have such a name (a warning if most do).

    It tries the nearest name of :data:`PATTERNS`, then the folder below the class folder, if every
    image is in one, each class has at least two, and none is in two classes.
    """
    for what, pattern in PATTERNS.items():
        names = [found[-1] for path in paths if (found := pattern.findall(path))]
        without = [path for path in paths if not pattern.search(path)]
        if not without and len(set(names)) > 1:
            return SubjectNames(names, known_by=f"{what} such as {names[0]}")
        if 0 < len(without) < len(names):
            terminal.warn(
                f"{what} are in the paths of {len(names)} of {len(paths)} images, so subjects were"
                f" not taken from them; {without[0]} has none"
            )
    folders = [_below_class(path, naming) for path in paths]
    pairs = set(zip(folders, labels, strict=True))
    in_class = Counter(label for _, label in pairs)
    if None in folders or len(pairs) > len(set(folders)) or min(in_class.values()) < 2:
        return None
    how = f"a folder for each, such as {folders[0]}"
    return SubjectNames([str(name) for name in folders], known_by=how)


def _below_class(path: str, naming: Naming) -> str | None:
    """The folder below the class folder; None if there is none, or it is a part such as test."""
    folders = PurePosixPath(path).parts[:-1]
    if (found := classes.of_folders(naming, folders)) is None:
        return None
    below = folders[len(folders) - folders[::-1].index(found[0]) :]
    return below[0] if below and part(f"{below[0]}/x") is None else None


def part(origin: str) -> str | None:
    """The part that an image was published in, by its nearest folder or parquet file; or None.

    >>> part("archive/Train/CN/1.jpg"), part("test-00000-of-00001.parquet/AD/2.jpg")
    ('train', 'test')
    """
    for folder in reversed(PurePosixPath(origin).parts[:-1]):
        name = re.sub(r"(-\d+-of-\d+\S*)?\.parquet$", "", folder.lower())
        if (found := _PARTS.get(name, name)) in PARTS:
            return found
    return None


def copies(found: Collection) -> dict[str, str]:
    """The path of the original of each turned, mirrored, brightened or resized copy, by its path.

    Originals have a size of their own, show each slice once, and nearly all images of other sizes
    have a near-duplicate among them, most of them a close one. If no size is like that, but most
    images show the slice of another, there are only copies, and the first image of each slice
    counts as the original.
    """
    codes, entries = found.codes, found.entries
    original, count = np.full(len(codes), -1, np.int64), len(codes)
    sizes = np.array([entry.size for entry in entries])
    kinds, kind = np.unique(sizes, axis=0, return_inverse=True)

    def some(codes: similarity.Codes) -> similarity.Codes:
        return codes[np.linspace(0, len(codes) - 1, min(len(codes), _TRIED)).astype(np.int64)]

    # Largest first: smaller copies of the whole collection may be as complete.
    for number in np.argsort(-kinds.prod(axis=1), kind="stable"):
        mine = kind.ravel() == number
        ours, others = codes[mine], codes[~mine]
        if min(len(ours), len(others)) < max(1, _COMMON * count):
            continue
        _, _, same = similarity.nearest(some(ours), ours, _SAME)
        _, best, alike = similarity.nearest(some(others), ours, subjects.NEAR_DUPLICATE)
        repeated, complete = (same > 1).mean(), (alike > 0).mean()
        if repeated <= _REPEATED and complete >= _COMPLETE and np.median(best) >= _CLOSE:
            place, _, alike = similarity.nearest(others, ours, subjects.NEAR_DUPLICATE)
            original[~mine] = np.where(alike > 0, np.flatnonzero(mine)[place], -1)
            break
    else:
        group = found.links.components(count, _SAME)
        _, first, members = np.unique(group, return_index=True, return_counts=True)
        if (members[group] > 1).mean() >= _COPIES_ALONE:
            original = np.where(first[group] == np.arange(count), -1, first[group])
    pairs = zip(entries, original.tolist(), strict=True)
    return {entry.path: entries[number].path for entry, number in pairs if number >= 0}
