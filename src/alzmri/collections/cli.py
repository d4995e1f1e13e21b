"""``alzmri data``: bring a collection in, and say what is in it."""

import json
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from alzmri import repository, terminal
from alzmri.errors import UserError

# What these import takes a second; `alzmri --help` must not.
if TYPE_CHECKING:
    from alzmri.collections.audit import Audit, Leak
    from alzmri.collections.importing import Report
    from alzmri.data.collection import Rejected

data_app = typer.Typer(no_args_is_help=True, help="Bring in collections of MRI slices; check them.")

SUBJECTS_FILE = "subjects.csv"

Name = Annotated[str, typer.Option(help="What to call it: becomes data/NAME.")]
Classes = Annotated[
    str | None,
    typer.Option(
        help="Its classes from healthy to severe, as NAME,NAME,...; LABEL=NAME where the source"
        " calls a class otherwise. The numbers 0, 1, ... mean the names in their order.",
        show_default="the stages of dementia",
    ),
]
Subject = Annotated[
    str | None,
    typer.Option(
        metavar="REGEX",
        help="What in the path of an image in the source is its subject: the group, or the match.",
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace data/NAME if it exists.")]
MaxRejected = Annotated[
    float, typer.Option(min=0, max=1, help="Refuse if more than this fraction is unusable.")
]

_MIN_SUBJECTS = 3
"""Per class, for training, validation and test to have one each."""


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

    Knows the class folders of every release, merges train and test folders, keeps the images'
    bytes and leaves the source as it is. Labels are read from folders, from a CSV table, from
    parquet files or from .npy beside .npy; subjects from OASIS, ADNI and BIDS names, or a folder
    for each subject.

    Examples:

        alzmri data import ~/Downloads/archive.zip --name kaggle

        alzmri data import adni/ --name adni --classes CN,MCI,AD

        alzmri data import slices/ --name mine --subject 'patient(\\d+)'
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
    )
    announce(report, name)


def announce(report: "Report", name: str) -> None:
    """Say what an import brought into data/NAME, and how to go on."""
    _show(report)
    if report.known_by and report.people:
        _say(
            f"{len(set(report.people))} subjects known by {report.known_by}: see"
            f" data/{name}/{SUBJECTS_FILE}"
        )
    if report.unused:
        terminal.warn(report.unused)
    if report.near_duplicates:
        shown = ", ".join(" and ".join(pair) for pair in report.near_duplicates[:3])
        terminal.warn(
            f"{len(report.near_duplicates)} pairs of subjects have near-duplicate images: {shown}"
            f"{', ...' * (len(report.near_duplicates) > 3)}. Are they the same subject under two"
            " names? Then the split would leak"
        )
    if report.doubt:
        terminal.warn(report.doubt)
    if report.unclear:
        terminal.warn(f"prepare would refuse this: {report.unclear}")
    for reason, paths in _by_reason(report.collection.rejected).items():
        shown = ", ".join(paths[:3]) + (", ..." if len(paths) > 3 else "")
        _say(f"left behind: {len(paths)} x {reason}: {shown}")
    _say(
        f"data/{name} is in DVC and staged in git: commit it, then `dvc exp run -S "
        f"data.source={name}`"
    )


@data_app.command()
def check(
    name: Annotated[str, typer.Argument(help="The collection data/NAME.")],
) -> None:
    """Say what data/NAME holds and what is wrong with it. Exit status 2 if prepare would refuse.

    Example:

        alzmri data check kaggle
    """
    from alzmri import params
    from alzmri.classes import merged
    from alzmri.collections.importing import check_name, survey
    from alzmri.data import splits
    from alzmri.data.collection import require

    check_name(name, ("prepared",))
    given = params.load()
    report = survey(Path("data", name), subjects_from=given.split.subjects)
    _show(report)
    for item in report.collection.rejected:
        _say(f"rejected: {item.path}: {item.reason}")
    require(report.collection, given.data.max_rejected, remedy="prepare would refuse it")
    entries = report.collection.entries
    called = merged(given.data.merge, report.collection.classes)
    if report.unclear:
        raise UserError(f"prepare would refuse it: {report.unclear}")
    groups = [entry.sha256 for entry in entries]
    if given.split.unit == "subject" and report.people:
        groups = list(report.people)
    splits.assign([called[item.label] for item in entries], groups, given.split)


@data_app.command()
def audit(
    name: Annotated[str, typer.Argument(help="The collection data/NAME.")],
    figure: Annotated[
        Path | None,
        typer.Option(
            help="Where the worst pairs are drawn.",
            show_default="plots/audit-NAME.png",
            callback=repository.located,
        ),
    ] = None,
    pairs: Annotated[int, typer.Option(min=1, max=60, help="How many a layout are drawn.")] = 3,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the numbers as JSON, and nothing else.")
    ] = False,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Exit status 1 if the current split shares subjects, or is a subject split with"
            " near-duplicates in training and test.",
        ),
    ] = False,
) -> None:
    """Measure what train/test layouts of data/NAME leak: shared subjects, near-duplicate slices.

    Compared are the layout that the collection was published with, as its import noted it, and
    the subject and the slice split by params.yaml. 1-NN gives each test slice the class of the
    most similar training slice: what that scores above its score on the subject split is
    recognition of subjects. It is a report: leaks are no error without --strict.

    Examples:

        alzmri data audit kaggle

        alzmri data audit kaggle --json | jq '.layouts[] | {layout, shared_subjects}'

        alzmri data audit kaggle --strict --figure leak.png --pairs 6
    """
    from alzmri import params
    from alzmri.collections import audit as auditing
    from alzmri.collections.audit_figure import draw
    from alzmri.collections.importing import check_name

    check_name(name, ("prepared",))
    given = params.load()
    found = auditing.audit(Path("data", name), given, pairs=pairs)
    for unit, refusal in found.refused.items():
        terminal.warn(f"no {unit} split: {refusal}")
    if not found.leaks or (strict and given.split.unit in found.refused):
        raise found.refused[given.split.unit]
    figure = figure or Path("plots", f"audit-{name}.png")
    draw(figure, Path("data", name), found.leaks, f"{name}: the most similar pairs of each layout")
    if as_json:
        print(json.dumps(_as_json(name, found, figure), indent=2, allow_nan=False))
    else:
        _show_audit(name, found)
        _say(f"{figure} shows the most similar pairs")
    if strict and any(leak.at_fault for leak in found.leaks):
        raise typer.Exit(1)


def _as_json(name: str, found: "Audit", figure: Path) -> dict[str, Any]:
    return {
        "collection": name,
        "images": len(found.slices.labels),
        "people": len(set(found.slices.people.names)) if found.subjects_from else None,
        "people_are_an_upper_bound": bool(found.slices.people.doubt),
        "subjects_from": found.subjects_from,
        "layouts": [asdict(leak) for leak in found.leaks],
        "refused": {unit: str(refusal) for unit, refusal in found.refused.items()},
        "figure": str(figure),
    }


def _show_audit(name: str, found: "Audit") -> None:
    """Print a column per layout, then what it means in sentences."""
    from alzmri.collections.audit import called, end_of_stack, headline
    from alzmri.data.subjects import NEAR_DUPLICATE

    who = "subjects unknown"
    if found.subjects_from:
        most = "at most " * bool(found.slices.people.doubt)
        source = "the pixels" if found.subjects_from == "pixels" else found.subjects_from
        who = f"{most}{len(set(found.slices.people.names))} subjects, known from {source}"
    _say(f"{name}: {len(found.slices.labels)} images of {who}")
    if found.slices.people.doubt:
        _say(found.slices.people.doubt)
    table = Table("test slices")
    for leak in found.leaks:
        table.add_column(called(leak) + (" *" if leak.current else ""), justify="right")
    columns = [_column(leak) for leak in found.leaks]
    for label in dict.fromkeys(label for column in columns for label in column):
        table.add_row(label, *(column.get(label, "") for column in columns))
    terminal.out.print(table)
    _say(
        "* the current split (params.yaml). Near-duplicates are similar by"
        f" {NEAR_DUPLICATE} or more. 1-NN: the class of the most similar training slice"
    )
    for leak in found.leaks:
        _say(
            f"{headline(leak)}. The most similar training slice has the right class for"
            f" {leak.accuracy:.1%} (always {leak.majority}: {leak.majority_accuracy:.1%})"
        )
        if leak.turned_copies is not None:
            _say(
                f"{called(leak)}: {leak.turned_copies} of the {leak.test.images} test images are"
                " turned copies of training images, or of the same slice"
            )
    for sentence in filter(None, map(end_of_stack, found.leaks)):
        _say(sentence)
    if all(leak.layout != "published" for leak in found.leaks):
        _say(
            "no published split is known: no origin.csv, which an import writes, has images from"
            " folders such as train and test"
        )


def _column(leak: "Leak") -> dict[str, str]:
    """What the table says of a layout, by row."""
    low, median, high = leak.similarity
    people, slices = leak.test.people, leak.test.images
    rows = {
        "images (subjects): train": f"{leak.train.images} ({_count(leak.train.people)})",
        "  validation": f"{leak.val.images} ({_count(leak.val.people)})",
        "  test": f"{slices} ({_count(people)})",
        "subjects also in training": f"{_count(leak.shared_subjects)} of {_count(people)}",
        "with a near-duplicate": f"{leak.test_near_duplicates} of {slices}",
        "near-duplicate pairs": f"{leak.near_duplicate_pairs}",
        "nearest: same subject": "?" if leak.same_subject is None else f"{leak.same_subject:.1%}",
        "  similarity, median": f"{median:.3f}",
        "  from 5 % to 95 %": f"{low:.3f}–{high:.3f}",
        "1-NN accuracy": f"{leak.accuracy:.3f}",
        "  most frequent class": f"{leak.majority_accuracy:.3f}",
        "1-NN macro F1": f"{leak.macro_f1:.3f}",
    }
    recall = {name.removesuffix(" Demented"): value for name, value in leak.recall.items()}
    return rows | {f"  recall {name}": f"{value:.3f}" for name, value in recall.items()}


def _show(report: "Report") -> None:
    """Print the images and subjects of each class, and what deserves a warning."""
    from alzmri.data.collection import MAKE_SLICES

    table = Table("class")
    table.add_column("images", justify="right")
    table.add_column("subjects", justify="right")
    for label in report.collection.classes:
        table.add_row(label, str(report.images_of(label)), _count(report.subjects_of(label)))
    table.add_section()
    entries = report.collection.entries
    everyone = None if report.people is None else len(set(report.people))
    table.add_row("all", str(len(entries)), _count(everyone))
    terminal.out.print(table)
    conversions: defaultdict[str, int] = defaultdict(int)
    for entry in entries:
        if entry.converted:
            conversions[entry.converted] += 1
    for conversion, count in sorted(conversions.items()):
        _say(f"converted to 8-bit grayscale when read: {count} x {conversion}")
    if report.collection.volumes:
        terminal.warn(
            f"{report.collection.volumes} volumes (DICOM, NIfTI, FreeSurfer) are not read:"
            f" {MAKE_SLICES}"
        )
    if report.subjects_of_several_classes:
        terminal.warn(
            f"{report.subjects_of_several_classes} subjects have images in several classes: each"
            " has one stage; check the class folders and subjects.csv"
        )
    for label in report.collection.classes:
        people = report.subjects_of(label)
        if people and people < _MIN_SUBJECTS:
            terminal.warn(
                f"{label} has {people} subjects: no subject split can have the class in training, "
                "validation and test at once"
            )


def _count(people: int | None) -> str:
    return "?" if people is None else str(people)


def _by_reason(rejected: "Sequence[Rejected]") -> dict[str, list[str]]:
    """Paths by reason, the most frequent first, without what differs from file to file."""
    paths: defaultdict[str, list[str]] = defaultdict(list)
    for item in rejected:
        paths[re.split(r": | of ", item.reason)[0]].append(item.path)
    return dict(sorted(paths.items(), key=lambda group: -len(group[1])))


def _say(line: str) -> None:
    terminal.out.print(escape(line), soft_wrap=True)
