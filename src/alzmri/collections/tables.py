"""Read labels from tables beside the images: CSV files and NumPy arrays."""

import csv
import io
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alzmri.classes import Naming, plain
from alzmri.data import images
from alzmri.data.class_folders import ORIGIN_FILE, place, printable
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
"""Plain names of columns of subjects."""


class Member(NamedTuple):
    """One file of a source: its path there, with ``/``; a function that reads its bytes or raises
    :class:`images.Unreadable`; its class and subject from a table, if any."""

    path: str
    read: Callable[[], bytes]
    label: str | None = None
    subject: str | None = None


def labelled(source: Path, members: Sequence[Member], naming: Naming) -> list[Member]:
    """Add labels and subjects from CSV tables to those ``members`` that are in no class folder.

    A table has a column of file names, and a column of labels or one of 0 and 1 for each class.

    Raises:
        UserError: such a table is ambiguous.
    """
    unplaced = {
        member.path: member
        for member in members
        if PurePosixPath(member.path).suffix.lower() in images.SUFFIXES
        and member.label is None
        and not isinstance(place(member.path, naming)[1], str)
    }
    found: dict[str, Member] = {}
    for table in members:
        name = PurePosixPath(table.path).name
        if not name.lower().endswith(".csv") or name in (SUBJECTS_FILE, ORIGIN_FILE):
            continue
        for path, label, subject in _listed(source / table.path, table, list(unplaced)):
            said = unplaced[path]._replace(label=label, subject=subject)
            known = found.setdefault(path, said)
            if known.label != label:
                raise UserError(
                    f"{source / table.path}: {printable(path)} is {label}, and {known.label} in"
                    " another line or table"
                )
    return [found.get(member.path, member) for member in members]


def _listed(
    where: Path, table: Member, paths: Sequence[str]
) -> Iterator[tuple[str, str, str | None]]:
    """Yield path, label and subject of each image in a table; nothing if it has no labels."""
    try:
        text = table.read().decode("utf-8-sig")
        separator = max(",;\t", key=text.partition("\n")[0].count)
        lines = csv.reader(
            io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True
        )
        header, *rows = [[cell.strip() for cell in line] for line in lines]
    except (
        images.Unreadable,
        ValueError,
        csv.Error,
    ):  # also for text that is not UTF-8, or without lines
        return
    columns = [plain(column) for column in header]
    files = [index for index, column in enumerate(columns) if column in _FILE]
    # By the path relative to the table, or by a unique name, with or without suffix.
    called: dict[str, str] = {}
    for path in paths:
        whole = PurePosixPath(path)
        if whole.is_relative_to(above := PurePosixPath(table.path).parent):
            for name in {str(whole.relative_to(above)), whole.name, whole.stem}:
                called[name] = "" if name in called else path

    def meant(cell: str) -> str:
        name = PurePosixPath(cell.replace("\\", "/"))
        return called.get(str(name)) or called.get(name.name) or called.get(name.stem, "")

    listed = [
        (number, row, path)
        for number, row in enumerate(rows, start=2)
        if files and len(row) == len(header) and (path := meant(row[files[0]]))
    ]
    single = [index for index, column in enumerate(columns) if column in _LABEL]
    marked = [
        index
        for index in range(len(header))
        if all(row[index] in ("0", "1") for _, row, _ in listed)
    ]
    if not listed or not (single or marked[1:]):
        return
    if len(single) > 1:
        raise UserError(
            f"{where}: which of the columns {', '.join(header[index] for index in single)} is the"
            " class? Keep one of them"
        )
    subject = next((index for index, column in enumerate(columns) if column in _SUBJECT), None)
    for number, row, path in listed:
        words = [header[index] for index in marked if row[index] == "1"]
        if single:
            # The number of a CDR is a name, because the scale is known.
            words = ["CDR " * (columns[single[0]] == "cdr") + row[single[0]]]
        if len(words) != 1:
            raise UserError(f"{where}: line {number} marks {len(words)} classes instead of one")
        yield path, words[0], (row[subject] or None) if subject is not None else None


def arrays(source: Path, members: Sequence[Member]) -> Iterator[Member]:
    """The slices in the ``.npy`` files among ``members``, as images, each with its label.

    Slices are an array of 3 dimensions or more. Labels are an array of one dimension, or two with
    a 1 in the column of the class. They belong together if they are in one folder and their names
    differ in the first part (``X_train``, ``y_train``), or if they are the only two.

    Raises:
        UserError: a file is damaged, or the labels of an array are ambiguous.
    """
    folders: defaultdict[str, dict[str, NDArray[Any]]] = defaultdict(dict)
    for member in members:
        where = source / member.path
        content = member.read()
        images.check_start(content, where)
        try:
            array = np.load(io.BytesIO(content), allow_pickle=False)
        except Exception as error:  # noqa: BLE001 - a damaged header can make it raise anything
            raise UserError(f"{where} cannot be read as a plain NumPy array: {error}") from None
        if not isinstance(array, np.ndarray):
            raise UserError(f"{where} is an archive of arrays: rename it to .zip")
        folders[str(PurePosixPath(member.path).parent)][member.path] = array
    for inside in folders.values():
        labels = {path: array for path, array in inside.items() if array.ndim <= 2}
        alone = len(labels) == 1 and len(inside) == 2
        for path, slices in inside.items():
            if path in labels:
                continue
            mine = [labels[other] for other in labels if alone or _which(other) == _which(path)]
            if len(mine) != 1 or len(mine[0]) != len(slices):
                raise UserError(
                    f"{source / path} has {len(slices)} slices, but no single file beside it has as"
                    " many labels: name the two like X_train.npy and y_train.npy"
                )
            said = mine[0]
            if said.ndim == 2:
                said = said[:, 0] if said.shape[1] == 1 else said.argmax(axis=1)
            pixels = _pixels(source / path, slices)
            for number, label in enumerate(said.tolist()):
                read = partial(encoded, pixels[number], "TIFF")
                yield Member(f"{path}/{number:06d}.tif", read, word(label))


def _which(path: str) -> str:
    """The part of the name that slices and labels share: ``train`` of ``X_train.npy``."""
    stem = PurePosixPath(path).stem.lower()
    return re.sub(r"(^|[_-])(x|y|images?|imgs?|slices|data|labels?|targets?)(?=$|[_-])", "", stem)


def _pixels(where: Path, slices: NDArray[Any]) -> NDArray[Any]:
    """Slices ``[n, height, width]`` or ``[n, height, width, 3]``, of a type for image files."""
    if slices.ndim == 4 and 1 in (slices.shape[1], slices.shape[3]):
        slices = slices.squeeze(axis=3 if slices.shape[3] == 1 else 1)
    colour = slices.ndim == 4 and slices.shape[3] == 3
    bytes_ = slices.dtype.kind in "iu" and 0 <= slices.min(initial=0) <= slices.max(initial=0) < 256
    if not (bytes_ if colour else slices.ndim == 3 and slices.dtype.kind in "iuf"):
        raise UserError(
            f"{where}: an array of {slices.dtype} with the shape {slices.shape} does not have"
            " slices [number, height, width], or [number, height, width, 3] from 0 to 255"
        )
    return slices.astype(np.uint8 if bytes_ else np.float32)


def word(label: object) -> str:
    """A label as text; a whole number has no decimal point."""
    if isinstance(label, bytes):
        return label.decode("utf-8", "backslashreplace")
    if isinstance(label, float) and label.is_integer():
        return str(int(label))
    return "" if label is None else str(label)


def encoded(pixels: NDArray[Any], kind: str) -> bytes:
    """One slice as an image file, such as TIFF, with the same values."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, kind)
    return content.getvalue()
