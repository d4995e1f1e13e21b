"""Read the source of an import: a folder, a zip archive, parquet files, or nested ones.

A source is a list of members, each with a path and a function that reads its bytes. Nothing is ever
unpacked to a path from an archive.
"""

import errno
import io
import json
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath

from alzmri import terminal
from alzmri.classes import STAGES, Naming
from alzmri.collections import tables
from alzmri.collections.tables import Member
from alzmri.data import images
from alzmri.data.class_folders import Rejected, place, printable, walk
from alzmri.errors import EnvironmentFault, UserError

_TABLES = (".parquet", ".npy")
"""Suffixes of files with many images."""
_VOLUME_ENDS = (".gz", ".nii", ".mgz", ".mgh", ".hdr")

Found = tuple[list[Member], list[Rejected]]
"""The files of a source, and rejected entries."""


@contextmanager
def members(source: Path, room: int, naming: Naming = STAGES) -> Iterator[Found]:
    """Yield the members of ``source``, sorted by path, and rejected entries; change nothing.

    The rows of parquet files and NumPy arrays become members ``<file>/<label>/<name>``. CSV tables
    give the labels of images outside class folders. ``room`` is the maximum size of the unpacked
    source in bytes, ``naming`` the meaning of its folders.

    Raises:
        UserError: there is no such source, an archive or parquet file is unreadable or larger than
            ``room``, or a table is ambiguous.
        EnvironmentFault: a parquet file needs pyarrow, which is not installed.
    """
    if source.is_dir():
        paths, rejected = walk(source)
        files = [Member(path, partial(_read_file, source / path)) for path in paths]
        yield _with_rows(source, files, room, naming), rejected
    elif not source.is_file():
        raise UserError(f"{source} not found: give a folder, a .zip or a .parquet file")
    elif zipfile.is_zipfile(source):
        with _readable(source):
            opened = zipfile.ZipFile(source)
        with opened as archive:
            files, rejected = _zip_members(source, archive, room)
            yield _with_rows(source, files, room, naming), rejected
    elif source.name.lower().endswith(".parquet"):
        alone = [Member(source.name, source.read_bytes)]
        yield _with_rows(source.parent, alone, room, naming), []
    else:
        with source.open("rb") as file:
            images.check_start(file.read(images.START), source)
        raise UserError(
            f"{source} is neither a folder nor a complete .zip or .parquet file: download it again,"
            " or give its folder"
        )


@contextmanager
def volumes(count: int, source: Path, _room: int, _naming: Naming) -> Iterator[Found]:
    """Like :func:`members`, but ``count`` slices of each volume in the folder ``source``, as PNG.

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
                read = partial(tables.encoded, chosen.pixels, "PNG")
                files.append(Member(f"{path.as_posix()}/{path.name}_{chosen.depth}mm.png", read))
        except images.Unreadable as error:
            rejected.append(Rejected(printable(first.as_posix()), str(error)))
        terminal.say(f"{number} of {len(found)}: {path.as_posix()}")
    yield files, rejected


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
        what = str(error) or type(error).__name__
        raise UserError(f"{file} {fault}: {what}") from None


def _zip_members(source: Path, archive: zipfile.ZipFile, room: int) -> Found:
    entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    _check_room(source, sum(entry.file_size for entry in entries), room)
    # Windows programs write backslashes.
    named = {entry.filename.replace("\\", "/"): entry for entry in entries}

    def read(path: str) -> bytes:
        # The archive checks that no more than this is unpacked.
        if not path.lower().endswith(_TABLES):
            images.check_bytes(named[path].file_size)
        with _readable(source):
            return archive.read(named[path])

    # The upper half of the attributes is the Unix mode.
    links = {path for path, entry in named.items() if stat.S_ISLNK(entry.external_attr >> 16)}
    files = [Member(path, partial(read, path)) for path in sorted(named.keys() - links)]
    return files, [Rejected(printable(path), "symbolic link") for path in sorted(links)]


def _read_file(path: Path) -> bytes:
    return path.read_bytes() if path.name.lower().endswith(_TABLES) else images.read(path)


def _check_room(source: Path, size: int, room: int) -> None:
    if size > room:
        raise UserError(
            f"{source} unpacks to {size / 1e9:.1f} GB, but only {room / 1e9:.1f} GB are free: make "
            "room on the disk first"
        )


def _with_rows(source: Path, files: list[Member], room: int, naming: Naming) -> list[Member]:
    """Replace every table in ``files`` by its rows, and add labels from CSV tables."""
    expanded: list[Member] = []
    stacks: list[Member] = []
    for member in files:
        stray = isinstance(place(member.path, STAGES)[1], Rejected)
        if member.path.lower().endswith(".parquet") and not stray:
            expanded += _rows(source / member.path, member, room)
        elif member.path.lower().endswith(".npy") and not stray:
            stacks.append(member)
        else:
            expanded.append(member)
    expanded += tables.arrays(source, stacks)
    return tables.labelled(source, expanded, naming)


def _rows(where: Path, member: Member, room: int) -> Iterator[Member]:
    """The images of a parquet file: columns ``image`` (bytes, or bytes and path) and ``label``."""
    try:
        import pyarrow.parquet as pq
    except ImportError:
        raise EnvironmentFault(
            f"{where} needs pyarrow: pip install -r requirements.txt, or pip install pyarrow"
        ) from None
    content = member.read()
    images.check_start(content, where)
    # The file stores a value once for any number of rows, and so does this.
    distinct: dict[bytes, bytes] = {}
    number = size = 0
    with _readable(where, "is not a complete parquet file with columns image (bytes) and label"):
        file = pq.ParquetFile(io.BytesIO(content))
        groups = map(file.metadata.row_group, range(file.metadata.num_row_groups))
        _check_room(where, sum(group.total_byte_size for group in groups), room)
        names = _label_names(file.schema_arrow.metadata or {})
        # A few rows at a time: all rows may be many times larger than the file.
        for batch in file.iter_batches(batch_size=4, columns=["image", "label"]):
            # The reader may miss damage, which then shows as text that is not UTF-8.
            batch.validate(full=True)
            cells = batch.column("image").to_pylist()
            for cell, label in zip(cells, batch.column("label").to_pylist(), strict=True):
                value = cell["bytes"] if isinstance(cell, dict) else cell
                if not isinstance(value, bytes | None):
                    raise TypeError(f"image has the type {batch.schema.field('image').type}")
                value = distinct.setdefault(value or b"", value or b"")
                size += len(value)
                _check_room(where, size, room)
                given = cell.get("path") if isinstance(cell, dict) else None
                name = PurePosixPath(given).name if isinstance(given, str) else ""
                name = name or f"{number:06d}{_suffix(value)}"
                named = isinstance(label, int) and 0 <= label < len(names)
                word = names[label] if named else tables.word(label)
                path = f"{member.path}/{word.replace('/', '_') or 'no label'}/{name}"
                yield Member(path, partial(_checked, value), word)
                number += 1


def _suffix(content: bytes) -> str:
    """The suffix for an image without a name: .jpg, .png or empty."""
    starts = {b"\xff\xd8\xff": ".jpg", b"\x89PNG\r\n": ".png"}
    return next((name for start, name in starts.items() if content.startswith(start)), "")


def _checked(content: bytes) -> bytes:
    images.check_bytes(len(content))
    return content


def _label_names(metadata: dict[bytes, bytes]) -> list[str]:
    """The names of label numbers in the Hugging Face schema; empty if it has none."""
    try:
        content = json.loads(metadata[b"huggingface"])
        return list(map(str, content["info"]["features"]["label"]["names"]))
    except (KeyError, TypeError, ValueError):
        return []
