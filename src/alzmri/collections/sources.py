"""Read the source of an import: a folder, a zip archive, a parquet file, and tables in them.

A source is a list of members, each with a path and a function that reads its bytes. Nothing is ever
unpacked to a path from an archive.
"""

import csv
import errno
import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alzmri import terminal
from alzmri.classes import STAGES, Naming, plain
from alzmri.data import images
from alzmri.data.class_folders import ORIGIN_FILE, Rejected, place, printable, walk
from alzmri.data.subjects import SUBJECTS_FILE
from alzmri.errors import UserError, require

_TABLES = (".parquet", ".npy")
"""Suffixes of files with many images."""
_VOLUME_ENDS = (".gz", ".nii", ".mgz", ".mgh", ".hdr")

_FILE = r"(image|file|img)(name|path|id)?|name|path|id"
_LABEL = r"labels?|class(es|name)?|diagnosis|dx|group|targets?|stage|category|cdr"
_SUBJECT = r"(subject|patient)(id)?|ptid"
"""Patterns of plain names of columns in CSV tables."""


class Member(NamedTuple):
    """One file of a source: its path there, with ``/``; a function that reads its bytes or raises
    :class:`images.Unreadable`; its class and subject from a table, if any."""

    path: str
    read: Callable[[], bytes]
    label: str | None = None
    subject: str | None = None


def members(source: Path, naming: Naming = STAGES) -> tuple[list[Member], list[Rejected]]:
    """The members of a folder, a zip archive or a parquet file, whose folders ``naming`` explains,
    and the files without a usable path.

    The rows of parquet files and NumPy arrays become members of their own. CSV tables give the
    labels of images outside class folders.

    Raises:
        UserError: there is no such source, or an archive or table is unreadable or ambiguous.
        EnvironmentFault: a parquet file needs pyarrow, which is not installed.
    """
    rejected: list[Rejected] = []
    folder = source
    if source.is_dir():
        paths, rejected = walk(source)
        files = [Member(path, partial(_read_file, source / path)) for path in paths]
    elif not source.is_file():
        raise UserError(f"{source} not found: give a folder, a .zip or a .parquet file")
    elif zipfile.is_zipfile(source):
        files = _zip_members(source)
    elif source.suffix.lower() == ".parquet":
        files, folder = [Member(source.name, source.read_bytes)], source.parent
    else:
        with source.open("rb") as file:
            images.check_start(file.read(100), source)
        raise UserError(
            f"{source} is neither a folder nor a complete .zip or .parquet file: download it again,"
            " or give its folder"
        )
    expanded: list[Member] = []
    arrays: dict[PurePosixPath, NDArray[Any]] = {}
    for member in files:
        suffix = PurePosixPath(member.path).suffix.lower()
        if suffix not in _TABLES or isinstance(place(member.path, STAGES)[1], Rejected):
            expanded.append(member)
            continue
        content, where = member.read(), folder / member.path
        images.check_start(content, where)
        if suffix == ".parquet":
            expanded += _rows(where, member.path, content)
        else:
            with _readable(where, "cannot be read as a plain NumPy array"):
                array = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
            arrays[PurePosixPath(member.path)] = array
    expanded += _slices(folder, arrays)
    return _labelled(folder, expanded, naming), rejected


def volumes(source: Path, count: int) -> tuple[list[Member], list[Rejected]]:
    """``count`` slices of each volume in the folder ``source``, as PNG, and unusable volumes.

    They are the slices that ``alzmri predict`` shows the model.

    Raises:
        UserError: it is not a folder, or has no volume.
    """
    from alzmri.inference import inputs, ventricles  # these imports take seconds

    if not source.is_dir():
        raise UserError(f"{source} is not a folder: give one with a folder of volumes per class")
    found = [item for item in inputs.find([str(source)]) if item.kind != "image"]
    if not found:
        raise UserError(
            f"{source} has no volume (NIfTI, DICOM, .mgz); `alzmri data import` takes images"
        )
    files, rejected = [], []
    for number, volume in enumerate(found, start=1):
        # Each volume gets a folder: that of its series, or its file name.
        path = first = volume.files[0].relative_to(source)
        if volume.kind == "dicom" and volume.name == str(volume.files[0].parent):
            path = first.parent
        while path.suffix.lower() in _VOLUME_ENDS:
            path = path.with_suffix("")
        try:
            for chosen in ventricles.choose(inputs.volume(volume), count):
                read = partial(_encoded, chosen.pixels, "PNG")
                files.append(Member(f"{path.as_posix()}/{path.name}_{chosen.depth}mm.png", read))
        except images.Unreadable as error:
            rejected.append(Rejected(printable(first.as_posix()), str(error)))
        terminal.say(f"{number} of {len(found)}: {path.as_posix()}")
    return files, rejected


@contextmanager
def _readable(file: Path, fault: str = "is damaged, or encrypted") -> Iterator[None]:
    """Turn exceptions of the reader of ``file`` into one sentence."""
    try:
        yield
    except Exception as error:  # readers may raise anything
        # An error with a number is the system's fault and not the file's, except EINVAL, from a
        # seek to an invalid position in a damaged file.
        systems = isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)
        if isinstance(error, UserError) or systems:
            raise
        raise UserError(f"{file} {fault}: {str(error) or type(error).__name__}") from None


def _read_file(path: Path) -> bytes:
    return path.read_bytes() if path.suffix.lower() in _TABLES else images.read(path)


def _zip_members(source: Path) -> list[Member]:
    with _readable(source):
        archive = zipfile.ZipFile(source)  # closed with its last member

    def read(path: str, entry: zipfile.ZipInfo) -> bytes:
        # The archive checks that no more than this is unpacked.
        if not path.lower().endswith(_TABLES):
            images.check_bytes(entry.file_size)
        with _readable(source):
            return archive.read(entry)

    entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    # Windows programs write backslashes.
    named = {entry.filename.replace("\\", "/"): entry for entry in entries}
    return [Member(path, partial(read, path, entry)) for path, entry in sorted(named.items())]


def _rows(where: Path, inside: str, content: bytes) -> Iterator[Member]:
    """The images of a parquet file: columns ``image`` (bytes, or bytes and path) and ``label``."""
    parquet = require("pyarrow.parquet", "parquet")
    # The file stores a value once for any number of rows, and so does this.
    distinct: dict[bytes, bytes] = {}
    names: list[object] = []
    number = 0
    with _readable(where, "is not a complete parquet file with columns image (bytes) and label"):
        file = parquet.ParquetFile(io.BytesIO(content))
        with suppress(KeyError, TypeError, ValueError):  # only Hugging Face names the labels
            schema = json.loads((file.schema_arrow.metadata or {})[b"huggingface"])
            names = list(schema["info"]["features"]["label"]["names"])
        # A few rows at a time: all rows may be many times larger than the file.
        for batch in file.iter_batches(batch_size=4, columns=["image", "label"]):
            # The reader may miss damage, which then shows as text that is not UTF-8.
            batch.validate(full=True)
            for row in batch.to_pylist():
                image, label = row["image"], row["label"]
                image = image if isinstance(image, dict) else {"bytes": image}
                value = image["bytes"]
                if not isinstance(value, bytes | None):
                    raise TypeError(f"image has the type {batch.schema.field('image').type}")
                value = distinct.setdefault(value or b"", value or b"")
                suffix = ".png" if value.startswith(b"\x89PNG") else ".jpg"
                name = PurePosixPath(image.get("path") or "").name or f"{number:06d}{suffix}"
                named = isinstance(label, int) and 0 <= label < len(names)
                word = _word(names[label] if named else label)
                path = f"{inside}/{word.replace('/', '_') or 'no label'}/{name}"
                yield Member(path, partial(bytes, value), word)
                number += 1


def _labelled(source: Path, members: Sequence[Member], naming: Naming) -> list[Member]:
    """Add labels and subjects from CSV tables to those ``members`` that are in no class folder.

    A table has a column of file names, and a column of labels or one of 0 and 1 for each class.
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
        where = source / table.path
        for member in _listed(where, table, unplaced):
            known = found.setdefault(member.path, member)
            if known.label != member.label:
                raise UserError(
                    f"{where}: {printable(member.path)} is {member.label}, and {known.label} in"
                    " another line or table"
                )
    return [found.get(member.path, member) for member in members]


def _listed(where: Path, table: Member, unplaced: Mapping[str, Member]) -> Iterator[Member]:
    """Yield each image in a table, with its label and subject; nothing if it has no labels."""
    try:
        text = table.read().decode("utf-8-sig")
        separator = max(",;\t", key=text.partition("\n")[0].count)
        text_lines = io.StringIO(text, newline="")
        lines = csv.reader(text_lines, delimiter=separator, skipinitialspace=True)
        header, *rows = [[cell.strip() for cell in line] for line in lines]
    except (images.Unreadable, ValueError, csv.Error):  # no text, or no line
        return

    def columns(pattern: str) -> list[int]:
        return [at for at, name in enumerate(header) if re.fullmatch(pattern, plain(name))]

    # By the path relative to the table, or by a unique name, with or without suffix.
    called: dict[str, str] = {}
    for path in unplaced:
        whole = PurePosixPath(path)
        if whole.is_relative_to(above := PurePosixPath(table.path).parent):
            for name in {str(whole.relative_to(above)), whole.name, whole.stem}:
                called[name] = "" if name in called else path

    def meant(cell: str) -> str:
        name = PurePosixPath(cell.replace("\\", "/"))
        return called.get(str(name)) or called.get(name.name) or called.get(name.stem, "")

    files, labels, subjects = map(columns, (_FILE, _LABEL, _SUBJECT))
    listed = [
        (number, row, path)
        for number, row in enumerate(rows, start=2)
        if files and len(row) == len(header) and (path := meant(row[files[0]]))
    ]
    marked = [at for at in range(len(header)) if {row[at] for _, row, _ in listed} <= {"0", "1"}]
    if not listed or not (labels or marked[1:]):
        return
    if len(labels) > 1:
        raise UserError(
            f"{where}: which of the columns {', '.join(header[at] for at in labels)} is the class?"
            " Keep one of them"
        )
    for number, row, path in listed:
        words = [header[at] for at in marked if row[at] == "1"]
        if labels:
            # The number of a CDR is a name, because the scale is known.
            words = ["CDR " * (plain(header[labels[0]]) == "cdr") + row[labels[0]]]
        if len(words) != 1:
            raise UserError(f"{where}: line {number} marks {len(words)} classes instead of one")
        subject = row[subjects[0]] if subjects else None
        yield unplaced[path]._replace(label=words[0], subject=subject or None)


def _slices(source: Path, arrays: Mapping[PurePosixPath, NDArray[Any]]) -> Iterator[Member]:
    """The slices in ``.npy`` files, by path, as images, each with its label.

    Slices are an array of 3 dimensions or more. Labels are an array of one dimension, or two with
    a 1 in the column of the class. They belong together if they are in one folder and their names
    differ in one part (``X_train``, ``y_train``), or if there are no other arrays.
    """
    labels = {path: array for path, array in arrays.items() if array.ndim in (1, 2)}
    for path, slices in arrays.items():
        if slices.ndim <= 2:
            continue
        mine = [
            array
            for other, array in labels.items()
            if len(arrays) == 2 or _which(other) == _which(path)
        ]
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
            read = partial(_encoded, pixels[number], "TIFF")
            yield Member(f"{path}/{number:06d}.tif", read, _word(label))


def _which(path: PurePosixPath) -> tuple[PurePosixPath, str]:
    """What slices and labels share: the folder, and ``train`` of ``X_train.npy``."""
    what = r"(^|[_-])(x|y|images?|imgs?|slices|data|labels?|targets?)(?=$|[_-])"
    return path.parent, re.sub(what, "", path.stem.lower())


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


def _word(label: object) -> str:
    """A label as text; a whole number has no decimal point."""
    if isinstance(label, bytes):
        return label.decode("utf-8", "backslashreplace")
    if isinstance(label, float) and label.is_integer():
        return str(int(label))
    return "" if label is None else str(label)


def _encoded(pixels: NDArray[Any], kind: str) -> bytes:
    """One slice as a file of a ``kind`` that keeps its values."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, kind)
    return content.getvalue()
