"""Bringing a published collection into the repository, and saying what a collection holds."""

import hashlib
import re
import shlex
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

import numpy as np

from alzmri import classes, terminal
from alzmri.classes import CLASSES_FILE, STAGES, Naming
from alzmri.collections import named, origins, sources
from alzmri.collections.tables import Member
from alzmri.data import collection, images, similarity, subjects
from alzmri.data.collection import Collection, Entry, Rejected
from alzmri.errors import EnvironmentFault, UserError
from alzmri.files import replacing_directory, write_bytes, write_csv

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
        doubt: see :attr:`subjects.People.doubt`.
        unclear: why nothing tells; None if something does.
        known_by: what tells, of an import; None for the pixels.
        near_duplicates: pairs of subjects, as names or a table tell them, that the pixels hold
            to be one.
        unused: what to say of names that only most images have.
    """

    collection: Collection
    people: tuple[str, ...] | None
    unclear: subjects.Unclear | None = None
    known_by: str | None = None
    near_duplicates: tuple[tuple[str, str], ...] = ()
    unused: str | None = None
    doubt: str | None = None

    def images_of(self, label: str) -> int:
        """How many usable images a class has."""
        return sum(entry.label == label for entry in self.collection.entries)

    def subjects_of(self, label: str) -> int | None:
        """How many subjects have an image in a class; None if nothing tells."""
        if self.people is None:
            return None
        pairs = zip(self.collection.entries, self.people, strict=True)
        return len({person for entry, person in pairs if entry.label == label})

    @property
    def subjects_of_several_classes(self) -> int:
        """How many subjects have images in more than one class, as far as anything tells."""
        labels: defaultdict[str, set[str]] = defaultdict(set)
        if self.people is None:
            return 0
        for entry, person in zip(self.collection.entries, self.people, strict=True):
            labels[person].add(entry.label)
        return sum(len(several) > 1 for several in labels.values())


@dataclass(frozen=True)
class _Placed:
    """A member of a source, its class, and its path in the new collection."""

    member: Member
    label: str
    path: str


def survey(
    directory: Path,
    *,
    subjects_from: Literal["auto", "file", "pixels", "unknown"] = "auto",
) -> Report:
    """Validate a collection in place; ``subjects_from`` is ``split.subjects`` of the parameters.

    Raises:
        UserError: there is no such directory, or its ``subjects.csv`` is wanted and has faults.
    """
    found, read = _read(directory)
    if subjects_from == "unknown":
        return Report(found, None)
    return _report(found, directory, subjects_from, lambda: _compared(read)[1])


def import_collection(
    source: Path,
    name: str,
    *,
    force: bool,
    root: Path,
    named_classes: str | None = None,
    subject: str | None = None,
    max_rejected: float = MAX_REJECTED,
    command: str = "import",
    reader: Callable[..., AbstractContextManager[sources.Found]] = sources.members,
) -> Report:
    """Copy the usable images of ``source`` to ``root/data/name`` and give them to DVC and git.

    ``source`` is a folder, a zip archive or a parquet file in any published layout (see
    :func:`sources.members`); it is only read. Images keep their bytes, go to the folder of their
    class and keep their name; where several of a class have the same, the folders above go in
    front of it (``test-x.jpg``). Rejected files stay behind. ``classes.txt`` lists the classes,
    ``origin.csv`` says which path each image was published under, and ``subjects.csv`` has the
    subjects that names or a table of the source tell. ``data/name`` appears whole or not at all;
    ``force`` lets it replace another.

    Args:
        named_classes: ``--classes``, see :func:`classes.parse`; None for the stages.
        subject: ``--subject``, see :func:`named.by_pattern`.
        command: the one of ``alzmri data`` that messages name.
        reader: what opens ``source``.

    Raises:
        UserError: a bad name, a name in use, a source that cannot be used
            (:func:`collection.require`) or has classes without a name, no git and DVC repository
            in ``root``.
        EnvironmentFault: git or DVC failed, or a package for the source is missing.
    """
    check_name(name, _RESERVED)
    target = root / "data" / name
    _check_target(source, name, target, force=force, root=root)
    fresh = not target.exists()
    naming = classes.parse(named_classes) if named_classes else STAGES
    room = shutil.disk_usage(root).free
    with (
        reader(source, room=room, naming=naming) as (members, rejected),
        replacing_directory(target) as temporary,
    ):
        if not named_classes:
            naming = _kept_naming(source, members)
        placed, misplaced, words = _place(members, naming)
        if not placed:
            _require_images(source, name, members)
        lost = sum(not item.stray for item in misplaced)
        much = lost > max_rejected * (lost + len(placed))
        _require_names(f"{command} {_quoted(source)} --name {name}", naming, words, much=much)
        present = {item.label for item in placed}
        names = naming.classes or [known for known in classes.KNOWN if known in present]
        if len(names) > 1:  # a single one is refused below, for what it is
            write_bytes(temporary / CLASSES_FILE, "".join(f"{item}\n" for item in names).encode())
        origin, unread = _copy(placed, temporary)
        found, read = _read(temporary)
        copies = _copies(temporary, found)
        for item in found.rejected:
            (temporary / item.path).unlink()
        left = [
            replace(item, path=collection.printable(origin[item.path].path))
            for item in found.rejected
        ]
        behind = sorted(rejected + misplaced + unread + left, key=lambda item: item.path)
        found = replace(found, directory=source, rejected=tuple(behind))
        collection.require(found, max_rejected, remedy="nothing was imported")
        published = _published(source, members, found.entries, copies, origin)
        codes, links = _compared(read)
        turned = origins.turned(codes, [head.size for head in read])
        copied = {
            entry.path: found.entries[original].path
            for entry, original in zip(found.entries, turned.tolist(), strict=True)
            if original >= 0
        }
        rows = ((path, place, copied.get(path, "")) for path, place in published)
        write_csv(temporary / origins.ORIGIN_FILE, ("path", "origin", "copy_of"), rows)
        found = replace(found, directory=target)
        whose = _subjects(source, members, found.entries, origin, naming, subject)
        if whose:
            _write_subjects(temporary / subjects.SUBJECTS_FILE, found.entries, whose.names)
            alike = _near_duplicates(whose, found.entries, links, copies, origin)
            report = Report(found, tuple(whose.names), None, whose.known_by, alike)
        else:
            came = [collection.printable(origin[entry.path].path) for entry in found.entries]
            report = _report(found, temporary, "pixels", lambda: links)
            report = replace(report, unused=named.in_most(came))
    with terminal.progress("adding to DVC and git") as progress:
        _track(name, root, fresh=fresh)
        progress(len(found.entries), len(found.entries))
    return report


def _kept_naming(source: Path, members: Sequence[Member]) -> Naming:
    """The classes that ``source`` has if it is a collection of ours, which an import has named.

    Other releases have a ``classes.txt`` whose order means something else.
    """
    table = _table(source, members, origins.ORIGIN_FILE)
    kept = _table(source, members, CLASSES_FILE)
    if table and kept and table[1] == kept[1]:
        return collection.parse_classes(kept[2], kept[0])
    return STAGES


def _require_images(source: Path, name: str, members: Sequence[Member]) -> None:
    """Refuse a source that has no image, but something that can be made into images."""
    called = [item.path.lower() for item in members]
    volumes = sum(path.endswith(collection.VOLUMES) for path in called)
    volumes = volumes or sum(map(_is_dicom, members))  # their names often say nothing
    if volumes:
        raise UserError(
            f"{source} has no images, but {volumes} volumes (DICOM, NIfTI, FreeSurfer):"
            f" `alzmri data slices {_quoted(source)} --name {name}` makes a collection of their"
            " slices"
        )
    if any(".tfrec" in path for path in called):
        raise UserError(
            f"{source} has TFRecord files, which only TensorFlow reads: where that is installed,"
            " write the image of each record with tf.data.TFRecordDataset and tf.io.write_file to"
            " a folder for its class, and import those folders"
        )


def _is_dicom(member: Member) -> bool:
    try:
        return member.read()[128:132] == b"DICM"
    except images.Unreadable:
        return False


def _quoted(source: Path) -> str:
    return shlex.quote(str(source))


def _require_names(
    command: str, naming: Naming, words: Mapping[str, str | None], *, much: bool
) -> None:
    """Refuse a source with classes that have no known names, and say how to give them.

    ``words`` are the labels and class folders of its images, with their class; ``much`` says that
    too many images have none.

    Raises:
        UserError: there are labels that name no class, or folders of diagnoses that are no stage,
            or too many images are in other folders.
    """
    unknown = [word for word, label in words.items() if label is None]
    stageless = [word for word in unknown if classes.stageless(word)]
    if not unknown or not (much or stageless) or len(words) > classes.MOST:
        return
    if naming.classes:
        raise UserError(
            f"{', '.join(unknown)} is none of the classes {', '.join(naming.classes)}: name"
            " it with --classes, as LABEL=NAME where the two differ. Nothing was imported"
        )
    numbers = all(map(classes.number, unknown))
    what = (
        "numbers, and nothing says what they mean"
        if numbers
        else "no stages of dementia, so their order is for you to say"
    )
    # Of several spellings of a class the first will do.
    chosen = {label or word: word for word, label in reversed(list(words.items()))}
    raise UserError(
        f"the classes {', '.join(sorted(unknown))} are {what}. Nothing was imported; name"
        " the classes from healthy to severe:\n"
        f"  alzmri data {command} {classes.option(chosen.values())}"
    )


def _subjects(
    source: Path,
    members: Sequence[Member],
    entries: Sequence[Entry],
    origin: Mapping[str, Member],
    naming: Naming,
    pattern: str | None,
) -> named.Subjects | None:
    """The subject of each of ``entries``, as the user, a table or the names in the source say."""
    came = [origin[entry.path] for entry in entries]
    paths = [collection.printable(item.path) for item in came]
    if pattern:
        return named.by_pattern(pattern, paths)
    if listed := _listed(source, members, came):
        return named.Subjects(listed, f"the {subjects.SUBJECTS_FILE} of the source")
    if all(item.subject for item in came):
        return named.Subjects([item.subject or "" for item in came], "the table of labels")
    return named.recognise(paths, [entry.label for entry in entries], naming)


def _near_duplicates(
    whose: named.Subjects,
    entries: Sequence[Entry],
    links: similarity.Forest,
    copies: Mapping[str, str],
    origin: Mapping[str, Member],
) -> tuple[tuple[str, str], ...]:
    """The pairs of subjects that have images as alike as only one subject's are.

    Those of a chain of such pairs stand for all pairs of the chain. ``copies`` are exact.
    """
    close = links.correlations >= subjects.NEAR_DUPLICATE
    linked = zip(links.first[close].tolist(), links.second[close].tolist(), strict=True)
    pairs = [(whose.names[one], whose.names[other]) for one, other in linked]
    if whose.find:
        of = dict(zip((entry.path for entry in entries), whose.names, strict=True))
        for copy, used in copies.items():
            path = collection.printable(origin[copy].path)
            pairs.append((of[used], whose.find(path) or of[used]))
    return tuple(sorted({(min(pair), max(pair)) for pair in pairs if pair[0] != pair[1]}))


def _report(
    found: Collection,
    directory: Path,
    subjects_from: Literal["auto", "file", "pixels"],
    links: Callable[[], similarity.Forest],
) -> Report:
    """What ``found`` holds, with its subjects if anything tells them."""
    try:
        people = subjects.find(directory, subjects_from, found.entries, links)
    except subjects.Unclear as error:
        return Report(found, None, error)
    return Report(found, tuple(people.names), doubt=people.doubt)


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


def _place(
    members: Sequence[Member], naming: Naming
) -> tuple[list[_Placed], list[Rejected], dict[str, str | None]]:
    """Where each image goes, what is none, and the class of each label or class folder.

    Depends on the paths and labels alone, not on their order.
    """
    rejected: list[Rejected] = []
    words: dict[str, str | None] = {}
    by_name: defaultdict[str, list[tuple[Member, str]]] = defaultdict(list)
    for member in sorted(members, key=lambda item: item.path):
        word, found = _class_of(member, naming)
        if isinstance(found, Rejected):
            rejected.append(found)
        if found is None:
            continue
        label = found if isinstance(found, str) else None
        if word:
            words[word] = label
        if label:
            name = _short(collection.printable(PurePosixPath(member.path).name))
            by_name[f"{classes.folder(label)}/{name}"].append((member, label))
    taken = {path for path, same in by_name.items() if len(same) == 1}
    placed = [_Placed(*by_name[path][0], path) for path in sorted(taken)]
    for path in sorted(by_name.keys() - taken):
        folder, name = path.split("/")
        for member, label in by_name[path]:
            above = [part for part in member.path.split("/")[:-1] if not naming.class_of(part)]
            wanted = free = f"{folder}/{_short(collection.printable('-'.join([*above, name])))}"
            number = 1
            while free in taken:
                number += 1
                free = wanted.replace("/", f"/{number}-")
            taken.add(free)
            placed.append(_Placed(member, label, free))
    return placed, rejected, words


def _class_of(member: Member, naming: Naming) -> tuple[str | None, str | Rejected | None]:
    """The label or folder that is to say its class, and what :func:`collection.place` returns."""
    if member.label is None:
        found = collection.place(member.path, naming)
        if found is None or (isinstance(found, Rejected) and found.stray):
            return None, found
        folders = PurePosixPath(member.path).parts[:-1]
        meant = classes.of_folders(naming, folders)
        return (meant[0] if meant else folders[-1] if folders else None), found
    label = naming.class_of(member.label)
    reason = f"unknown label '{member.label}'; known are {naming.known}"
    refused = Rejected(collection.printable(member.path), reason if member.label else "no label")
    return member.label or None, label or refused


def _short(name: str) -> str:
    """``name``, or if no file system takes it, its beginning, a digest of it, and its suffix."""
    if len(name.encode()) <= _MAX_NAME:
        return name
    suffix = PurePosixPath(name).suffix
    end = f"-{hashlib.sha256(name.encode()).hexdigest()[:12]}"
    end += suffix if suffix.lower() in images.SUFFIXES else ""
    return name.encode()[: _MAX_NAME - len(end)].decode(errors="ignore") + end


def _copy(placed: Sequence[_Placed], directory: Path) -> tuple[dict[str, Member], list[Rejected]]:
    """Write the members below ``directory``; return each one by its new path, and failures."""
    for label in {item.label for item in placed}:
        (directory / classes.folder(label)).mkdir()
    origin: dict[str, Member] = {}
    rejected: list[Rejected] = []
    with terminal.progress("copying") as progress:
        for done, item in enumerate(placed, start=1):
            try:
                (directory / item.path).write_bytes(item.member.read())
            except images.Unreadable as error:
                rejected.append(Rejected(collection.printable(item.member.path), str(error)))
            else:
                origin[item.path] = item.member
            progress(done, len(placed))
    return origin, rejected


class _Head(NamedTuple):
    """What is kept of an image: see :func:`images.thumbnail`; its height and width."""

    thumbnail: images.Pixels
    size: tuple[int, int]


def _read(directory: Path) -> tuple[Collection, list[_Head]]:
    """The collection, and the heads of its entries."""
    heads: list[_Head] = []

    def head(pixels: images.Pixels) -> _Head:
        height, width = pixels.shape
        return _Head(images.thumbnail(pixels), (height, width))

    with terminal.progress("validating") as progress:
        found = collection.read(directory, head, heads.append, progress)
    return found, heads


def _compared(heads: Sequence[_Head]) -> tuple[similarity.Codes, similarity.Forest]:
    with terminal.progress("comparing images") as progress:
        codes = similarity.encode(np.array([head.thumbnail for head in heads], np.uint8))
        return codes, similarity.forest(codes, progress)


def _listed(source: Path, members: Sequence[Member], came: Sequence[Member]) -> list[str]:
    """The subject of each of ``came`` by the source's ``subjects.csv``; empty if it has none."""
    table = _table(source, members, subjects.SUBJECTS_FILE)
    if table is None:
        return []
    name, above, content = table
    paths = [item.path.removeprefix(above) for item in came]
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
    origin: Mapping[str, Member],
) -> list[tuple[str, str]]:
    """Each entry's path and where it was published; several times if several copies were.

    That is what the source's ``origin.csv`` says, else the path in the source.
    """
    table = _table(source, members, origins.ORIGIN_FILE)
    name, above, content = table or ("", "", b"path,origin")
    known = origins.parse(content, name)
    rows = set()
    for copy, path in {**{entry.path: entry.path for entry in entries}, **copies}.items():
        here = origin[copy].path
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
        return "nothing was imported: correct that, then import again"
    restore = f"; `dvc checkout --force data/{name}.dvc` brings the old images back"
    return (
        f"data/{name} holds the new images, untracked: correct that, then import again with --force"
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
