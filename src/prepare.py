"""Stage prepare: validate, resize, split and pack data/<source> into data/prepared."""

from pathlib import Path

from alzmri import params, terminal
from alzmri.data import packing
from alzmri.data.prepared import PREPARED
from alzmri.files import replacing_directory


def main() -> None:
    settings = params.load()
    name = settings.data.source
    with replacing_directory(PREPARED) as directory:
        figure = Path("plots/subjects.png")
        found, people = packing.pack(Path("data", name), directory, settings, figure)

    note = f"{name}, {settings.split.unit} split"
    if settings.data.permute_labels:
        note += ", LABELS PERMUTED between subjects"
    if not people.known:
        note += ", subjects unknown: this split LEAKS"
    packing.show_classes(Path("plots"), found, note)

    terminal.out.print(
        f"{found['images']} images of {found['subjects'] or 'unknown'} subjects packed,"
        f" {found['rejected']} files rejected (data/prepared/rejected.csv)"
    )
    if copies := found.get("copies_not_scored"):
        terminal.out.print(
            f"validation and test score one image of each slice: {copies} copies are left out"
        )
    warnings = []
    if not people.known:
        warnings += [
            "subjects unknown, this split LEAKS: its scores say nothing about new subjects"
        ]
    if people.doubt:
        warnings += [people.doubt]
    if across := found["leak"]["near_duplicates_across_subject_split"]:
        warnings += [
            f"{across} images have a near-duplicate in another part of this subject split: the same"
            " subjects have several names, so its scores LEAK. Correct subjects.csv, or set"
            f" split.subjects to pixels; `alzmri data audit {name}` shows pairs"
        ]
    for warning in (*warnings, *packing.problems(found, settings.split.unit)):
        terminal.warn(warning)


if __name__ == "__main__":
    terminal.start(main)
