"""Stage prepare: validate, resize, split and pack data/<source> into data/prepared."""

from pathlib import Path

from alzmri import params, terminal
from alzmri.data import packing
from alzmri.data.prepared import PREPARED
from alzmri.files import replacing_directory


def main() -> None:
    settings = params.load()
    source = Path("data") / settings.data.source
    with replacing_directory(PREPARED) as directory:
        packed = packing.pack(source, directory, settings, Path("plots/subjects.png"))
    known, found = packed.people.known, packed.summary
    note = f"{settings.data.source}, {settings.split.unit} split"
    if settings.data.permute_labels:
        note += ", LABELS PERMUTED between subjects"
    if not known:
        note += ", subjects unknown: this split LEAKS"
    packing.write_table(Path("plots/classes.csv"), packed.counts, packed.classes)
    packing.draw_classes(Path("plots/classes.png"), packed.counts, packed.classes, note)

    terminal.out.print(
        f"{found['images']} images of {found['subjects'] or 'unknown'} subjects packed,"
        f" {found['rejected']} files rejected (data/prepared/rejected.csv)"
    )
    if copies := found.get("copies_not_scored"):
        terminal.out.print(
            f"validation and test score one image of each slice: {copies} copies are left out"
        )
    if not known:
        terminal.warn(
            "subjects unknown, this split LEAKS: its scores say nothing about new subjects"
        )
    if packed.people.doubt:
        terminal.warn(packed.people.doubt)
    if packed.across:
        terminal.warn(
            f"{packed.across} images have a near-duplicate in another part of this subject split:"
            " the same subjects have several names, so its scores LEAK. Correct subjects.csv, or"
            f" set split.subjects to pixels; `alzmri data audit {settings.data.source}` shows pairs"
        )
    for problem in packing.problems(packed):
        terminal.warn(problem)


if __name__ == "__main__":
    terminal.start(main)
