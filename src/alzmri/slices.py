"""``alzmri data slices``: a collection of the slices of volumes, chosen as ``predict`` chooses."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alzmri import repository, terminal
from alzmri.collections.cli import Classes, Force, MaxRejected, Name, Subject, announce
from alzmri.errors import UserError

# They take seconds to import; `alzmri --help` must not.
if TYPE_CHECKING:
    from alzmri.collections.tables import Member
    from alzmri.data.collection import Rejected
    from alzmri.inference.inputs import Source

_ENDS = (".gz", ".nii", ".mgz", ".mgh", ".hdr")


def slices(
    source: Annotated[
        Path,
        typer.Argument(
            help="A folder with a folder of volumes for each class: NIfTI, DICOM series, .mgz.",
            callback=repository.located,
        ),
    ],
    name: Name,
    count: Annotated[int, typer.Option("--slices", min=1, max=40, help="Of each volume.")] = 6,
    classes: Classes = None,
    subject: Subject = None,
    force: Force = False,
    max_rejected: MaxRejected = 0.1,
) -> None:
    """Make a collection of axial slices around the ventricles of volumes.

    The volumes must be T1-weighted, with the skull stripped. Their slices are those that
    `alzmri predict` shows the model, a millimetre apart. Each volume is a subject, unless OASIS,
    ADNI or BIDS names or --subject say otherwise.

    Example:

        alzmri data slices adni/ --name adni --classes CN,MCI,AD
    """
    from alzmri.collections.importing import import_collection

    report = import_collection(
        source,
        name,
        force=force,
        root=Path(),
        named_classes=classes,
        subject=subject,
        max_rejected=max_rejected,
        command="slices",
        reader=partial(_read, count),
    )
    announce(report, name)


@contextmanager
def _read(
    count: int, source: Path, **_: object
) -> Iterator[tuple[list["Member"], list["Rejected"]]]:
    """In place of ``sources.members``: the slices of all volumes in the folder ``source``.

    Raises:
        UserError: it is no folder, or there is none.
    """
    from alzmri.collections.tables import Member
    from alzmri.data.collection import Rejected, printable
    from alzmri.data.images import Unreadable
    from alzmri.inference import inputs

    if not source.is_dir():
        raise UserError(f"{source} is no folder: give one with a folder of volumes for each class")
    volumes = [item for item in inputs.find([str(source)]) if item.kind != "image"]
    if not volumes:
        raise UserError(
            f"{source} has no volume (NIfTI, DICOM, .mgz); `alzmri data import` takes images"
        )
    members, rejected = [], []
    for number, volume in enumerate(volumes, start=1):
        path = _folder(volume, source)
        try:
            for depth, picture in _slices(volume, count):
                members.append(Member(f"{path}/{Path(path).name}_{depth}mm.png", picture.getvalue))
        except Unreadable as error:
            file = volume.files[0].relative_to(source).as_posix()
            rejected.append(Rejected(printable(file), str(error)))
        terminal.say(f"{number} of {len(volumes)}: {path}")
    yield members, rejected


def _folder(volume: "Source", source: Path) -> str:
    """Where the slices of ``volume`` seem to come from, relative to ``source``: one folder each."""
    first = volume.files[0].relative_to(source)
    if volume.kind == "dicom" and volume.name == str(volume.files[0].parent):
        return first.parent.as_posix()
    while first.suffix.lower() in _ENDS:
        first = first.with_suffix("")
    return first.as_posix()


def _slices(volume: "Source", count: int) -> Iterator[tuple[int, io.BytesIO]]:
    """Millimetres below the top of the brain, and PNG, of each slice that ``predict`` would show.

    Raises:
        Unreadable: with the reason.
    """
    from PIL import Image

    from alzmri.inference import inputs, ventricles

    for chosen in ventricles.choose(inputs.volume(volume), count):
        picture = io.BytesIO()
        Image.fromarray(chosen.pixels).save(picture, "PNG")
        yield chosen.depth, picture
