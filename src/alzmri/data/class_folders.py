"""A collection: a directory of class folders of images, validated file by file."""

import csv
import hashlib
import io
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from alzmri import classes, terminal
from alzmri.classes import CLASSES_FILE, DEMENTED, STAGES, Naming
from alzmri.data import images, similarity
from alzmri.errors import UserError
from alzmri.parallel import in_order

ORIGIN_FILE = "origin.csv"
"""File in a collection's folder: columns ``path`` (relative to it), ``origin`` (in the source) and
``copy_of``, the path of the original of a turned, mirrored or brightened copy."""
VOLUMES = (".dcm", ".ima", ".mgh", ".mgz", ".nii", ".nii.gz")
"""Suffixes of DICOM, FreeSurfer and NIfTI files."""
_TO_SLICES = "`alzmri data slices SOURCE --name NAME`"

_SYSTEM_FILES = frozenset(("thumbs.db", "desktop.ini", "__macosx", "@eadir"))
_SHOWN = 5
"""Maximum number of rejected files in a message."""


class Entry(NamedTuple):
    """A usable image: its path in the collection, with ``/``; its class; the hexadecimal SHA-256 of
    the file's bytes; whether it was converted, see :class:`images.Decoded`; its height and width;
    and from ``origin.csv`` the path of its original, its own unless it is a copy, and its published
    paths.
    """

    path: str
    label: str
    sha256: str
    converted: bool
    size: tuple[int, ...]
    original: str
    origins: Sequence[str]


@dataclass(frozen=True)
class Rejected:
    """An unused file: its :func:`printable` path and the reason in a few words.

    ``duplicate_of`` is the path of the used image with the same class and bytes; ``stray`` is true
    for files that were never meant as images.
    """

    path: str
    reason: str
    duplicate_of: str | None = None
    stray: bool = False


@dataclass(frozen=True)
class Collection:
    """The content of a directory: usable images and rejected files, each sorted by path; class
    names, least to most severe: those of ``classes.txt``, else the stages whose folders contain
    files; the thumbnail of each entry."""

    directory: Path
    classes: tuple[str, ...]
    entries: Sequence[Entry]
    rejected: Sequence[Rejected]
    thumbnails: similarity.Thumbnails

    @cached_property
    def codes(self) -> similarity.Codes:
        """The codes of all entries."""
        return similarity.encode(self.thumbnails)

    @cached_property
    def links(self) -> similarity.Forest:
        """The spanning forest of all entries; the first use takes seconds, or minutes."""
        with terminal.progress("comparing images") as progress:
            return similarity.forest(self.codes, progress)

    @property
    def faults(self) -> list[Rejected]:
        """The rejected files that are lost images: neither duplicates nor strays."""
        return [item for item in self.rejected if not (item.duplicate_of or item.stray)]


def read(directory: Path) -> Collection:
    """Validate every file below ``directory``.

    The class of an image is that of the nearest folder above it whose name means one, in any
    spelling. A ``classes.txt`` names the classes; without it they are stages of dementia.

    It rejects, with a reason, files that :func:`images.decode` refuses, images outside class
    folders, names that are not UTF-8, symbolic links, and exact duplicates: within a class all but
    the first by path, across classes all, because their labels contradict each other. It ignores
    other files outside class folders, such as ``README.md`` or ``subjects.csv``.

    Raises:
        UserError: there is no such directory, or its ``classes.txt`` or ``origin.csv`` has faults.
    """
    if not directory.is_dir():
        raise UserError(
            f"{directory} is not a directory: import a collection with `alzmri data import`"
        )
    names, published = (directory / name for name in (CLASSES_FILE, ORIGIN_FILE))
    table = described(names)
    naming = STAGES if table is None else classes_of(table, str(names))
    original: dict[str, str] = {}
    origins: defaultdict[str, list[str]] = defaultdict(list)
    if (table := described(published)) is not None:
        for _, row in rows(table, str(published), ("path", "origin")):
            origins[row["path"]].append(row["origin"])
            original[row["path"]] = row.get("copy_of") or row["path"]
    paths, rejected = walk(directory)
    labels: dict[str, str] = {}
    contents: defaultdict[str, list[str]] = defaultdict(list)
    for path in paths:
        _, found = place(path, naming)
        if isinstance(found, Rejected):
            rejected.append(found)
        elif found:
            labels[path] = found
            try:
                digest = hashlib.sha256(images.read(directory / path)).hexdigest()
                contents[digest].append(path)
            except images.Unreadable as error:
                rejected.append(_refused(path, error))

    def decode(
        copies: list[str],
    ) -> tuple[bool, tuple[int, ...], images.Pixels] | images.Unreadable:
        try:
            pixels, converted = images.decode(directory / copies[0])
            return converted, pixels.shape, images.thumbnail(pixels)
        except images.Unreadable as error:
            return error

    entries, thumbnails = [], [np.empty((0, *[images.THUMBNAIL_SIDE] * 2), np.uint8)]
    results = zip(contents.items(), in_order(decode, list(contents.values())), strict=True)
    with terminal.progress("reading") as progress:
        for done, ((sha256, copies), result) in enumerate(results, start=1):
            first, *others = copies
            if isinstance(result, images.Unreadable):
                rejected += [_refused(path, result) for path in copies]
            elif len({labels[path] for path in copies}) > 1:
                for path in copies:
                    other = next(copy for copy in copies if labels[copy] != labels[path])
                    reason = f"contradictory labels: the same bytes as {printable(other)}"
                    rejected.append(Rejected(printable(path), reason))
            else:
                converted, size, thumbnail = result
                known = original.get(first, first), origins.get(first, ())
                entries.append(Entry(first, labels[first], sha256, converted, size, *known))
                thumbnails.append(thumbnail[None])
                reason = f"duplicate of {printable(first)}"
                rejected += [Rejected(printable(path), reason, first) for path in others]
            progress(done, len(contents))
    rejected.sort(key=lambda item: item.path)
    present = set(labels.values())
    named = naming.classes or tuple(name for name in classes.KNOWN if name in present)
    return Collection(directory, named, entries, rejected, np.concatenate(thumbnails))


def described(file: Path) -> bytes | None:
    """The bytes of a ``file`` that describes a collection; None if there is none, `UserError` if it
    is empty, a link or no file."""
    try:
        return images.read(file) if os.path.lexists(file) else None
    except images.Unreadable as error:
        raise UserError(f"{file}: {error}; remove it, or put a text file in its place") from None


def classes_of(table: bytes, name: str) -> Naming:
    """The naming in the bytes of a ``classes.txt``, which messages call ``name``."""
    try:
        lines = table.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not UTF-8 text, save it as UTF-8: {error}") from None
    return classes.named([line.strip() for line in lines if line.strip()], name)


def rows(table: bytes, name: str, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """The line number and the cells of each row of a CSV ``table``, which messages call ``name``;
    `UserError` if it is not UTF-8 CSV, or lacks one of ``columns``."""
    try:
        # Spreadsheet programs begin UTF-8 with a byte order mark.
        text = io.StringIO(table.decode("utf-8-sig"), newline="")
        reader = csv.DictReader(text, restval="", strict=True)
        if not set(columns) <= set(reader.fieldnames or ()):
            raise UserError(
                f"{name}: the first line must name the columns {','.join(columns)}; rename the file"
                " if it is another table"
            )
        return [(reader.line_num, row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{name} is not a UTF-8 CSV table: {error}") from None


def walk(directory: Path) -> tuple[list[str], list[Rejected]]:
    """The paths of all files below ``directory``, relative and sorted, and unusable ones."""
    paths: list[str] = []
    refused: dict[str, str] = {}

    def unlistable(error: OSError) -> None:
        raise error

    for folder, subfolders, names in os.walk(directory, onerror=unlistable):
        above = Path(folder).relative_to(directory)
        for name in subfolders:
            if Path(folder, name).is_symlink():
                refused[(above / name).as_posix()] = images.SYMBOLIC_LINK
        for path in ((above / name).as_posix() for name in names):
            try:
                path.encode()
                paths.append(path)
            except UnicodeEncodeError:
                refused[path] = "the name is not valid UTF-8"
    return sorted(paths), [Rejected(printable(path), why) for path, why in refused.items()]


def place(path: str, naming: Naming) -> tuple[str | None, str | Rejected | None]:
    """The folder that gives the class of a file; the class, or a rejection if it has none, or None
    if it needs none."""
    *folders, name = PurePosixPath(path).parts
    if any(part.startswith(".") or part.lower() in _SYSTEM_FILES for part in (*folders, name)):
        return None, Rejected(printable(path), "left by the system or a program", stray=True)
    if name.lower().endswith(VOLUMES):
        return None, Rejected(printable(path), f"a volume (use {_TO_SLICES})", stray=True)
    if ".tfrec" in name.lower():
        why = "a TFRecord file, which only TensorFlow reads (write its images to class folders)"
        return None, Rejected(printable(path), why, stray=True)
    word, label = classes.of_folders(naming, folders) or (folders[-1] if folders else None, None)
    if label:
        return word, label
    if PurePosixPath(name).suffix.lower() not in images.SUFFIXES:
        return None, None
    where = "in no class folder" if word is None else f"unknown class folder '{printable(word)}'"
    return word, Rejected(printable(path), f"{where}; known are {naming.known}")


def require(
    collection: Collection,
    max_rejected: float,
    *,
    remedy: str = "`alzmri data check` lists every file and reason",
) -> None:
    """Refuse a collection that is unusable for training; the message ends with ``remedy``.

    Raises:
        UserError: there are no images; a class has no usable image or is alone; "Demented" is a
            class beside its stages; or more than the fraction ``max_rejected`` (0 to 1) of the
            images was rejected.
    """
    directory, faults, named = collection.directory, collection.faults, collection.classes
    if not collection.entries and not faults:
        example = {item.reason: item.path for item in collection.rejected}
        lines = [
            f"{directory} has no images: it needs class folders ({STAGES.known}) with one image"
            f" per slice. `alzmri data import` imports images, {_TO_SLICES} makes images of"
            " volumes (DICOM, NIfTI, FreeSurfer)",
            *(f"  {path}: {reason}" for reason, path in example.items()),
        ]
        raise UserError("\n".join(lines))
    problems = []
    number = len(collection.entries) + sum(not item.stray for item in collection.rejected)
    if len(faults) / number > max_rejected:
        problems.append(
            f"{len(faults)} of its images ({len(faults) / number:.0%}) were rejected, but "
            f"at most {max_rejected:.0%} may be (data.max_rejected, --max-rejected)"
        )
    used = {item.label for item in collection.entries}
    if missing := [name for name in named if name not in used]:
        problems.append(f"no usable image of {', '.join(missing)}")
    elif len(named) == 1:
        problems.append(f"{named[0]} is its only class")
    elif DEMENTED in used and used & set(classes.CLASSES[1:]):
        problems.append(
            f"{DEMENTED} is a class beside stages of dementia: give other names, from healthy to"
            " severe, with `alzmri data import --classes`"
        )
    if problems:
        lines = [f"{directory} cannot be used: {'; '.join(problems)}"]
        lines += [f"  {item.path}: {item.reason}" for item in faults[:_SHOWN]]
        raise UserError("\n".join([*lines, remedy]))


def printable(path: str) -> str:
    """``path`` as printable UTF-8, with other bytes as ``\\x..``."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text
    )


def _refused(path: str, error: images.Unreadable) -> Rejected:
    named = PurePosixPath(path).suffix.lower() in images.SUFFIXES
    if isinstance(error, images.NotAnImage) and not named:
        return Rejected(printable(path), "not an image", stray=True)
    return Rejected(printable(path), str(error))
