"""Import a published collection into the repository."""

import hashlib
import re
import shlex
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from alzmri import classes, git, terminal
from alzmri.classes import CLASSES_FILE, STAGES, Naming
from alzmri.collections import recognition, sources
from alzmri.collections.tables import Member
from alzmri.data import class_folders, images, similarity, subjects
from alzmri.data.class_folders import ORIGIN_FILE, Collection, Entry, Rejected, printable
from alzmri.data.subjects import SUBJECTS_FILE
from alzmri.errors import EnvironmentFault, UserError
from alzmri.files import replacing_directory, write_bytes, write_csv

_LONGEST = 200
"""Maximum bytes in the name of a folder or file. File systems allow 255."""


class Imported(NamedTuple):
    """The result of an import: the images and rejected files; the subject of each image, None if
    unknown; remarks and warnings, in sentences."""

    collection: Collection
    people: Sequence[str] | None
    notes: Sequence[str]
    warnings: Sequence[str]


class Head(NamedTuple):
    """The thumbnail of an image (see :func:`images.thumbnail`), and its height and width."""

    thumbnail: images.Pixels
    size: tuple[int, ...]


class _Placed(NamedTuple):
    """A member of a source, its class, and its path in the new collection."""

    member: Member
    label: str
    path: str


def read(directory: Path) -> tuple[Collection, list[Head]]:
    """:func:`class_folders.read` with a progress bar; also the heads of the entries."""
    heads: list[Head] = []

    def keep(pixels: images.Pixels) -> Head:
        return Head(images.thumbnail(pixels), pixels.shape)

    with terminal.progress("validating") as progress:
        return class_folders.read(directory, keep, heads.append, progress), heads


def compared(heads: Sequence[Head]) -> tuple[similarity.Codes, similarity.Forest]:
    """Compare all images with each other, with a progress bar."""
    with terminal.progress("comparing images") as progress:
        codes = similarity.encode(np.array([head.thumbnail for head in heads], np.uint8))
        return codes, similarity.forest(codes, progress)


def import_collection(
    source: Path,
    name: str,
    named_classes: str | None = None,
    subject: str | None = None,
    force: bool = False,
    max_rejected: float = 0.1,
    command: str = "import",
    reader: Callable[[Path, int, Naming], AbstractContextManager[sources.Found]] = sources.members,
) -> Imported:
    """Copy the usable images of ``source`` to ``data/name`` and give them to DVC and git.

    Images go to the folder of their class and keep their bytes and name; if several of a class have
    the same name, the folders above become a prefix (``test-x.jpg``). ``classes.txt`` lists the
    classes, ``origin.csv`` has the published path of each image and the original of each copy,
    ``subjects.csv`` has the subjects from names or a table of the source. ``data/name`` appears
    complete or not at all; ``force`` replaces an existing one.

    Args:
        named_classes: ``--classes``, see :func:`classes.parse`; None for the stages.
        subject: ``--subject``, see :func:`recognition.by_pattern`.
        command: the command of ``alzmri data``, for messages.
        reader: opens ``source`` without changing it: see :func:`sources.members`.

    Raises:
        UserError: the name is not valid or in use, the source is unusable
            (:func:`class_folders.require`) or has unknown classes, or this is not a git and DVC
            repository.
        EnvironmentFault: git or DVC failed, or a package for the source is missing.
    """
    check_name(name, ("phantom", "prepared"))
    target = Path("data", name)
    _check_target(source, target, force=force)
    fresh = not target.exists()
    naming = classes.parse(named_classes) if named_classes else STAGES
    room = shutil.disk_usage(".").free
    with (
        reader(source, room, naming) as (members, rejected),
        replacing_directory(target) as temporary,
    ):
        # The source is an imported collection. In other releases, classes.txt has no useful order.
        kept, known = (_table(source, members, file) for file in (CLASSES_FILE, ORIGIN_FILE))
        if kept and known and kept.above == known.above and not named_classes:
            naming = class_folders.classes_of(kept.content, kept.name)
        placed, misplaced, words = _place(members, naming)
        if not placed:
            _require_images(source, name, members)
        lost = sum(not item.stray for item in misplaced)
        much = lost > max_rejected * (lost + len(placed))
        _require_names(f"{command} {shlex.quote(str(source))} --name {name}", naming, words, much)
        present = {item.label for item in placed}
        names = naming.classes or [one for one in classes.KNOWN if one in present]
        if len(names) > 1:  # a single one is refused below, with its own message
            write_bytes(temporary / CLASSES_FILE, "".join(f"{one}\n" for one in names).encode())
        origin, unread = _copy(placed, temporary)
        found, heads = read(temporary)
        for item in found.rejected:
            (temporary / item.path).unlink()
        came = {path: printable(member.path) for path, member in origin.items()}
        left = [replace(item, path=came[item.path]) for item in found.rejected]
        behind = sorted(rejected + misplaced + unread + left, key=lambda item: item.path)
        entries = found.entries
        reported = replace(found, directory=source, rejected=tuple(behind))
        class_folders.require(reported, max_rejected, remedy="nothing was imported")

        codes, links = compared(heads)
        of = recognition.copies(codes, links, [head.size for head in heads]).tolist()
        copy_of = {
            entry.path: entries[number].path
            for entry, number in zip(entries, of, strict=True)
            if number >= 0
        }
        used = {item.path: item.duplicate_of for item in found.rejected}
        used |= {entry.path: entry.path for entry in entries}
        rows = {
            (path, place, copy_of.get(path, ""))
            for copied, place in _published(known, came)
            if (path := used[copied])
        }
        write_csv(temporary / ORIGIN_FILE, ("path", "origin", "copy_of"), sorted(rows))
        table = _table(source, members, SUBJECTS_FILE)
        members_used = [origin[entry.path] for entry in entries]
        people, known_by, warnings = _subjects(table, members_used, entries, naming, subject, links)
        notes = []
        if people and known_by:
            pairs = zip([entry.path for entry in entries], people, strict=True)
            write_csv(temporary / SUBJECTS_FILE, ("path", "subject"), pairs)
            notes.append(
                f"{len(set(people))} subjects known by {known_by}: see {target}/{SUBJECTS_FILE}"
            )
        if copy_of:
            notes.append(
                f"{len(copy_of)} images are turned, mirrored or brightened copies of others (see"
                f" {target}/{ORIGIN_FILE}): a subject split tests one image of each slice"
            )
    with terminal.progress("adding to DVC and git") as progress:
        _track(name, fresh=fresh)
        progress(len(entries), len(entries))
    return Imported(replace(reported, directory=target), people, notes, warnings)


def check_name(name: str, reserved: Sequence[str]) -> None:
    """Raise :class:`UserError` for an invalid or ``reserved`` name of a collection."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", name) or name in reserved:
        raise UserError(
            f"{name!r} is not a valid name: use up to 64 lower-case letters, digits, _ and -, but"
            f" not {' or '.join(reserved)}"
        )


def _check_target(source: Path, target: Path, *, force: bool) -> None:
    """Check, before any work, everything that would fail at its end."""
    if not Path(".dvc").is_dir():
        raise UserError(f"{Path.cwd()} is not a DVC repository: run from the repository's root")
    git.run("rev-parse", "--git-dir")
    if source.resolve().is_relative_to(target.resolve()):
        raise UserError(f"{source} is the collection {target.name} itself: choose another --name")
    if not force and (target.exists() or target.with_name(f"{target.name}.dvc").exists()):
        raise UserError(f"{target} exists: choose another --name, or replace it with --force")


class _Table(NamedTuple):
    """A table of the source: its name in messages, the folder that it describes, its bytes."""

    name: str
    above: str
    content: bytes


def _table(source: Path, members: Sequence[Member], name: str) -> _Table | None:
    tables = [item for item in members if PurePosixPath(item.path).name == name]
    if not tables:
        return None
    table = min(tables, key=lambda item: (item.path.count("/"), item.path))
    called = str(source / table.path)
    try:
        return _Table(called, table.path.removesuffix(name), table.read())
    except images.Unreadable as error:
        raise UserError(f"{called}: {error}") from None


def _require_images(source: Path, name: str, members: Sequence[Member]) -> None:
    """Raise UserError for a source without images that can be converted into images."""

    def is_volume(member: Member) -> bool:
        if member.path.lower().endswith(class_folders.VOLUMES):
            return True
        try:
            return member.read()[128:132] == b"DICM"  # DICOM files often have no suffix
        except images.Unreadable:
            return False

    if volumes := sum(map(is_volume, members)):
        raise UserError(
            f"{source} has no images, but {volumes} volumes (DICOM, NIfTI, FreeSurfer):"
            f" `alzmri data slices {shlex.quote(str(source))} --name {name}` makes a collection of"
            " their slices"
        )
    if any(".tfrec" in member.path.lower() for member in members):
        raise UserError(
            f"{source} has TFRecord files, which only TensorFlow reads: with TensorFlow installed,"
            " write the image of each record with tf.data.TFRecordDataset and tf.io.write_file to"
            " a folder for its class, and import those folders"
        )


def _require_names(
    command: str, naming: Naming, words: Mapping[str, str | None], much: bool
) -> None:
    """Raise UserError for unknown classes (if ``much`` of the source has one), with an option that
    names the classes of its labels and folders, ``words``."""
    unknown = [word for word, label in words.items() if label is None]
    stageless = [word for word in unknown if classes.stageless(word)]
    if not unknown or not (much or stageless) or len(words) > classes.MOST:
        return
    if naming.classes:
        raise UserError(
            f"{', '.join(unknown)} is not one of the classes {', '.join(naming.classes)}. Nothing"
            " was imported: map it with --classes LABEL=NAME"
        )
    what = "not stages of dementia, so you must give their order"
    if all(map(classes.number, unknown)):
        what = "numbers without a meaning"
    # Take the first of several spellings of a class.
    chosen = {label or word: word for word, label in reversed(list(words.items()))}
    raise UserError(
        f"the classes {', '.join(sorted(unknown))} are {what}. Nothing was imported; name"
        " the classes from healthy to severe:\n"
        f"  alzmri data {command} {classes.option(chosen.values())}"
    )


def _place(
    members: Sequence[Member], naming: Naming
) -> tuple[list[_Placed], list[Rejected], dict[str, str | None]]:
    """The place of each image, the rejected files, and the class of each label or class folder.

    They depend only on paths and labels, not on their order.
    """
    rejected: list[Rejected] = []
    words: dict[str, str | None] = {}
    by_name: defaultdict[tuple[str, str], list[tuple[Member, str]]] = defaultdict(list)
    for member in sorted(members, key=lambda item: item.path):
        word, found = member.label, None
        if word is None:
            word, found = class_folders.place(member.path, naming)
        elif not (found := naming.class_of(word)):
            why = f"unknown label '{word}'; known are {naming.known}" if word else "no label"
            found = Rejected(printable(member.path), why)
        label = found if isinstance(found, str) else None
        if isinstance(found, Rejected):
            rejected.append(found)
        if word:
            words[word] = label
        if label:
            name = printable(PurePosixPath(member.path).name)
            by_name[classes.folder(label), name].append((member, label))
    placed: dict[str, _Placed] = {}
    for (folder, name), same in sorted(by_name.items()):
        for member, label in same:
            above = [part for part in member.path.split("/")[:-1] if not naming.class_of(part)]
            path = f"{folder}/{name if len(same) == 1 else printable('-'.join([*above, name]))}"
            if path in placed or len(path.encode()) > _LONGEST:
                digest = hashlib.sha256(printable(member.path).encode()).hexdigest()
                path = f"{folder}/{digest[:16]}{PurePosixPath(name).suffix[:8]}"
            placed[path] = _Placed(member, label, path)
    return list(placed.values()), rejected, words


def _copy(placed: Sequence[_Placed], directory: Path) -> tuple[dict[str, Member], list[Rejected]]:
    """Write the members below ``directory``; return the members by new path, and failures."""
    for label in {item.label for item in placed}:
        (directory / classes.folder(label)).mkdir()
    origin: dict[str, Member] = {}
    rejected: list[Rejected] = []
    with terminal.progress("copying") as progress:
        for done, item in enumerate(placed, start=1):
            try:
                (directory / item.path).write_bytes(item.member.read())
                origin[item.path] = item.member
            except images.Unreadable as error:
                rejected.append(Rejected(printable(item.member.path), str(error)))
            progress(done, len(placed))
    return origin, rejected


def _published(known: _Table | None, came: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The path and the published path of each file: its path in the source, ``came``, or that of
    the source's ``origin.csv``."""
    before: defaultdict[str, list[str]] = defaultdict(list)
    if known:
        for _, row in class_folders.rows(known.content, known.name, ("path", "origin")):
            before[known.above + row["path"]].append(row["origin"])
    return ((path, place) for path, here in came.items() for place in before.get(here, [here]))


def _subjects(
    table: _Table | None,
    came: Sequence[Member],
    entries: Sequence[Entry],
    naming: Naming,
    pattern: str | None,
    links: similarity.Forest,
) -> tuple[list[str] | None, str | None, list[str]]:
    """The subject of each entry, the evidence unless it is the pixels, and warnings.

    The user's pattern comes first, then a table, names in the source, and the pixels.
    """
    paths = [printable(item.path) for item in came]
    of_labels = [item.subject for item in came if item.subject]
    said: recognition.Named | str | None
    if pattern:
        said = recognition.by_pattern(pattern, paths)
    elif table:
        inside = [item.path.removeprefix(table.above) for item in came]
        names = subjects.listed(table.content, table.name, inside)
        said = recognition.Named(names, f"the {SUBJECTS_FILE} of the source")
    elif len(of_labels) == len(came):
        said = recognition.Named(of_labels, "the table of labels")
    else:
        said = recognition.by_names(paths, [entry.label for entry in entries], naming)
    if isinstance(said, recognition.Named):
        return said.subjects, said.known_by, _near_duplicates(said.subjects, links)
    warnings = [said] if said else []
    try:
        people = subjects.from_pixels(links, [entry.sha256 for entry in entries])
    except subjects.Unclear as error:
        return None, None, [*warnings, f"prepare would refuse this: {error}"]
    return people.names, None, [*warnings, people.doubt] if people.doubt else warnings


def _near_duplicates(people: Sequence[str], links: similarity.Forest) -> list[str]:
    """A warning if pairs of subjects have near-duplicate images."""
    close = links.correlations >= subjects.NEAR_DUPLICATE
    linked = zip(links.first[close].tolist(), links.second[close].tolist(), strict=True)
    both = {tuple(sorted((people[one], people[other]))) for one, other in linked}
    if not (pairs := sorted(pair for pair in both if pair[0] != pair[1])):
        return []
    shown = ", ".join(" and ".join(pair) for pair in pairs[:3]) + ", ..." * (len(pairs) > 3)
    return [
        f"{len(pairs)} pairs of subjects have near-duplicate images: {shown}. If they are the same"
        " subject under two names, the split leaks"
    ]


def _track(name: str, *, fresh: bool) -> None:
    """``dvc add`` and ``git add``, because queued experiments have only files that git knows.

    If they fail, it undoes their changes, and removes ``data/name`` if it is ``fresh``.
    """
    target, pointer, ignore = (Path("data", file) for file in (name, f"{name}.dvc", ".gitignore"))
    before = {file: file.read_bytes() if file.exists() else None for file in (pointer, ignore)}
    try:
        # The module is the DVC of this environment, even if that is not activated.
        words = (sys.executable, "-m", "dvc", "add", str(target))
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = [line.strip() for line in (done.stdout + done.stderr).splitlines()]
            faults = [
                line for line in lines if line.startswith("ERROR: ")
            ]  # other lines are advice
            raise UserError((faults or lines or ["dvc add failed"])[0])
        # DVC writes no .gitignore if the user's own excludes already contain the folder.
        git.run("add", *(str(file) for file in (pointer, ignore) if file.exists()))
    except BaseException as error:
        for file, content in before.items():
            if content is None:
                file.unlink(missing_ok=True)
            else:
                file.write_bytes(content)
        remedy = "nothing was imported: correct that, then import again"
        if fresh:
            shutil.rmtree(target)
        else:
            remedy = (
                f"{target} holds the new images, untracked: correct that, then import again with"
                f" --force; `dvc checkout --force {pointer}` brings the old images back"
            )
        if isinstance(error, UserError):
            text = f"{target} could not be added to DVC and git: {error}\n{remedy}"
            raise EnvironmentFault(text) from None
        raise
