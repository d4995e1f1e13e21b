"""Who is on each image: as a table says, or as the pixels show.

Labels take no part in it: a subject must be neither split nor kept together because of a class.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from alzmri.data.class_folders import Entry, described, printable, rows
from alzmri.data.prepared import UNKNOWN
from alzmri.data.similarity import FLOOR, Codes, Forest, nearest
from alzmri.errors import UserError

SUBJECTS_FILE = "subjects.csv"
"""In a collection's folder: columns ``path`` (relative to it) and ``subject``."""

NEAR_DUPLICATE = 0.7
"""Similarity (see :mod:`similarity`) from which on two images are near-duplicates. Fixed, so that
splits compare: neighbouring slices of a subject on the public collection reach 0.78, slices of
different subjects 0.38, with turned copies among them or without."""
CUT = 0.39
"""Similarity from which on two images are of one subject, where no gap shows one: above what two
subjects reach, so that none are joined; a subject whose slices lie far apart falls in several."""

_CLEAR = 0.1
"""Least width of the gap: the next widest is 0.02 on the public collection and 0.06 on the phantom,
and the widest of slices that are too far apart 0.08."""
_OWN = 0.5
"""Least similarity above the gap: whatever the rest looks like, a subject's slices share that."""
_RIVAL = 0.5
"""Of the widest gap's width: another gap as wide as that would be as good an answer."""
_STRAYS = 0.01
"""Of the images: gaps that separate the same subjects but for so many are one gap."""

_FAULTS_SHOWN = 20

WAYS = (
    "Say who is who: import with --subject REGEX if file or folder names tell (OASIS, ADNI and BIDS"
    " names and a folder for each subject are found without it); or put a subjects.csv (columns"
    " path,subject) beside the class folders. If nobody knows, split.subjects=unknown with"
    " split.unit=slice can be run, and LEAKS"
)
"""How to go on where the pixels do not tell who is who."""


class Unclear(UserError):
    """The pixels do not tell who is who; ``links`` is the spanning forest that shows no gap."""

    def __init__(self, message: str, links: Forest) -> None:
        super().__init__(message)
        self.links = links


class Gap(NamedTuple):
    """The similarities between which there is no link: below are those of different subjects, above
    those of one. ``low`` is ``FLOOR`` if no two subjects reach it."""

    low: float
    high: float


@dataclass(frozen=True)
class People:
    """The subject of each image, and how that is known.

    ``cut`` is from which similarity on two images are of one subject, None if not by the pixels;
    ``gap`` has it in its middle, if there is one; ``doubt`` is one sentence if a subject may be in
    several groups.
    """

    names: list[str]
    cut: float | None = None
    gap: Gap | None = None
    doubt: str | None = None

    @property
    def known(self) -> bool:
        """False under ``split.subjects: unknown``."""
        return not self.names[0].startswith(UNKNOWN)


def find(
    directory: Path,
    how: Literal["auto", "file", "pixels", "unknown"],
    entries: Sequence[Entry],
    links: Callable[[], Forest],
) -> People:
    """The subject of each of ``entries``, the images of the collection in ``directory``.

    ``how`` is ``split.subjects``: from the table, from the pixels, the table if there is one, or
    unknown: then each image has a name of its own, which begins with :data:`UNKNOWN`.
    ``links`` is called only for the pixels.

    Raises:
        Unclear: see :func:`from_pixels`.
        UserError: see :func:`listed`.
    """
    if how == "unknown":
        return People([f"{UNKNOWN}{entry.sha256[:16]}" for entry in entries])
    file = directory / SUBJECTS_FILE
    table = described(file) if how != "pixels" else None
    if table is not None:
        return People(listed(table, str(file), [entry.path for entry in entries]))
    if how == "file":
        raise UserError(
            f"{file} not found: add it (columns path,subject), or set split.subjects to pixels"
        )
    return from_pixels(links(), [entry.sha256 for entry in entries])


def listed(table: bytes, name: str, paths: Sequence[str]) -> list[str]:
    """The subject of each of ``paths`` by a CSV ``table``, which messages call ``name``.

    Rows about other paths are allowed: an image may have been rejected since.

    Raises:
        UserError: no UTF-8 CSV table with the columns; or all faults and their lines: a path listed
            twice, an empty cell, an image that is not listed.
    """
    wanted = set(paths)
    subjects: dict[str, str] = {}
    lines: dict[str, int] = {}
    faults: list[str] = []
    for line, row in rows(table, name, ("path", "subject")):
        cell, subject = row["path"], row["subject"].strip()
        path = cell if cell in wanted or not cell.strip() else str(PurePosixPath(cell.strip()))
        if not (path.strip() and subject):
            faults.append(f"line {line}: empty {'subject' if path.strip() else 'path'}")
        elif path in subjects:
            faults.append(f"line {line}: {printable(path)} is listed on line {lines[path]} too")
        subjects.setdefault(path, subject)
        lines.setdefault(path, line)
    faults += [f"{printable(path)} is not listed" for path in paths if path not in subjects]
    if more := faults[_FAULTS_SHOWN:]:
        faults[_FAULTS_SHOWN:] = [f"and {len(more)} more"]
    if faults:
        number = len(faults) + max(0, len(more) - 1)
        raise UserError("\n  ".join([f"{name} has {number} fault(s):", *faults]))
    return [subjects[path] for path in paths]


def from_pixels(links: Forest, sha256s: Sequence[str]) -> People:
    """The subject of each image, recognised by its anatomy.

    Two images that are as similar as the cut are linked; a subject is a connected component (in
    other words: single linkage). The cut is the middle of the clear gap, or :data:`CUT` if there is
    none: then no two subjects share a group, but one may be in several. A group is called ``P`` and
    the first hexadecimal digits, 8 or as many as it takes, of the smallest ``sha256s`` among its
    images: neither names nor the order of files matter.

    Raises:
        Unclear: there is no clear gap, and no two groups or fewer than two images a group.
    """
    count = len(sha256s)
    gap = clear_gap(links, count)
    cut = (gap.low + gap.high) / 2 if gap else CUT
    component = links.components(count, cut).tolist()
    smallest: dict[int, str] = {}
    for number, digest in zip(component, sha256s, strict=True):
        smallest[number] = min(digest, smallest.get(number, digest))
    groups, digits = len(smallest), 8
    while len({digest[:digits] for digest in smallest.values()}) < len(set(smallest.values())):
        digits += 1
    if not gap and not 2 <= groups <= count / 2:
        raise Unclear(
            f"the {count} images do not show who is who: at the similarity that two images of one"
            f" subject have they fall into {groups} group(s). {WAYS}",
            links,
        )
    names = [f"P{smallest[number][:digits]}" for number in component]
    if gap:
        return People(names, cut, gap)
    alike = links.correlations[links.correlations < cut].max(initial=0)
    doubt = (
        f"at most {groups} subjects: the similarities have no clear gap, so a subject may be"
        f" in several of the {groups} groups. Images are linked from {cut:.2f} on; the most alike"
        f" groups reach {alike:.2f}. With the slices that copies were made from in the"
        " collection, or a subjects.csv, the number is exact"
    )
    return People(names, cut, doubt=doubt)


def clear_gap(links: Forest, images: int) -> Gap | None:
    """The gap in the sorted similarities of the spanning forest; None if it is not clear.

    It is the widest interval without an edge that leaves two subjects or more, with two images or
    more each on average. It is clear if it is 0.1 wide or more and ends at 0.5 or more, and no
    other such interval is half as wide, unless that differs in few strays (1 % of the images).
    The width is counted in similarity, not in its logarithm: identical copies would win there.
    """
    ends = np.sort(links.correlations)
    # Without an edge between all images, the lowest interval begins at the floor.
    starts = np.concatenate([[FLOOR], ends])[:-1] if len(ends) else ends
    # How many subjects it makes to cut below each edge.
    people = images - (len(ends) - np.arange(len(ends)))
    widths = np.where((people >= 2) & (2 * people <= images), ends - starts, 0)
    if not len(ends) or widths.max() < _CLEAR:
        return None
    widest = int(widths.argmax())
    rivals = widths >= _RIVAL * widths[widest]
    if ends[widest] < _OWN or np.ptp(people[rivals]) > _STRAYS * images:
        return None
    return Gap(float(starts[widest]), float(ends[widest]))


def near_duplicates(codes: Codes, train: NDArray[np.bool_], test: NDArray[np.bool_]) -> int:
    """How many of the images where ``test`` is true have a near-duplicate where ``train`` is."""
    _, _, alike = nearest(codes[test], codes[train], NEAR_DUPLICATE)
    return int((alike > 0).sum())
