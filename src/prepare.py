"""Stage prepare: validate, resize, split and pack data/<source> into data/prepared."""

from pathlib import Path

from alzmri import params, terminal
from alzmri.data import packing
from alzmri.data.prepared import PREPARED
from alzmri.files import replacing_directory


def main() -> None:
    settings = params.load()
    name, unit = settings.data.source, settings.split.unit
    with replacing_directory(PREPARED) as directory:
        figure = Path("plots/subjects.png")
        found, identified = packing.pack(Path("data", name), directory, settings, figure)

    leaks = "" if identified.known else "subjects unknown, this split LEAKS"
    permuted = "LABELS PERMUTED between subjects" * settings.data.permute_labels
    note = ", ".join(filter(None, (name, f"{unit} split", permuted, leaks)))
    packing.show_classes(Path("plots"), found, note)

    terminal.out.print(
        f"{found['images']} images of {found['subjects'] or 'unknown'} subjects packed,"
        f" {found['rejected']} files rejected (data/prepared/rejected.csv)"
    )
    if copies := found.get("copies_not_scored"):
        terminal.out.print(
            f"validation and test score one image of each slice: {copies} copies are left out"
        )
    if leaks:
        terminal.warn(f"{leaks}: its scores say nothing about new subjects")
    if identified.doubt:
        terminal.warn(identified.doubt)
    if across := found["leak"]["near_duplicates_across_subject_split"]:
        terminal.warn(
            f"{across} images have a near-duplicate in another part of this subject split: the same"
            " subjects have several names, so its scores LEAK. Correct subjects.csv, or set"
            f" split.subjects to pixels; `alzmri data audit {name}` shows pairs"
        )
    for warning in packing.problems(found, unit):
        terminal.warn(warning)


if __name__ == "__main__":
    terminal.start(main)
