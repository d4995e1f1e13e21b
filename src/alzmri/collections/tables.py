"""Labels beside the images: CSV tables, and arrays of NumPy."""

import csv
import io
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alzmri.classes import Naming, plain
from alzmri.collections.origins import ORIGIN_FILE
from alzmri.data import images
from alzmri.data.collection import place, printable
from alzmri.data.subjects import SUBJECTS_FILE
from alzmri.errors import UserError

_FILE = tuple(
    f"{what}{part}" for what in ("", "image", "file", "img") for part in ("", "name", "path", "id")
)[1:]
_LABEL = (
    *("label", "labels", "class", "classes", "classname", "diagnosis", "dx", "group"),
    *("target", "targets", "stage", "category", "cdr"),
)
_SUBJECT = ("subject", "subjectid", "patient", "patientid", "ptid")
"""Plain names of columns."""


@dataclass(frozen=True)
class Member:
    """One file of a source.

    Attributes:
        path: relative to the source, with ``/``.
        read: gets its bytes; raises :class:`images.Unreadable` if they cannot be had or used.
        label: what a table says of its class; None if its folders are to say it.
        subject: what a table says of its subject.
    """

    path: str
    read: Callable[[], bytes]
    label: str | None = None
    subject: str | None = None


def labelled(source: Path, members: Sequence[Member], naming: Naming) -> list[Member]:
    """``members`` with what CSV tables among them say of images that are in no class folder.

    A table has a column of file names, and a column of labels or one of 0 and 1 for each class.

    Raises:
        UserError: a table that lists them is ambiguous.
    """
    unplaced = {
        member.path: member
        for member in members
        if PurePosixPath(member.path).suffix.lower() in images.SUFFIXES
        and member.label is None
        and not isinstance(place(member.path, naming), str)
    }
    found: dict[str, Member] = {}
    for table in members:
        name = PurePosixPath(table.path).name
        if not name.lower().endswith(".csv") or name in (SUBJECTS_FILE, ORIGIN_FILE):
            continue
        for member in _listed(source / table.path, table, unplaced):
            known = found.setdefault(member.path, member)
            if (known.label, known.subject) != (member.label, member.subject):
                raise UserError(
                    f"{source / table.path}: {printable(member.path)} is {member.label}, and"
                    f" {known.label} in another line or table"
                )
    return [found.get(member.path, member) for member in members]


def _listed(where: Path, table: Member, unplaced: dict[str, Member]) -> Iterator[Member]:
    """The images that one table lists, with their labels; none if it is no table of labels."""
    try:
        text = table.read().decode("utf-8-sig")
    except (images.Unreadable, UnicodeDecodeError):
        return
    first = text.partition("\n")[0]
    separator = max(",;\t", key=first.count)
    try:
        header, *rows = csv.reader(
            io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True
        )
    except (ValueError, csv.Error):
        return
    columns = [plain(column) for column in header]
    files = [index for index, column in enumerate(columns) if column in _FILE]
    if not files:
        return
    above = PurePosixPath(table.path).parent
    names = _names([path for path in unplaced if PurePosixPath(path).is_relative_to(above)])
    lines = [
        (number, row, path)
        for number, row in enumerate(rows, start=2)
        if len(row) == len(header) and (path := _named(row[files[0]], above, names))
    ]
    if not lines:
        return
    subject = next((index for index, column in enumerate(columns) if column in _SUBJECT), None)
    for path, label, row in _labels(where, header, columns, lines):
        whose = row[subject].strip() or None if subject is not None else None
        yield replace(unplaced[path], label=label, subject=whose)


def _names(paths: Iterable[str]) -> dict[str, str | None]:
    """Each path by itself, its name, and its name without suffix; None where several have it."""
    found: dict[str, str | None] = {}
    for path in paths:
        whole = PurePosixPath(path)
        for name in {path, whole.name, whole.stem}:
            found[name] = None if name in found else path
    return found


def _named(cell: str, above: PurePosixPath, names: dict[str, str | None]) -> str | None:
    """The image that a cell means: by its path from the table, by its name, without its suffix."""
    path = PurePosixPath(cell.strip().replace("\\", "/"))
    return names.get(str(above / path)) or names.get(path.name) or names.get(path.stem)


def _labels(
    where: Path, header: list[str], columns: list[str], lines: list[tuple[int, list[str], str]]
) -> Iterator[tuple[str, str, list[str]]]:
    """Path, label and row of each line: of a column of labels, or of columns of 0 and 1.

    None where there is neither.
    """
    single = [index for index, column in enumerate(columns) if column in _LABEL]
    if len(single) > 1:
        raise UserError(
            f"{where}: which of the columns {', '.join(header[index] for index in single)} is the"
            " class? Keep one of them"
        )
    if single:
        # The number of a CDR is a name: the scale is known.
        scale = "CDR " if columns[single[0]] == "cdr" else ""
        for _, row, path in lines:
            yield path, scale + row[single[0]].strip(), row
        return
    marked = [
        index
        for index in range(len(header))
        if all(row[index].strip() in ("0", "1") for _, row, _ in lines)
    ]
    if len(marked) < 2:
        return
    for number, row, path in lines:
        words = [header[index].strip() for index in marked if row[index].strip() == "1"]
        if len(words) != 1:
            raise UserError(f"{where}: line {number} marks {len(words)} classes instead of one")
        yield path, words[0], row


def arrays(source: Path, members: Sequence[Member]) -> Iterator[Member]:
    """The slices in the ``.npy`` files among ``members``, as images, each with its label.

    Slices are an array of 3 dimensions or more, labels one of a single dimension, or of two with
    a 1 in the column of the class. They belong together if they are in one folder and their names
    differ in the first part (``X_train``, ``y_train``) or if they are the only two.

    Raises:
        UserError: a file is damaged, or it is not clear which labels are whose.
    """
    folders: defaultdict[str, list[Member]] = defaultdict(list)
    for member in members:
        folders[str(PurePosixPath(member.path).parent)].append(member)
    for inside in folders.values():
        loaded = {member.path: _load(source / member.path, member) for member in inside}
        labels = {path: array for path, array in loaded.items() if array.ndim <= 2}
        for path, slices in loaded.items():
            if path in labels:
                continue
            alone = len(labels) == 1 and len(loaded) == 2
            mine = [other for other in labels if alone or _which(other) == _which(path)]
            if len(mine) != 1 or len(labels[mine[0]]) != len(slices):
                raise UserError(
                    f"{source / path} has {len(slices)} slices, but not one file of as many labels"
                    " beside it: call them such as X_train.npy and y_train.npy"
                )
            for number, (pixels, label) in enumerate(
                zip(_pixels(source / path, slices), _words(labels[mine[0]]), strict=True)
            ):
                yield Member(f"{path}/{number:06d}.tif", partial(_encoded, pixels), label)


def _load(where: Path, member: Member) -> NDArray[Any]:
    content = member.read()
    images.check_start(content, where)
    try:
        found = np.load(io.BytesIO(content), allow_pickle=False)
    except Exception as error:  # noqa: BLE001 - a damaged header can make it raise anything
        raise UserError(f"{where} cannot be read as a plain NumPy array: {error}") from None
    if not isinstance(found, np.ndarray):
        raise UserError(f"{where} is an archive of arrays: call it .zip")
    return found


def _which(path: str) -> str:
    """The name without what it holds: ``train`` of ``X_train.npy``."""
    stem = PurePosixPath(path).stem.lower()
    return re.sub(r"(^|[_-])(x|y|images?|imgs?|slices|data|labels?|targets?)(?=$|[_-])", "", stem)


def _pixels(where: Path, slices: NDArray[Any]) -> NDArray[Any]:
    """``[n, height, width]`` or ``[n, height, width, 3]``, of a type that an image file takes."""
    if slices.ndim == 4 and 1 in (slices.shape[1], slices.shape[3]):
        slices = slices.squeeze(axis=3 if slices.shape[3] == 1 else 1)
    colour = slices.ndim == 4 and slices.shape[3] == 3
    if not (slices.ndim == 3 or colour) or slices.dtype.kind not in "iuf":
        raise UserError(
            f"{where}: an array of {slices.dtype} with the shape {slices.shape} holds no slices"
            " [number, height, width]"
        )
    if slices.dtype.kind in "iu" and slices.size and 0 <= slices.min() <= slices.max() <= 255:
        return slices.astype(np.uint8)
    if colour:
        raise UserError(f"{where}: slices in colour must have values from 0 to 255")
    return slices.astype(np.float32)


def _words(labels: NDArray[Any]) -> list[str]:
    if labels.ndim == 2:
        labels = labels[:, 0] if labels.shape[1] == 1 else labels.argmax(axis=1)
    return [word(label) for label in labels.tolist()]


def word(label: object) -> str:
    """A label as text; a number without a fraction has none."""
    if isinstance(label, bytes):
        return label.decode("utf-8", "backslashreplace")
    if isinstance(label, float) and label.is_integer():
        return str(int(label))
    return "" if label is None else str(label)


def _encoded(pixels: NDArray[Any]) -> bytes:
    """One slice as an image file with the same values."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "TIFF")
    return content.getvalue()
