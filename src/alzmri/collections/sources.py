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
from typing import TYPE_CHECKING

from alzmri.classes import STAGES, Naming
from alzmri.collections import tables
from alzmri.collections.tables import Member
from alzmri.data import images
from alzmri.data.collection import Rejected, place, printable, walk
from alzmri.errors import EnvironmentFault, UserError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

MAX_RATIO = 100
"""Unpacked to packed bytes. Images hardly pack at all; above this an archive is a trap."""

_TABLES = (".parquet", ".npy")
"""Ends of the names of files that hold many images."""


Found = tuple[list[Member], list[Rejected]]
"""The files of a source, and what is none."""


@contextmanager
def members(source: Path, *, room: int, naming: Naming = STAGES) -> Iterator[Found]:
    """Yield the members of ``source``, sorted by path, and what is none. Nothing is changed.

    Parquet files and arrays of NumPy, alone or inside a folder or archive, are replaced by their
    rows, as members ``<file>/<label>/<name>``. What CSV tables say of images in no class folder
    is their label. ``room`` is how many bytes the unpacked source may take, ``naming`` what its
    folders mean.

    Raises:
        UserError: no such source, an archive that is damaged, encrypted, larger than ``room``
            or made to harm, a parquet file without the columns, a table that is ambiguous.
        EnvironmentFault: a parquet file, and pyarrow is not installed.
    """
    if source.is_dir():
        paths, rejected = walk(source)
        files = [Member(path, partial(_read_file, source / path)) for path in paths]
        yield _with_rows(source, files, room, naming), rejected
    elif not source.is_file():
        raise UserError(f"{source} not found: expected is a folder, a .zip or a .parquet file")
    elif zipfile.is_zipfile(source):
        with _whole(source):
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
def _whole(file: Path, fault: str = "is damaged") -> Iterator[None]:
    """While ``file`` is read: what a damaged one makes its reader raise becomes one sentence."""
    try:
        yield
    except Exception as error:  # there is hardly an exception that readers do not raise
        # With a number it is the system's: the disk's fault, not the file's. But a seek to where
        # a damaged file points is an invalid argument.
        systems = isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)
        if isinstance(error, UserError) or systems:
            raise
        what = str(error) or type(error).__name__
        raise UserError(f"{file} {fault} ({what}): download it again") from None


def _zip_members(
    source: Path, archive: zipfile.ZipFile, room: int
) -> tuple[list[Member], list[Rejected]]:
    entries = sorted(
        (entry for entry in archive.infolist() if not entry.is_dir()), key=lambda item: _path(item)
    )
    for entry in entries:
        path = PurePosixPath(_path(entry))
        if path.is_absolute() or ".." in path.parts:
            raise UserError(
                f"{source} refused: the member {printable(str(path))} leads out of the archive"
            )
        if entry.flag_bits & 1:
            raise UserError(f"{source} is encrypted: unpack it yourself, then import the folder")
    unpacked = sum(entry.file_size for entry in entries)
    # The file's own size: members that share bytes would add up to more.
    if unpacked > MAX_RATIO * source.stat().st_size:
        raise UserError(
            f"{source} refused: it would unpack to more than {MAX_RATIO} times its size, which "
            "images never do"
        )
    _check_room(source, unpacked, room)
    files, rejected = [], []
    for entry in entries:
        # The upper half of the attributes is the Unix mode.
        if stat.S_ISLNK(entry.external_attr >> 16):
            rejected.append(Rejected(printable(_path(entry)), "symbolic link"))
        else:
            files.append(Member(_path(entry), partial(_read_entry, source, archive, entry)))
    return files, rejected


def _path(entry: zipfile.ZipInfo) -> str:
    """Windows programs write backslashes."""
    return entry.filename.replace("\\", "/")


def _read_entry(source: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    # The archive checks that no more than this comes out.
    if not _path(entry).lower().endswith(_TABLES):
        images.check_bytes(entry.file_size)
    with _whole(source):
        return archive.read(entry)


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
        stray = isinstance(place(member.path, STAGES), Rejected)
        if member.path.lower().endswith(".parquet") and not stray:
            expanded += _rows(source, member, room)
        elif member.path.lower().endswith(".npy") and not stray:
            stacks.append(member)
        else:
            expanded.append(member)
    expanded += tables.arrays(source, stacks)
    return tables.labelled(source, expanded, naming)


def _rows(source: Path, member: Member, room: int) -> Iterator[Member]:
    """The images of a parquet file: columns ``image`` (bytes, or bytes and path) and ``label``."""
    where = source / member.path
    file = _open_table(where, member, room)
    names, fields = _label_names(file.schema_arrow), _fields(where, file.schema_arrow)
    # A value takes its place in the file once, however many rows have it; so it does here.
    distinct: dict[bytes, bytes] = {}
    number = size = 0
    for batch in _batches(where, file):
        # Not every value of every type has a form in Python.
        with _whole(where, "has labels that cannot be read"):
            labels = batch.column("label").to_pylist()
        for cell, label in zip(batch.column("image"), labels, strict=True):
            if isinstance(label, int) and 0 <= label < len(names):
                label = names[label]
            content = (cell["bytes"] if fields else cell).as_py() or b""
            size += len(content)
            _check_room(where, size, room)
            given = cell["path"].as_py() if "path" in fields else None
            name = PurePosixPath(given or "").name or f"{number:06d}{_suffix(content)}"
            word = tables.word(label)
            path = f"{member.path}/{word.replace('/', '_') or 'no label'}/{name}"
            read = partial(_checked, distinct.setdefault(content, content))
            yield Member(path, read, word)
            number += 1


def _suffix(content: bytes) -> str:
    """Of the name of an image that has none; empty for what is neither JPEG nor PNG."""
    starts = {b"\xff\xd8\xff": ".jpg", b"\x89PNG\r\n": ".png"}
    return next((name for start, name in starts.items() if content.startswith(start)), "")


def _batches(where: Path, file: "pq.ParquetFile") -> Iterator["pa.RecordBatch"]:
    """A few rows at a time: all of them may be many times as large as the file."""
    batches = file.iter_batches(batch_size=4, columns=["image", "label"])
    while True:
        with _whole(where, "is no whole parquet file"):
            batch = next(batches, None)
            if batch is None:
                return
            # Damage may pass the reader and show only in a value: text that is no UTF-8.
            batch.validate(full=True)
        yield batch


def _fields(where: Path, schema: "pa.Schema") -> set[str]:
    """The fields of the column ``image``; none if it is the bytes themselves."""
    kind = schema.field("image").type
    fields = [kind.field(index) for index in range(kind.num_fields)]
    types = {field.name: str(field.type) for field in fields}
    twice = len(types) < len(fields)
    if twice or types.get("bytes", str(kind)) not in ("binary", "large_binary"):
        raise UserError(f"{where}: the column image is of type {kind} and holds no bytes")
    if types.get("path", "null") not in ("null", "string", "large_string"):
        raise UserError(f"{where}: image.path is of type {types['path']}: expected is string")
    return set(types)


def _checked(content: bytes) -> bytes:
    images.check_bytes(len(content))
    return content


def _open_table(where: Path, member: Member, room: int) -> "pq.ParquetFile":
    try:
        import pyarrow.parquet as pq
    except ImportError:
        raise EnvironmentFault(
            f"{where} needs pyarrow: pip install -r requirements.txt, or pip install pyarrow"
        ) from None
    content = member.read()
    images.check_start(content, where)
    with _whole(where, "is no whole parquet file"):
        file = pq.ParquetFile(io.BytesIO(content))
        metadata = file.metadata
        groups = (metadata.row_group(number) for number in range(metadata.num_row_groups))
        _check_room(where, sum(group.total_byte_size for group in groups), room)
        names = file.schema_arrow.names
        missing = {"image", "label"} - set(names)
        if missing:
            raise UserError(f"{where} has no column {', '.join(sorted(missing))}")
        if names.count("image") + names.count("label") > 2:
            raise UserError(f"{where} has several columns image or label: keep one of each")
        return file


def _label_names(schema: "pa.Schema") -> tuple[str, ...]:
    """What the label numbers mean, as the Hugging Face schema says; empty if it does not."""
    try:
        content = json.loads((schema.metadata or {})[b"huggingface"])
        return tuple(map(str, content["info"]["features"]["label"]["names"]))
    except (KeyError, TypeError, ValueError):
        return ()
