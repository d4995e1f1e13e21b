"""Whose each image is, as the names of its file and folders say."""

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from alzmri import classes
from alzmri.classes import Naming
from alzmri.collections import origins
from alzmri.errors import UserError

PATTERNS = {
    "OASIS IDs": re.compile(r"(?<![A-Za-z0-9])OAS[1-4]_?\d{4,5}(?!\d)"),
    "ADNI IDs": re.compile(r"(?<!\d)\d{3}_S_\d{4,5}(?!\d)"),
    "BIDS names": re.compile(r"(?<![A-Za-z0-9])sub-[A-Za-z0-9]+"),
}
"""Names of subjects that studies use, in a file's name or in a folder's."""

_SHOWN = 3


@dataclass(frozen=True)
class Subjects:
    """The subject of each image, by what it is known, and what finds it in a path, if anything."""

    names: list[str]
    known_by: str
    find: Callable[[str], str | None] | None = None


def by_pattern(pattern: str, paths: Sequence[str]) -> Subjects:
    """What ``--subject`` finds in each of ``paths``: its group, or else the whole match.

    Raises:
        UserError: it is no regular expression, has several groups, or is not found in some path.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(f"--subject '{pattern}' is no regular expression: {error}") from None
    if compiled.groups > 1:
        raise UserError(f"--subject '{pattern}' has {compiled.groups} groups: have one, or none")

    def find(path: str) -> str | None:
        match = compiled.search(path)
        return match.group(compiled.groups) if match else None

    names = [find(path) for path in paths]
    if missing := [path for path, name in zip(paths, names, strict=True) if not name]:
        raise UserError(
            f"--subject '{pattern}' finds nothing in {len(missing)} of {len(paths)} images, such as"
            f" {', '.join(missing[:_SHOWN])}: it is searched for in the path in the source"
        )
    return Subjects([name for name in names if name], f"--subject '{pattern}'", find)


def recognise(paths: Sequence[str], labels: Sequence[str], naming: Naming) -> Subjects | None:
    """The subjects by the names in use; None where not every path has such a name.

    First the nearest name of :data:`PATTERNS`; then the folder below the class folder, if every
    image is in one, there are two or more of each class, and none is of two classes.
    """
    for what, pattern in PATTERNS.items():

        def find(path: str, pattern: re.Pattern[str] = pattern) -> str | None:
            *_, last = None, *pattern.finditer(path)
            return last.group() if last else None

        names = [name for path in paths if (name := find(path))]
        if len(names) == len(paths) and len(set(names)) > 1:
            return Subjects(names, f"{what} such as {names[0]}", find)

    def folder(path: str) -> str | None:
        return _below_class(path, naming)

    names = [name for path in paths if (name := folder(path))]
    if len(names) < len(paths):
        return None
    classes_of: defaultdict[str, set[str]] = defaultdict(set)
    folders_of: defaultdict[str, set[str]] = defaultdict(set)
    for name, label in zip(names, labels, strict=True):
        classes_of[name].add(label)
        folders_of[label].add(name)
    if max(map(len, classes_of.values())) > 1 or min(map(len, folders_of.values())) < 2:
        return None
    return Subjects(names, f"a folder for each, such as {names[0]}", folder)


def in_most(paths: Sequence[str]) -> str | None:
    """One sentence where most paths have a name of :data:`PATTERNS`, but not all."""
    for what, pattern in PATTERNS.items():
        missing = [path for path in paths if not pattern.search(path)]
        if 0 < len(missing) < len(paths) / 2:
            return (
                f"{what} are in the paths of {len(paths) - len(missing)} of {len(paths)} images, so"
                f" subjects were not taken from them; {missing[0]} has none"
            )
    return None


def _below_class(path: str, naming: Naming) -> str | None:
    """The folder below the class folder; None where there is none, or it is a part such as test."""
    folders = PurePosixPath(path).parts[:-1]
    found = classes.of_folders(naming, folders)
    if found is None:
        return None
    below = folders[len(folders) - folders[::-1].index(found[0]) :]
    return below[0] if below and origins.part(f"{below[0]}/x") is None else None
