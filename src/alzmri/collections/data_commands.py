"""The commands ``alzmri data``: import, check and audit a collection."""

import json
import re
from collections import Counter, defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Column, Table

from alzmri import repository, terminal
from alzmri.errors import UserError

# Commands import slow modules when they run, so that `alzmri --help` is quick.
if TYPE_CHECKING:
    from alzmri.collections.audit import Audit
    from alzmri.data.class_folders import Collection
    from alzmri.data.subjects import SubjectNames

data_app = typer.Typer(no_args_is_help=True, help="Import, check and audit collections of slices.")

Name = Annotated[str, typer.Option(help="Name of the collection: data/NAME.")]
Classes = Annotated[
    str | None,
    typer.Option(
        help="Classes from healthy to severe: NAME,NAME,..., or LABEL=NAME if the source uses"
        " another label. Labels 0, 1, ... take the names in order.",
        show_default="the stages of dementia",
    ),
]
Subject = Annotated[
    str | None,
    typer.Option(
        metavar="REGEX",
        help="Regular expression for the subject in an image's path: its group, or whole match.",
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace data/NAME if it exists.")]
MaxRejected = Annotated[
    float, typer.Option(min=0, max=1, help="Refuse if more than this fraction is unusable.")
]
Existing = Annotated[str, typer.Argument(help="The collection data/NAME.")]


@data_app.command("import")
def import_(
    source: Annotated[
        Path,
        typer.Argument(
            help="A folder, a .zip or a .parquet file, as published.", callback=repository.located
        ),
    ],
    name: Name,
    classes: Classes = None,
    subject: Subject = None,
    force: Force = False,
    max_rejected: MaxRejected = 0.1,
) -> None:
    """Copy a collection into data/NAME and track it with DVC.

    It knows the class folders of every release, merges train and test folders, keeps the images'
    bytes and does not change the source. It reads labels from folders, a CSV table, parquet files
    or .npy files beside .npy files, and subjects from OASIS, ADNI and BIDS names or a folder for
    each subject.

    Examples:

        alzmri data import ~/Downloads/archive.zip --name kaggle

        alzmri data import adni/ --name adni --classes CN,MCI,AD

        alzmri data import slices/ --name mine --subject 'patient(\\d+)'
    """
    _bring(source, name, classes, subject, force, max_rejected)


@data_app.command()
def slices(
    source: Annotated[
        Path,
        typer.Argument(
            help="A folder with a folder of volumes for each class: NIfTI, DICOM series, .mgz.",
            callback=repository.located,
        ),
    ],
    name: Name,
    count: Annotated[int, typer.Option("--slices", min=1, max=40, help="Slices per volume.")] = 6,
    classes: Classes = None,
    subject: Subject = None,
    force: Force = False,
    max_rejected: MaxRejected = 0.1,
) -> None:
    """Make a collection of axial slices around the ventricles of volumes.

    The volumes must be T1-weighted, with the skull stripped. The slices are the same as in
    `alzmri predict`, a millimetre apart. Each volume is a subject, unless OASIS, ADNI or BIDS
    names or --subject give others.

    Example:

        alzmri data slices adni/ --name adni --classes CN,MCI,AD
    """
    _bring(source, name, classes, subject, force, max_rejected, count)


def _bring(source: Path, name: str, *options: Any) -> None:
    """Import a source, report the result and the next step: see ``import_collection``."""
    from alzmri.collections.importing import import_collection

    found, identified = import_collection(source, name, *options)
    _show(found, identified)
    left: defaultdict[str, list[str]] = defaultdict(list)
    for item in found.rejected:
        # Without details that differ from file to file.
        left[re.split(r": | of ", item.reason)[0]].append(item.path)
    for reason, paths in sorted(left.items(), key=lambda group: -len(group[1])):
        shown = ", ".join(paths[:3]) + ", ..." * (len(paths) > 3)
        terminal.say(f"not imported: {len(paths)} x {reason}: {shown}")
    terminal.say(
        f"data/{name} is in DVC and staged in git: commit it, then"
        f" `dvc exp run -S data.source={name}`"
    )


@data_app.command()
def check(name: Existing) -> None:
    """Show the content and the faults of data/NAME. Exit status 2 if prepare would refuse it.

    Example:

        alzmri data check kaggle
    """
    from alzmri import params
    from alzmri.classes import merged
    from alzmri.data import class_folders, splits, subjects

    given = params.load()
    found = class_folders.read(Path("data", name))
    for item in found.rejected:
        terminal.say(f"rejected: {item.path}: {item.reason}")
    identified = subjects.find(found, given.split.subjects)
    _show(found, identified)
    if identified.doubt and not identified.known:
        raise UserError(f"prepare would refuse it: {identified.doubt}")
    class_folders.require(found, given.data.max_rejected, remedy="prepare would refuse it")
    called = merged(given.data.merge, found.classes)
    labels = [called[item.label] for item in found.entries]
    splits.parts(found.entries, labels, identified.names, given.split)


@data_app.command()
def audit(
    name: Existing,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print only the numbers, as JSON.")
    ] = False,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Exit status 1 if the current split shares subjects, does not know them, or"
            " splits by subject and has near-duplicates in training and test.",
        ),
    ] = False,
) -> None:
    """Measure what train/test layouts of data/NAME leak: shared subjects, near-duplicate slices.

    It compares the published layout, if the import recorded it, with the subject split and the
    slice split of params.yaml, and draws the most similar pairs in plots/audit-NAME.png. 1-NN takes
    the class of the most similar training slice: it scores higher than on the subject split where
    it recognises subjects. Leaks are an error only with --strict.

    Example:

        alzmri data audit kaggle --json | jq '.layouts[] | {layout, shared_subjects}'
    """
    from alzmri import params
    from alzmri.collections import audit as auditing

    given, directory = params.load(), Path("data", name)
    figure = Path(f"plots/audit-{directory.name}.png")
    found = auditing.audit(directory, given)
    for unit, refusal in found.refused.items():
        terminal.warn(f"the {unit} split is not possible: {refusal}")
    if not found.layouts or (strict and given.split.unit in found.refused):
        raise UserError(found.refused[given.split.unit])
    auditing.draw(figure, directory, found.layouts, name)
    if as_json:
        content = {"collection": name, **asdict(found), "figure": str(figure)}
        print(json.dumps(content, indent=2, allow_nan=False))
    else:
        _show_audit(name, found)
        terminal.say(f"{figure} shows the most similar pairs")
    if strict and any(leak.at_fault for leak in found.layouts):
        raise typer.Exit(1)


def _show_audit(name: str, found: "Audit") -> None:
    """Print a column per layout, then the meaning in sentences."""
    from alzmri.data.subjects import NEAR_DUPLICATE

    who = "subjects unknown"
    if found.people is not None:
        source = "the pixels" if found.subjects_from == "pixels" else found.subjects_from
        who = f"{'at most ' * bool(found.doubt)}{found.people} subjects, known from {source}"
    terminal.say(f"{name}: {found.images} images of {who}")
    if found.doubt:
        terminal.say(found.doubt)
    rows: defaultdict[str, list[str]] = defaultdict(list)
    for leak in found.layouts:
        for label, part in (("train", leak.train), ("val", leak.val), ("test", leak.test)):
            rows[f"{label} images (subjects)"].append(f"{part.images} ({_known(part.people)})")
        shared = f"{_known(leak.shared_subjects)} of {_known(leak.test.people)}"
        rows["subjects also in training"].append(shared)
        near = f"{leak.test_near_duplicates} of {leak.test.images}"
        rows["with a near-duplicate"].append(near)
        rows["nearest: same subject"].append(_known(leak.same_subject, ".1%"))
        rows["1-NN accuracy"].append(f"{leak.accuracy:.3f}")
        rows["  most frequent class"].append(f"{leak.majority_accuracy:.3f}")
        rows["1-NN macro F1"].append(f"{leak.macro_f1:.3f}")
    names = [leak.called + " *" * leak.current for leak in found.layouts]
    table = Table("test slices", *(Column(name, justify="right") for name in names))
    for label, cells in rows.items():
        table.add_row(label, *cells)
    terminal.out.print(table)
    terminal.say(
        "* the current split (params.yaml). Near-duplicates have a similarity of"
        f" {NEAR_DUPLICATE} or more. 1-NN takes the class of the most similar training slice"
    )
    for leak in found.layouts:
        terminal.say(leak.headline)
        if leak.turned_copies is not None:
            terminal.say(
                f"{leak.called}: {leak.turned_copies} of the {leak.test.images} test images are"
                " turned copies of slices that are in training too"
            )
    if found.layouts[0].layout != "published":
        terminal.say(
            "the published split is unknown: no origin.csv has folders such as train and test"
        )


def _show(found: "Collection", identified: "SubjectNames") -> None:
    """Print the images and subjects of each class, and warnings."""
    labels = [entry.label for entry in found.entries]
    pictured, pairs = Counter(labels), set(zip(identified.names, labels, strict=True))
    of_class, classes_of = (Counter(pair[at] for pair in pairs) for at in (1, 0))
    counts = [(label, pictured[label], of_class[label]) for label in found.classes]
    table = Table("class", *(Column(what, justify="right") for what in ("images", "subjects")))
    for label, images, subjects in (*counts, ("all", len(labels), len(classes_of))):
        table.add_row(label, str(images), str(subjects) if identified.known else "?")
    terminal.out.print(table)
    if converted := sum(entry.converted for entry in found.entries):
        terminal.say(f"converted to upright 8-bit grayscale when read: {converted} images")
    if several := sum(number > 1 for number in classes_of.values()):
        terminal.warn(
            f"{several} subjects have images in several classes: each has one stage; check the"
            " class folders and subjects.csv"
        )


def _known(number: float | None, form: str = "") -> str:
    return "?" if number is None else format(number, form)
