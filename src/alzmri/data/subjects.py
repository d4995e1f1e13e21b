"""Find the subject of each image, from a table or from the pixels.

It ignores labels: a class must neither split a subject nor keep it together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from alzmri.data.class_folders import Collection, described, printable, rows
from alzmri.data.prepared import UNKNOWN
from alzmri.data.similarity import FLOOR, Codes, Forest, nearest
from alzmri.errors import UserError

SUBJECTS_FILE = "subjects.csv"
"""File in a collection's folder: columns ``path`` (relative to it) and ``subject``."""

NEAR_DUPLICATE = 0.7
"""Least similarity (see :mod:`similarity`) of near-duplicates. It is fixed, so that splits are
comparable: in the public collection, neighbouring slices of a subject reach 0.78, and slices of
different subjects 0.38, with or without turned copies."""
CUT = 0.39
"""Least similarity of two images of one subject, if there is no clear gap. It is above that of two
subjects, so that none are joined; a subject whose slices are far apart falls in several groups."""

_CLEAR = 0.1
"""Least width of the gap: the next widest is 0.02 in the public collection and 0.06 in the phantom,
and the widest between slices that are too far apart is 0.08."""
_OWN = 0.5
"""Least similarity above the gap, which slices of one subject always reach."""
_RIVAL = 0.5
"""Least width of a competing gap, as a fraction of the widest gap."""
_STRAYS = 0.01
"""Gaps that separate the same subjects, except for this fraction of images, are one gap."""

_SHOWN = 20
"""Maximum number of faults of a table in a message."""

_WAYS = (
    "Name the subjects: import with --subject REGEX if file or folder names contain them (OASIS,"
    " ADNI and BIDS names and a folder for each subject need no option); or put a subjects.csv"
    " (columns path,subject) beside the class folders. If they are unknown,"
    " split.subjects=unknown with split.unit=slice runs, and LEAKS"
)
"""Remedies when the pixels do not separate subjects."""


Gap = tuple[float, float]
"""A range of similarities without links: links of different subjects are below, those of one
subject above. It begins at ``FLOOR`` if no two subjects reach it."""


@dataclass(frozen=True)
class SubjectNames:
    """The subject of each image, and the evidence for it.

    ``cut`` is the least similarity of two images of one subject, None if the pixels do not matter;
    it is the middle of ``gap``, if there is one. ``doubt`` says that a subject may be in several
    groups, or why the pixels do not separate subjects, which are then unknown. ``known_by`` is the
    evidence of an import, such as names of files.
    """

    names: list[str]
    cut: float | None = None
    gap: Gap | None = None
    doubt: str | None = None
    known_by: str | None = None

    @property
    def known(self) -> bool:
        """Whether ``names`` are subjects, not placeholders with the prefix :data:`UNKNOWN`."""
        return not "".join(self.names[:1]).startswith(UNKNOWN)


def find(collection: Collection, how: Literal["auto", "file", "pixels", "unknown"]) -> SubjectNames:
    """The subject of each entry.

    ``how`` is ``split.subjects``: the table, the pixels, auto (the table if there is one), or
    unknown, which gives each image its own placeholder.

    Raises:
        UserError: see :func:`listed` and :func:`described`.
    """
    entries, file = collection.entries, collection.directory / SUBJECTS_FILE
    if how == "unknown":
        return _unknown([entry.sha256 for entry in entries])
    table = None if how == "pixels" else described(file)
    if table is not None:
        return SubjectNames(listed(table, str(file), [entry.path for entry in entries]))
    if how == "file":
        raise UserError(
            f"{file} not found: add it (columns path,subject), or set split.subjects to pixels"
        )
    return from_pixels(collection.links, [entry.sha256 for entry in entries])


def _unknown(sha256s: Sequence[str], doubt: str | None = None) -> SubjectNames:
    return SubjectNames([f"{UNKNOWN}{digest[:16]}" for digest in sha256s], doubt=doubt)


def listed(table: bytes, name: str, paths: Sequence[str]) -> list[str]:
    """The subject of each of ``paths`` from a CSV ``table``, which messages call ``name``.

    Raises:
        UserError: it is not a UTF-8 CSV table with these columns; or all faults with their lines: a
            path listed twice, an empty cell, an image that is not listed. Paths without an image
            are no fault.
    """
    wanted = set(paths)
    subjects: dict[str, str] = {}
    faults: list[str] = []
    for line, row in rows(table, name, ("path", "subject")):
        cell, subject = row["path"], row["subject"].strip()
        path = cell if cell in wanted else str(PurePosixPath(cell.strip()))
        if not (cell.strip() and subject):
            faults.append(f"line {line}: empty {'subject' if cell.strip() else 'path'}")
        elif path in subjects:
            faults.append(f"line {line}: {printable(path)} is listed twice")
        subjects.setdefault(path, subject)
    faults += [f"{printable(path)} is not listed" for path in paths if path not in subjects]
    if faults:
        shown = [*faults[:_SHOWN], *["..."] * (len(faults) > _SHOWN)]
        raise UserError("\n  ".join([f"{name} has {len(faults)} fault(s):", *shown]))
    return [subjects[path] for path in paths]


def from_pixels(links: Forest, sha256s: Sequence[str]) -> SubjectNames:
    """Recognise the subject of each image by its anatomy.

    Images with at least the similarity ``cut`` are linked; a subject is a connected component
    (single linkage). The cut is the middle of the clear gap, or :data:`CUT` if there is none: then
    no two subjects share a group, but one may be in several. The name of a group is ``P`` and the
    first hexadecimal digits, at least 8 and enough to be unique, of the smallest of ``sha256s`` in
    it, so that neither names nor the order of files matter.

    Subjects are unknown if there is no clear gap, and there are fewer than two groups or than two
    images a group.
    """
    count = len(sha256s)
    gap = clear_gap(links, count)
    cut = sum(gap) / 2 if gap else CUT
    component = links.components(count, cut).tolist()
    smallest: dict[int, str] = {}
    for number, digest in zip(component, sha256s, strict=True):
        smallest[number] = min(digest, smallest.get(number, digest))
    groups, digits = len(smallest), 8
    while len({digest[:digits] for digest in smallest.values()}) < len(set(smallest.values())):
        digits += 1
    if not gap and not 2 <= groups <= count / 2:
        doubt = (
            f"the pixels of {count} images do not separate subjects: at the similarity of images of"
            f" one subject, they form {groups} group(s). {_WAYS}"
        )
        return _unknown(sha256s, doubt)
    names = [f"P{smallest[number][:digits]}" for number in component]
    if gap:
        return SubjectNames(names, cut, gap)
    alike = links.correlations[links.correlations < cut].max(initial=0)
    doubt = (
        f"at most {groups} subjects: the similarities have no clear gap, so a subject may be"
        f" in several of the {groups} groups. Images are linked from similarity {cut:.2f} on; the"
        f" most similar groups reach {alike:.2f}. The number is exact with a subjects.csv, or with"
        " the originals of copies in the collection"
    )
    return SubjectNames(names, cut, doubt=doubt)


def clear_gap(links: Forest, images: int) -> Gap | None:
    """The gap in the sorted similarities of the spanning forest; None if it is not clear.

    It is the widest interval without an edge that leaves at least two subjects, with at least two
    images each on average; see the constants above. The width is in similarity, not in its
    logarithm, in which identical copies would win.
    """
    ends = np.sort(links.correlations)
    # Unless edges connect all images, the lowest interval begins at the floor.
    starts = np.concatenate([[FLOOR], ends])[:-1] if len(ends) else ends
    # The number of subjects for a cut below each edge.
    subjects = images - (len(ends) - np.arange(len(ends)))
    widths = np.where((subjects >= 2) & (2 * subjects <= images), ends - starts, 0)
    if not len(ends) or widths.max() < _CLEAR:
        return None
    widest = int(widths.argmax())
    rivals = widths >= _RIVAL * widths[widest]
    if ends[widest] < _OWN or np.ptp(subjects[rivals]) > _STRAYS * images:
        return None
    return float(starts[widest]), float(ends[widest])


def near_duplicates(codes: Codes, train: NDArray[np.bool_], test: NDArray[np.bool_]) -> int:
    """The number of ``test`` images with a near-duplicate among ``train`` images."""
    _, _, alike = nearest(codes[test], codes[train], NEAR_DUPLICATE)
    return int((alike > 0).sum())
