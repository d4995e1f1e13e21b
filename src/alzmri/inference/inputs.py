"""What a user names on the command line: images, folders, globs, volumes, DICOM series."""

import glob
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from alzmri.data import images
from alzmri.data.images import Pixels, Unreadable
from alzmri.errors import UserError
from alzmri.inference import volumes
from alzmri.inference.predictor import Preprocessing

_VOLUME, _DICOM = (".nii", ".nii.gz", ".mgh", ".mgz"), (".dcm", ".ima")
"""Names that promise a volume or a slice of one: a file that is none is refused, not left out."""


@dataclass(frozen=True)
class Source:
    """What is read at once.

    Attributes:
        name: as messages and tables call it.
        kind: of what.
        files: one, or those of a DICOM series.
    """

    name: str
    kind: Literal["image", "volume", "dicom"]
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Slice:
    """One slice, ready for the model.

    Attributes:
        source: the name of where it comes from.
        subject: whose it is, None if nobody said.
        depth: mm below the top of the brain, of a volume's slice.
        pixels: uint8 ``[side, side]``.
    """

    source: str
    subject: str | None
    depth: int | None
    pixels: Pixels


def find(names: Sequence[str]) -> list[Source]:
    """What ``names`` mean: files as they are, folders with all below them, globs.

    In a folder are taken, sorted, what is named like an image, and what is a volume or DICOM by its
    content, slices grouped into series; the rest is none of our business.

    Raises:
        UserError: a name means nothing.
    """
    found: dict[tuple[Path, ...], Source] = {}
    for name in names:
        matches = [Path(name)] if Path(name).exists() else sorted(map(Path, _glob(name)))
        sources = [source for path in matches for source in _at(path)]
        if not sources:
            what = "holds no image, volume or DICOM file" if matches else "no such file or folder"
            raise UserError(f"{name}: {what}")
        found |= {source.files: source for source in sources}
    return list(found.values())


def _glob(pattern: str) -> list[str]:
    return glob.glob(pattern, recursive=True)  # noqa: PTH207 - of any root, absolute or not


def _at(path: Path) -> list[Source]:
    if not path.is_dir():
        header = path.with_suffix(".hdr")
        if path.suffix == ".img" and header.is_file():
            path = header
        return [Source(str(path), _kind(path) or "image", (path,))]
    files = sorted(
        file
        for file in path.rglob("*")
        if file.is_file() and not any(p.startswith(".") for p in file.relative_to(path).parts)
    )
    kinds = {file: kind for file in files if (kind := _kind(file))}
    single = [Source(str(f), kind, (f,)) for f, kind in kinds.items() if kind != "dicom"]
    return single + _series([file for file, kind in kinds.items() if kind == "dicom"])


def _kind(path: Path) -> Literal["image", "volume", "dicom"] | None:
    if path.suffix.lower() in images.SUFFIXES:
        return "image"
    kind, name = volumes.kind(path), path.name.lower()
    if kind == "dicom" or name.endswith(_DICOM):
        return "dicom"
    return "volume" if kind or name.endswith(_VOLUME) else None


def _series(files: Sequence[Path]) -> list[Source]:
    """One source per series and folder; an unusable file is one of its own, for its reason."""
    groups: defaultdict[tuple[Path, str], list[Path]] = defaultdict(list)
    for file in files:
        try:
            header = volumes.read_dicom(file, pixels=False)
        except Unreadable:
            groups[file, ""].append(file)
        else:
            groups[file.parent, str(header.get("SeriesInstanceUID"))].append(file)
    places = [place for place, _ in groups]
    sources = []
    for (place, _), members in groups.items():
        name = str(place)
        if places.count(place) > 1:
            name += f" (series of {members[0].name})"
        sources.append(Source(name, "dicom", tuple(members)))
    return sources


def read(
    source: Source, preprocessing: Preprocessing, *, count: int, by_folder: bool
) -> list[Slice]:
    """The slices of ``source`` as the model sees them: of a volume ``count``, of one subject.

    Args:
        by_folder: the images of a folder are one subject's.

    Raises:
        Unreadable: with the reason.
    """
    if source.kind == "image":
        (path,) = source.files
        pixels = images.decode(path.resolve()).pixels
        subject = str(path.parent) if by_folder else None
        return [Slice(source.name, subject, None, preprocessing(pixels))]
    from alzmri.inference import ventricles

    return [
        Slice(source.name, source.name, chosen.depth, preprocessing(chosen.pixels))
        for chosen in ventricles.choose(volume(source), count)
    ]


def volume(source: Source) -> volumes.Volume:
    """The volume in a file, or of a DICOM series.

    Raises:
        Unreadable: with the reason.
    """
    if source.kind == "volume":
        return volumes.read(source.files[0])
    return volumes.read_series(source.files)
