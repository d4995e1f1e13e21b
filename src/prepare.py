"""Stage prepare: validate, resize, split and pack data/<source> into data/prepared."""

from pathlib import Path

from alzmri import params, terminal
from alzmri.data import overview, subjects
from alzmri.data.counts import count
from alzmri.data.packing import pack
from alzmri.data.prepared import PREPARED
from alzmri.errors import UserError
from alzmri.files import replacing_directory


def main() -> None:
    settings = params.load()
    source = Path("data") / settings.data.source
    figure = Path("plots/subjects.png")
    try:
        with replacing_directory(PREPARED) as directory:
            packed = pack(source, directory, settings)
    except subjects.Unclear as error:
        overview.draw_links(figure, error.links, None, settings.data.source)
        raise UserError(f"{source}: {error}. {figure} shows the similarities") from None

    classes = packed.classes
    note = f"{settings.data.source}, {settings.split.unit} split"
    if settings.data.permute_labels:
        note += ", LABELS PERMUTED between subjects"
    names = packed.people.names if packed.people.known else None
    if names is None:
        note += ", subjects unknown: this split LEAKS"
    counts = count(packed.rows, classes)
    overview.write_table(Path("plots/classes.csv"), counts, classes)
    overview.draw(Path("plots/classes.png"), counts, classes, note)
    overview.draw_links(figure, packed.links, packed.people, settings.data.source)

    terminal.out.print(
        f"{len(packed.rows)} images of {len(set(names)) if names else 'unknown'} subjects packed,"
        f" {len(packed.collection.rejected)} files rejected (data/prepared/rejected.csv)"
    )
    if names is None:
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
    for problem in overview.problems(packed.rows, counts, classes):
        terminal.warn(problem)


if __name__ == "__main__":
    terminal.start(main)
