"""Bringing a published collection into the repository, and saying what a collection holds."""

import hashlib
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from alzmri.classes import CLASSES, FOLDERS, class_of_folder
from alzmri.collections import origins, sources
from alzmri.collections.sources import Member
from alzmri.data import collection, images, similarity, subjects
from alzmri.data.collection import Collection, Entry, Rejected
from alzmri.errors import EnvironmentFault, UserError
from alzmri.files import replacing_directory, write_csv
from alzmri.terminal import Update

MAX_REJECTED = 0.1
"""Of the images of a source: above this fraction something is wrong with the source."""

_RESERVED = ("phantom", "prepared")
"""Folders in ``data`` that the pipeline writes."""

_MAX_NAME = 200
"""Bytes of a file name. File systems take 255: a number or a suffix may still be added."""


@dataclass(frozen=True)
class Report:
    """What a collection holds.

    Attributes:
        collection: the images, and what was rejected.
        people: the subject of each of ``collection.entries``; None if nothing tells.
        unclear: why nothing tells; None if something does.
    """

    collection: Collection
    people: tuple[str, ...] | None
    unclear: subjects.Unclear | None = None

    def images_of(self, label: str) -> int:
        """How many usable images a class has."""
        return sum(entry.label == label for entry in self.collection.entries)

    def people_of(self, label: str) -> int | None:
        """How many people have an image in a class; None if nothing tells."""
        if self.people is None:
            return None
        pairs = zip(self.collection.entries, self.people, strict=True)
        return len({person for entry, person in pairs if entry.label == label})

    @property
    def people_of_several_classes(self) -> int:
        """How many people have images in more than one class, as far as anything tells."""
        labels: defaultdict[str, set[str]] = defaultdict(set)
        if self.people is None:
            return 0
        for entry, person in zip(self.collection.entries, self.people, strict=True):
            labels[person].add(entry.label)
        return sum(len(several) > 1 for several in labels.values())


@dataclass(frozen=True)
class _Placed:
    """A member of a source and its path in the new collection."""

    member: Member
    path: str


def survey(
    directory: Path,
    *,
    people_from: Literal["auto", "file", "pixels"] = "auto",
    progress: Update | None = None,
) -> Report:
    """Validate a collection in place; ``people_from`` is ``split.subjects`` of the parameters.

    Raises:
        UserError: there is no such directory, or its ``subjects.csv`` is wanted and has faults.
    """
    found, thumbnails = _read(directory, progress)
    return _report(found, directory, people_from, thumbnails)


def import_collection(
    source: Path,
    name: str,
    *,
    force: bool,
    root: Path,
    max_rejected: float = MAX_REJECTED,
    progress: Update | None = None,
) -> Report:
    """Copy the usable images of ``source`` to ``root/data/name`` and give them to DVC and git.

    ``source`` is a folder, a zip archive or a parquet file in any published layout (see
    :func:`sources.members`); it is only read. Images keep their bytes, go to the folder of their
    class (:data:`classes.FOLDERS`) and keep their name; where several of a class have the same,
    the folders above go in front of it (``test-x.jpg``). Rejected files stay behind. A
    ``subjects.csv`` comes along with its paths rewritten, and ``origin.csv`` says which path each
    image was published under. ``data/name`` appears whole or not at all; ``force`` lets it
    replace another.

    Raises:
        UserError: a bad name, a name in use, a source that cannot be used
            (:func:`collection.require`), no git and DVC repository in ``root``.
        EnvironmentFault: git or DVC failed, or a package for the source is missing.
    """
    check_name(name, _RESERVED)
    target = root / "data" / name
    _check_target(source, name, target, force=force, root=root)
    fresh = not target.exists()
    room = shutil.disk_usage(root).free
    with (
        sources.members(source, room=room) as (members, rejected),
        replacing_directory(target) as temporary,
    ):
        placed, misplaced = _place(members)
        origin, unread = _copy(placed, temporary)
        found, thumbnails = _read(temporary, progress)
        copies = _copies(temporary, found)
        for item in found.rejected:
            (temporary / item.path).unlink()
        left = [
            replace(item, path=collection.printable(origin[item.path])) for item in found.rejected
        ]
        behind = sorted(rejected + misplaced + unread + left, key=lambda item: item.path)
        found = replace(found, directory=source, rejected=tuple(behind))
        collection.require(found, max_rejected, remedy="nothing was imported")
        published = _published(source, members, found.entries, copies, origin)
        write_csv(temporary / origins.ORIGIN_FILE, ("path", "origin"), published)
        found = replace(found, directory=target)
        listed = _listed(source, members, found.entries, origin)
        if listed:
            _write_subjects(temporary / subjects.SUBJECTS_FILE, found.entries, listed)
            report = Report(found, tuple(listed))
        else:
            report = _report(found, temporary, "pixels", thumbnails)
    _track(name, root, fresh=fresh)
    return report


def _report(
    found: Collection,
    directory: Path,
    people_from: Literal["auto", "file", "pixels"],
    thumbnails: similarity.Thumbnails,
) -> Report:
    """What ``found`` holds, with its people if anything tells them."""

    def links() -> similarity.Forest:
        return similarity.forest(similarity.encode(thumbnails))

    try:
        people = subjects.find(directory, people_from, found.entries, links)
    except subjects.Unclear as error:
        return Report(found, None, error)
    return Report(found, tuple(people.names))


def check_name(name: str, reserved: Sequence[str]) -> None:
    """Refuse (:class:`UserError`) what cannot name a collection, or is ``reserved``."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", name) or name in reserved:
        raise UserError(
            f"{name!r} cannot name a collection: use up to 64 small letters, digits, _ and -, "
            f"but not {' nor '.join(reserved)}"
        )


def _check_target(source: Path, name: str, target: Path, *, force: bool, root: Path) -> None:
    """Refuse before any work what would fail at its end."""
    if not (root / ".dvc").is_dir():
        raise UserError(f"{root.resolve()} is no DVC repository: run from the repository's root")
    inside = _run(root, "git", "rev-parse", "--is-inside-work-tree")
    if inside.returncode:
        raise UserError(f"{root.resolve()} is no git repository: run from the repository's root")
    if source.resolve().is_relative_to(target.resolve()):
        raise UserError(f"{source} is the collection {name} itself: choose another --name")
    pointer = target.with_name(f"{name}.dvc")
    if not force and (target.exists() or pointer.exists()):
        raise UserError(f"data/{name} exists: choose another --name, or replace it with --force")


def _place(members: Sequence[Member]) -> tuple[list[_Placed], list[Rejected]]:
    """Where each image goes, and what is none. Depends on the paths alone, not on their order."""
    rejected: list[Rejected] = []
    by_name: defaultdict[str, list[Member]] = defaultdict(list)
    for member in sorted(members, key=lambda item: item.path):
        match collection.place(member.path):
            case str(label):
                folder = FOLDERS[CLASSES.index(label)]
                name = _short(collection.printable(PurePosixPath(member.path).name))
                by_name[f"{folder}/{name}"].append(member)
            case Rejected() as item:
                rejected.append(item)
    taken = {path for path, same in by_name.items() if len(same) == 1}
    placed = [_Placed(by_name[path][0], path) for path in sorted(taken)]
    for path in sorted(by_name.keys() - taken):
        folder, name = path.split("/")
        for member in by_name[path]:
            above = [part for part in member.path.split("/")[:-1] if not class_of_folder(part)]
            wanted = free = f"{folder}/{_short(collection.printable('-'.join([*above, name])))}"
            number = 1
            while free in taken:
                number += 1
                free = wanted.replace("/", f"/{number}-")
            taken.add(free)
            placed.append(_Placed(member, free))
    return placed, rejected


def _short(name: str) -> str:
    """``name``, or if no file system takes it, its beginning, a digest of it, and its suffix."""
    if len(name.encode()) <= _MAX_NAME:
        return name
    suffix = PurePosixPath(name).suffix
    end = f"-{hashlib.sha256(name.encode()).hexdigest()[:12]}"
    end += suffix if suffix.lower() in images.SUFFIXES else ""
    return name.encode()[: _MAX_NAME - len(end)].decode(errors="ignore") + end


def _copy(placed: Sequence[_Placed], directory: Path) -> tuple[dict[str, str], list[Rejected]]:
    """Write the members below ``directory``; return each one's path in the source, and failures."""
    for folder in FOLDERS:
        (directory / folder).mkdir()
    origin: dict[str, str] = {}
    rejected: list[Rejected] = []
    for item in placed:
        try:
            (directory / item.path).write_bytes(item.member.read())
        except images.Unreadable as error:
            rejected.append(Rejected(collection.printable(item.member.path), str(error)))
        else:
            origin[item.path] = item.member.path
    return origin, rejected


def _read(directory: Path, progress: Update | None) -> tuple[Collection, similarity.Thumbnails]:
    """The collection and the thumbnails of its entries."""
    thumbnails: list[images.Pixels] = []
    found = collection.read(directory, images.thumbnail, thumbnails.append, progress)
    return found, np.array(thumbnails, np.uint8)


def _listed(
    source: Path, members: Sequence[Member], entries: Sequence[Entry], origin: dict[str, str]
) -> list[str]:
    """The subject of each entry as the source's ``subjects.csv`` says; empty if it has none."""
    table = _table(source, members, subjects.SUBJECTS_FILE)
    if table is None:
        return []
    name, above, content = table
    paths = [origin[entry.path].removeprefix(above) for entry in entries]
    return subjects.parse(content, name, paths)


def _copies(directory: Path, found: Collection) -> dict[str, str]:
    """The image that is used, of each duplicate of it; paths are relative to ``directory``."""
    used = {entry.sha256: entry.path for entry in found.entries}
    duplicates = [item.path for item in found.rejected if item.duplicate]
    return {
        path: used[hashlib.sha256((directory / path).read_bytes()).hexdigest()]
        for path in duplicates
    }


def _published(
    source: Path,
    members: Sequence[Member],
    entries: Sequence[Entry],
    copies: dict[str, str],
    origin: dict[str, str],
) -> list[tuple[str, str]]:
    """Each entry's path and where it was published; several times if several copies were.

    That is what the source's ``origin.csv`` says, else the path in the source.
    """
    table = _table(source, members, origins.ORIGIN_FILE)
    name, above, content = table or ("", "", b"path,origin")
    known = origins.parse(content, name)
    rows = set()
    for copy, path in {**{entry.path: entry.path for entry in entries}, **copies}.items():
        here = origin[copy]
        for published in known.get(here.removeprefix(above), [collection.printable(here)]):
            rows.add((path, published))
    return sorted(rows)


def _table(source: Path, members: Sequence[Member], name: str) -> tuple[str, str, bytes] | None:
    """What messages call the topmost file ``name``, the folder it speaks of, and its bytes."""
    tables = [item for item in members if PurePosixPath(item.path).name == name]
    if not tables:
        return None
    table = min(tables, key=lambda item: (item.path.count("/"), item.path))
    called = str(source / table.path)
    try:
        return called, table.path.removesuffix(name), table.read()
    except images.Unreadable as error:
        raise UserError(f"{called}: {error}") from None


def _write_subjects(path: Path, entries: Sequence[Entry], people: Sequence[str]) -> None:
    paths = (entry.path for entry in entries)
    write_csv(path, ("path", "subject"), zip(paths, people, strict=True))


def _track(name: str, root: Path, *, fresh: bool) -> None:
    """``dvc add`` and ``git add``: a queued experiment sees only what git knows of.

    If they fail, what they wrote is taken back, and ``data/name`` too if it is ``fresh``.
    """
    target, pointer, ignore = (root / "data" / file for file in (name, f"{name}.dvc", ".gitignore"))
    before = {file: file.read_bytes() if file.exists() else None for file in (pointer, ignore)}

    def run(*command: str) -> None:
        finished = _run(root, *command)
        if finished.returncode:
            raise EnvironmentFault(
                f"data/{name} could not be added to DVC and git: {_reason(finished)}\n"
                + _how_to_go_on(name, fresh=fresh, tracked=before[pointer] is not None)
            )

    try:
        # The module, not the command: it is the DVC of this environment, activated or not. Not
        # quiet: then it would fail without a word.
        run(sys.executable, "-m", "dvc", "add", f"data/{name}")
        # DVC writes no .gitignore where the user's own excludes name the folder already.
        written = [f"data/{file.name}" for file in (pointer, ignore) if file.exists()]
        run("git", "add", *written)
    except BaseException:
        for file, content in before.items():
            if content is None:
                file.unlink(missing_ok=True)
            else:
                file.write_bytes(content)
        if fresh:
            shutil.rmtree(target)
        raise


def _how_to_go_on(name: str, *, fresh: bool, tracked: bool) -> str:
    if fresh:
        return "nothing was imported: mend that, then import again"
    restore = f"; `dvc checkout --force data/{name}.dvc` brings the old images back"
    return (
        f"data/{name} holds the new images, untracked: mend that, then import again with --force"
        + (restore if tracked else "")
    )


def _reason(finished: subprocess.CompletedProcess[str]) -> str:
    """The line in which DVC or git says what is wrong: others give advice."""
    lines = [line.strip() for line in f"{finished.stdout}\n{finished.stderr}".splitlines()]
    faults = [line for line in lines if re.match("(error|fatal): ", line, re.IGNORECASE)]
    spoken = [line for line in lines if line]
    return (faults or spoken[-1:] or [f"exit status {finished.returncode}"])[0]


def _run(root: Path, *command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise EnvironmentFault(f"{command[0]} is not installed") from None
