"""What an import can start from: a folder, a zip archive, parquet files, or those in one another.

Whatever it is, it is seen as a list of members, each with a path and a way to get its bytes.
Nothing is ever unpacked to a path that an archive chose.
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
"""Ends of the names of files that hold many images."""
_VOLUME_ENDS = (".gz", ".nii", ".mgz", ".mgh", ".hdr")

Found = tuple[list[Member], list[Rejected]]
"""The files of a source, and what is none."""


@contextmanager
def members(source: Path, room: int, naming: Naming = STAGES) -> Iterator[Found]:
    """Yield the members of ``source``, sorted by path, and what is none. Nothing is changed.

    Parquet files and arrays of NumPy are replaced by their rows, as members
    ``<file>/<label>/<name>``. What CSV tables say of images in no class folder is their label.
    ``room`` is how many bytes the unpacked source may take, ``naming`` what its folders mean.

    Raises:
        UserError: no such source, an archive or parquet file that cannot be read or is larger
            than ``room``, a table that is ambiguous.
        EnvironmentFault: a parquet file, and pyarrow is not installed.
    """
    if source.is_dir():
        paths, rejected = walk(source)
        files = [Member(path, partial(_read_file, source / path)) for path in paths]
        yield _with_rows(source, files, room, naming), rejected
    elif not source.is_file():
        raise UserError(f"{source} not found: expected is a folder, a .zip or a .parquet file")
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
            f"{source} is neither a folder nor a whole .zip or .parquet file: download it again, or"
            " give the folder that it is in"
        )


@contextmanager
def volumes(count: int, source: Path, _room: int, _naming: Naming) -> Iterator[Found]:
    """In place of :func:`members`: ``count`` slices of each volume in the folder ``source``.

    They are those that ``alzmri predict`` would show the model, as PNG.

    Raises:
        UserError: it is no folder, or there is no volume.
    """
    from alzmri.inference import inputs, ventricles  # only here: they take seconds

    if not source.is_dir():
        raise UserError(f"{source} is no folder: give one with a folder of volumes for each class")
    found = [item for item in inputs.find([str(source)]) if item.kind != "image"]
    if not found:
        raise UserError(
            f"{source} has no volume (NIfTI, DICOM, .mgz); `alzmri data import` takes images"
        )
    files, rejected = [], []
    for number, volume in enumerate(found, start=1):
        # A folder for each: that of a series, or what the file is called.
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
    """While ``file`` is read: what its reader raises becomes one sentence."""
    try:
        yield
    except Exception as error:  # there is hardly an exception that readers do not raise
        # With a number it is the system's: the disk's fault, not the file's. But a seek to where
        # a damaged file points is an invalid argument.
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
        # The archive checks that no more than this comes out.
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
    """``files`` with every table replaced by its rows, and labels from CSV tables."""
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
    # A value takes its place in the file once, however many rows have it; so it does here.
    distinct: dict[bytes, bytes] = {}
    number = size = 0
    with _readable(where, "is no whole parquet file with columns image (bytes) and label"):
        file = pq.ParquetFile(io.BytesIO(content))
        groups = map(file.metadata.row_group, range(file.metadata.num_row_groups))
        _check_room(where, sum(group.total_byte_size for group in groups), room)
        names = _label_names(file.schema_arrow.metadata or {})
        # A few rows at a time: all of them may be many times as large as the file.
        for batch in file.iter_batches(batch_size=4, columns=["image", "label"]):
            # Damage may pass the reader and show only in a value: text that is no UTF-8.
            batch.validate(full=True)
            cells = batch.column("image").to_pylist()
            for cell, label in zip(cells, batch.column("label").to_pylist(), strict=True):
                value = cell["bytes"] if isinstance(cell, dict) else cell
                if not isinstance(value, bytes | None):
                    raise TypeError(f"image is of type {batch.schema.field('image').type}")
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
    """Of the name of an image that has none; empty for what is neither JPEG nor PNG."""
    starts = {b"\xff\xd8\xff": ".jpg", b"\x89PNG\r\n": ".png"}
    return next((name for start, name in starts.items() if content.startswith(start)), "")


def _checked(content: bytes) -> bytes:
    images.check_bytes(len(content))
    return content


def _label_names(metadata: dict[bytes, bytes]) -> list[str]:
    """What the label numbers mean, as the Hugging Face schema says; empty if it does not."""
    try:
        content = json.loads(metadata[b"huggingface"])
        return list(map(str, content["info"]["features"]["label"]["names"]))
    except (KeyError, TypeError, ValueError):
        return []
