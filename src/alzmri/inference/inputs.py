"""Find and read the user's inputs: images, folders, globs, volumes, DICOM series."""

import glob
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from alzmri.data import images
from alzmri.data.images import Pixels, Unreadable
from alzmri.errors import UserError
from alzmri.inference import ventricles, volumes

# Suffixes of volumes and their slices: an unreadable file with one is refused, not skipped.
_VOLUME, _DICOM = (".nii", ".nii.gz", ".mgh", ".mgz"), (".dcm", ".ima")
Kind = Literal["image", "volume", "dicom"]


@dataclass(frozen=True)
class Source:
    """A file, or the files of a DICOM series; ``name`` is for messages."""

    name: str
    kind: Kind
    files: tuple[Path, ...]


@dataclass(frozen=True)
class InputSlice:
    """One slice, ready for the model."""

    source: str  # the name of its Source
    subject: str | None  # None if unknown
    depth: int | None  # mm below the top of the brain, for a slice of a volume
    pixels: Pixels  # uint8 [side, side]


def find(names: Sequence[str]) -> list[Source]:
    """Find the inputs that ``names`` mean: files, folders with everything below them, globs.

    A folder gives, sorted, files named like an image, and files that are volumes or DICOM by their
    content, slices grouped into series. Raises :class:`UserError` when a name means nothing.
    """
    found: dict[tuple[Path, ...], Source] = {}
    for name in names:
        paths = [Path(name)]
        if not paths[0].exists():
            paths = sorted(map(Path, glob.glob(name, recursive=True)))  # noqa: PTH207 - any root
        sources = [source for path in paths for source in _at(path)]
        if not sources:
            what = "has no image, volume or DICOM file" if paths else "no such file or folder"
            raise UserError(f"{name}: {what}")
        found |= {source.files: source for source in sources}
    return list(found.values())


def _at(path: Path) -> list[Source]:
    if not path.is_dir():
        header = path.with_suffix(".hdr")
        if path.suffix == ".img" and header.is_file():
            path = header
        return [Source(str(path), _kind(path) or "image", (path,))]
    sources = []
    series: defaultdict[tuple[Path, str], list[Path]] = defaultdict(list)
    for file in sorted(path.rglob("*")):
        hidden = any(part.startswith(".") for part in file.relative_to(path).parts)
        kind = _kind(file) if file.is_file() and not hidden else None
        if kind == "dicom":
            series[_series(file)].append(file)
        elif kind:
            sources.append(Source(str(file), kind, (file,)))
    in_place = Counter(place for place, _ in series)
    for (place, _), files in series.items():
        which = f" (series of {files[0].name})" if in_place[place] > 1 else ""
        sources.append(Source(f"{place}{which}", "dicom", tuple(files)))
    return sources


def _kind(path: Path) -> Kind | None:
    if path.suffix.lower() in images.SUFFIXES:
        return "image"
    kind, name = volumes.kind(path), path.name.lower()
    if kind == "dicom" or name.endswith(_DICOM):
        return "dicom"
    return "volume" if kind or name.endswith(_VOLUME) else None


def _series(file: Path) -> tuple[Path, str]:
    """The folder and series of a DICOM file; an unusable file is a series of its own."""
    try:
        return file.parent, str(volumes.read_dicom(file).get("SeriesInstanceUID"))
    except Unreadable:
        return file, ""


def read(
    source: Source, preprocess: Callable[[Pixels], Pixels], *, by_folder: bool = False
) -> list[InputSlice]:
    """The slices of ``source`` as the model sees them; those of a volume are of one subject.

    With ``by_folder``, images of a folder are of one subject. Raises :class:`Unreadable`.
    """
    if source.kind == "image":
        (path,) = source.files
        pixels = images.decode(path.resolve()).pixels
        subject = str(path.parent) if by_folder else None
        return [InputSlice(source.name, subject, None, preprocess(pixels))]
    return [
        InputSlice(source.name, source.name, depth, preprocess(pixels))
        for depth, pixels in ventricles.choose(volume(source), ventricles.SLICES)
    ]


def volume(source: Source) -> volumes.Volume:
    """The volume of a file or a DICOM series; raises :class:`Unreadable` with the reason."""
    if source.kind == "volume":
        return volumes.read(source.files[0])
    return volumes.read_series(source.files)
