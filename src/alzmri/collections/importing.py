"""Import a published collection into the repository."""

import hashlib
import re
import shlex
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from alzmri import classes, git, repository, terminal
from alzmri.classes import CLASSES_FILE, STAGES, Naming
from alzmri.collections import recognition, sources
from alzmri.collections.sources import Member
from alzmri.data import class_folders, images, subjects
from alzmri.data.class_folders import ORIGIN_FILE, Collection, Rejected, printable
from alzmri.data.subjects import SUBJECTS_FILE, SubjectNames
from alzmri.errors import EnvironmentFault, UserError
from alzmri.files import replacing_directory, write_bytes, write_csv

_LONGEST = 200
"""Maximum bytes in the name of a folder or file. File systems allow 255."""


def import_collection(
    source: Path,
    name: str,
    named_classes: str | None = None,
    subject: str | None = None,
    force: bool = False,
    max_rejected: float = 0.1,
    slices: int | None = None,
) -> tuple[Collection, SubjectNames]:
    """Copy the usable images of ``source`` to ``data/name`` and give them to DVC and git.

    Images go to the folder of their class and keep their bytes and name; if several of a class have
    the same name, the folders above become a prefix (``test-x.jpg``). ``classes.txt`` lists the
    classes, ``origin.csv`` has the published path of each image and the original of each copy,
    ``subjects.csv`` has the subjects from names or a table of the source. ``data/name`` appears
    complete or not at all; ``force`` replaces an existing one. It prints what it finds of subjects
    and copies.

    Args:
        named_classes: ``--classes``, see :func:`classes.parse`; None for the stages.
        subject: ``--subject``, see :func:`recognition.by_pattern`.
        slices: number of slices of each volume in ``source``; None for a source of images.

    Returns:
        The usable images and, by their path in the source, the rejected files; the subjects.

    Raises:
        UserError: the name is not valid or in use, the source is unusable or has unknown classes,
            or this is not a git and DVC repository.
        EnvironmentFault: git or DVC failed, or a package for the source is missing.
    """
    target = Path("data", name)
    _check_target(source, name, force=force)
    fresh = not target.exists()
    naming = classes.parse(named_classes) if named_classes else STAGES
    if slices:
        members, rejected = sources.volumes(source, slices)
    else:
        members, rejected = sources.members(source, naming)
    # The source is an imported collection. In other releases, classes.txt has no useful order.
    kept, known = (_table(source, members, file) for file in (CLASSES_FILE, ORIGIN_FILE))
    if kept and known and kept.above == known.above and not named_classes:
        naming = class_folders.classes_of(kept.content, kept.name)
    placed, misplaced, words = _place(members, naming)
    lost = sum(not item.stray for item in misplaced)
    much = lost > max_rejected * (lost + len(placed))
    command = f"{'slices' if slices else 'import'} {shlex.quote(str(source))} --name {name}"
    _require_names(command, naming, words, much)
    with replacing_directory(target) as temporary:
        found = _copy(placed, naming, temporary)
        rejected = sorted([*rejected, *misplaced, *found.rejected], key=lambda item: item.path)
        found = replace(found, directory=source, rejected=rejected)
        class_folders.require(found, max_rejected, remedy="nothing was imported")
        used = [placed[entry.path] for entry in found.entries]
        paths = [printable(member.path) for member in used]
        copy_of = recognition.copies(found)
        came = [(entry.path, path) for entry, path in zip(found.entries, paths, strict=True)]
        came += [(item.duplicate_of, item.path) for item in rejected if item.duplicate_of]
        rows = sorted((path, origin, copy_of.get(path, "")) for path, origin in came)
        write_csv(temporary / ORIGIN_FILE, ("path", "origin", "copy_of"), rows)
        table = _table(source, members, SUBJECTS_FILE)
        identified = _subjects(table, used, naming, subject) or subjects.find(found, "pixels")
        if identified.known_by:
            pairs = zip([entry.path for entry in found.entries], identified.names, strict=True)
            write_csv(temporary / SUBJECTS_FILE, ("path", "subject"), pairs)
        _report(target, found, identified, len(copy_of))
    terminal.say("adding to DVC and git")
    _track(target, fresh=fresh)
    return found, identified


def _check_target(source: Path, name: str, *, force: bool) -> None:
    """Check, before any work, everything that would fail at its end."""
    target = Path("data", name)
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", name) or name in ("phantom", "prepared"):
        raise UserError(
            f"{name!r} is not a valid name: use up to 64 lower-case letters, digits, _ and -, but"
            " not phantom or prepared"
        )
    repository.find()
    git.run("rev-parse", "--git-dir")
    if source.resolve().is_relative_to(target.resolve()):
        raise UserError(f"{source} is the collection {name} itself: choose another --name")
    if not force and (target.exists() or target.with_name(f"{name}.dvc").exists()):
        raise UserError(f"{target} exists: choose another --name, or replace it with --force")


def _require_names(
    command: str, naming: Naming, words: Mapping[str, str | None], much: bool
) -> None:
    """Raise UserError for unknown classes (if ``much`` of the source has one), with an option that
    names the classes of its labels and folders, ``words``."""
    unknown = [word for word, label in words.items() if label is None]
    refused = much or any(map(classes.stageless, unknown))
    if not unknown or not refused or len(words) > classes.MOST:
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
        " the classes from healthy to severe (check the order):\n"
        f"  alzmri data {command} {classes.option(chosen.values())}"
    )


def _place(
    members: Sequence[Member], naming: Naming
) -> tuple[dict[str, Member], list[Rejected], dict[str, str | None]]:
    """The images, with their class, by their path in the new collection; the rejected files; the
    class of each label or class folder. They depend only on paths and labels, not on their order.
    """
    rejected: list[Rejected] = []
    words: dict[str, str | None] = {}
    by_name: defaultdict[tuple[str, str], list[Member]] = defaultdict(list)
    for member in sorted(members, key=lambda item: item.path):
        if (word := member.label) is None:
            word, found = class_folders.place(member.path, naming)
        elif not (found := naming.class_of(word)):
            why = f"unknown label '{word}'; known are {naming.known}" if word else "no label"
            found = Rejected(printable(member.path), why)
        if word:
            words[word] = found if isinstance(found, str) else None
        if isinstance(found, Rejected):
            rejected.append(found)
        elif found:
            name = printable(PurePosixPath(member.path).name)
            by_name[classes.folder(found), name].append(member._replace(label=found))
    placed: dict[str, Member] = {}
    for (folder, name), same in sorted(by_name.items()):
        for member in same:
            above = [part for part in member.path.split("/")[:-1] if not naming.class_of(part)]
            path = f"{folder}/{name if len(same) == 1 else printable('-'.join([*above, name]))}"
            if path in placed or len(path.encode()) > _LONGEST:
                digest = hashlib.sha256(printable(member.path).encode()).hexdigest()
                path = f"{folder}/{digest[:16]}{PurePosixPath(name).suffix[:8]}"
            placed[path] = member
    return placed, rejected, words


def _copy(placed: Mapping[str, Member], naming: Naming, directory: Path) -> Collection:
    """Write ``classes.txt`` and the images to ``directory``, and validate them; the rejected ones
    are removed, and have their path in the source."""
    present = {member.label for member in placed.values()}
    named = naming.classes or [one for one in classes.KNOWN if one in present]
    if len(named) > 1:  # a single one is refused later, with its own message
        write_bytes(directory / CLASSES_FILE, "".join(f"{one}\n" for one in named).encode())
    rejected = []
    with terminal.progress("copying") as progress:
        for done, (path, member) in enumerate(placed.items(), start=1):
            (directory / path).parent.mkdir(exist_ok=True)
            try:
                (directory / path).write_bytes(member.read())
            except images.Unreadable as error:
                rejected.append(Rejected(printable(member.path), str(error)))
            progress(done, len(placed))
    found = class_folders.read(directory)
    for item in found.rejected:
        (directory / item.path).unlink()
        rejected.append(replace(item, path=printable(placed[item.path].path)))
    return replace(found, rejected=rejected)


class _Table(NamedTuple):
    """A table of the source: its name in messages, the folder that it describes, its bytes."""

    name: str
    above: str
    content: bytes


def _table(source: Path, members: Sequence[Member], name: str) -> _Table | None:
    """The outermost table ``name``, if there is one."""
    tables = [item for item in members if PurePosixPath(item.path).name == name]
    if not tables:
        return None
    table = min(tables, key=lambda item: (item.path.count("/"), item.path))
    called = str(source / table.path)
    try:
        return _Table(called, table.path.removesuffix(name), table.read())
    except images.Unreadable as error:
        raise UserError(f"{called}: {error}") from None


def _subjects(
    table: _Table | None, used: Sequence[Member], naming: Naming, pattern: str | None
) -> SubjectNames | None:
    """The subject of each image ``used``, by the user's pattern, a table, or names in the source;
    None if only the pixels are left."""
    paths = [printable(item.path) for item in used]
    if pattern:
        return recognition.by_pattern(pattern, paths)
    if table:
        inside = [item.path.removeprefix(table.above) for item in used]
        listed = subjects.listed(table.content, table.name, inside)
        return SubjectNames(listed, known_by=f"the {SUBJECTS_FILE} of the source")
    of_labels = [item.subject for item in used if item.subject]
    if len(of_labels) == len(used):
        return SubjectNames(of_labels, known_by="the table of labels")
    return recognition.by_names(paths, [item.label or "" for item in used], naming)


def _report(target: Path, found: Collection, identified: SubjectNames, copies: int) -> None:
    """Print what the user should know of the subjects and copies of an import."""
    if identified.known_by:
        who = f"{len(set(identified.names))} subjects known by {identified.known_by}"
        terminal.say(f"{who}: see {target}/{SUBJECTS_FILE}")
        links, names = found.links, identified.names
        close = links.correlations >= subjects.NEAR_DUPLICATE
        linked = zip(links.first[close].tolist(), links.second[close].tolist(), strict=True)
        both = {tuple(sorted((names[one], names[other]))) for one, other in linked}
        if pairs := sorted(pair for pair in both if pair[0] != pair[1]):
            shown = ", ".join(" and ".join(pair) for pair in pairs[:3]) + ", ..." * (len(pairs) > 3)
            terminal.warn(
                f"{len(pairs)} pairs of subjects have near-duplicate images: {shown}. If they are"
                " the same subject under two names, the split leaks"
            )
    elif identified.doubt:
        terminal.warn("prepare would refuse this: " * (not identified.known) + identified.doubt)
    if copies:
        terminal.say(
            f"{copies} images are turned, mirrored or brightened copies of others (see"
            f" {target}/{ORIGIN_FILE}): a subject split tests one image of each slice"
        )


def _track(target: Path, *, fresh: bool) -> None:
    """``dvc add`` and ``git add``, because queued experiments have only files that git knows.

    If they fail, it undoes their changes, and removes ``target`` if it is ``fresh``.
    """
    pointer, ignore = target.with_name(f"{target.name}.dvc"), target.with_name(".gitignore")
    before = {file: file.read_bytes() if file.exists() else None for file in (pointer, ignore)}
    try:
        # The module is the DVC of this environment, even if that is not activated.
        words = (sys.executable, "-m", "dvc", "add", str(target))
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            printed = (done.stdout + done.stderr).strip()
            faults = re.findall("ERROR: .*", printed)  # other lines are advice
            raise UserError((faults or [printed or "dvc add failed"])[0])
        # DVC writes no .gitignore if the user's own excludes already contain the folder.
        git.run("add", *(str(file) for file in (pointer, ignore) if file.exists()))
    except BaseException as error:
        for file, content in before.items():
            file.unlink(missing_ok=True)
            if content is not None:
                file.write_bytes(content)
        remedy = (
            f"{target} holds the new images, untracked: correct that, then import again with"
            f" --force; `dvc checkout --force {pointer}` brings the old images back"
        )
        if fresh:
            shutil.rmtree(target)
            remedy = "nothing was imported: correct that, then import again"
        if not isinstance(error, UserError):
            raise
        text = f"{target} could not be added to DVC and git: {error}\n{remedy}"
        raise EnvironmentFault(text) from None
