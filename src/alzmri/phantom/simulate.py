"""The collection on disk: class folders of JPEG slices, and the table of their subjects."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from PIL import Image

from alzmri.classes import FOLDERS
from alzmri.files import replacing_directory, write_csv
from alzmri.parallel import in_order
from alzmri.phantom.anatomy import draw_subject
from alzmri.phantom.exact import ExactRandom
from alzmri.phantom.mni import Maps, prepare_maps
from alzmri.phantom.render import render_slice

_PREFIXES = ("ND", "VMD", "MD", "MOD")
"""Prefixes of subject IDs, one per class in severity order."""
_MIDDLE = 14.0
"""Height of a subject's middle slice above the anterior commissure, mm."""
_MOST_SPACING, _RANGE = 1.0, 30.0
"""Maximum distance of adjacent slices, and of the lowest from the highest, mm: from the level of
the commissures to the roof of the lateral ventricles, as in the public collection."""
_JPEG_QUALITY = 95
_ANATOMY_STREAM, _NOISE_STREAM = 0, 1
"""Streams of random numbers per subject, so that more slices do not change the anatomy."""


def generate(
    directory: Path,
    *,
    subjects: int,
    slices: int,
    seed: int,
    difficulty: float,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a simulated collection to ``directory``, the same bytes for a seed everywhere.

    ``subjects`` are per class, ``slices`` per subject. Images are
    ``<class folder>/<subject>_<slice>.jpg``, 8-bit grayscale, 176 wide and 208 high, front of the
    head down; subjects are ``ND-001``, ``VMD-001``, ``MD-001``, ``MOD-001`` and so on, slices
    ``01`` (lowest) upward. ``subjects.csv`` (``path,subject``) lists all images, sorted by path.
    ``difficulty`` is as in :func:`draw_subject`. ``directory`` appears, or is replaced, only when
    everything is written. ``threads`` (default: one per processor) share the subjects; the result
    does not depend on their number. ``progress(done, total)`` counts slices.

    Raises:
        EnvironmentFault: the MNI152 template is missing, damaged or different.
    """
    with replacing_directory(directory) as target:
        for folder in FOLDERS:
            (target / folder).mkdir()
        tasks = [
            (stage, number) for number in range(1, subjects + 1) for stage in range(len(FOLDERS))
        ]
        draw = partial(_draw, prepare_maps(), target, seed, difficulty, slice_heights(slices))
        rows: list[tuple[str, str]] = []
        for count, drawn in enumerate(in_order(draw, tasks, threads), start=1):
            rows += drawn
            if progress:
                progress(count * slices, len(tasks) * slices)
        write_csv(target / "subjects.csv", ("path", "subject"), sorted(rows))


def slice_heights(slices: int) -> list[float]:
    """Heights of a subject's slices above the anterior commissure, mm, lowest first."""
    spacing = min(_MOST_SPACING, _RANGE / max(1, slices - 1))
    return [_MIDDLE + spacing * (index - (slices - 1) / 2) for index in range(slices)]


def _draw(
    maps: Maps,
    directory: Path,
    seed: int,
    difficulty: float,
    heights: list[float],
    task: tuple[int, int],
) -> list[tuple[str, str]]:
    """Write all slices of one subject, by stage and number; return the path and subject of each."""
    stage, number = task
    name = f"{_PREFIXES[stage]}-{number:03d}"
    subject = draw_subject(stage, difficulty, ExactRandom(seed, stage, number, _ANATOMY_STREAM))
    rows = []
    for index, height in enumerate(heights):
        noise = ExactRandom(seed, stage, number, _NOISE_STREAM, index)
        path = f"{FOLDERS[stage]}/{name}_{index + 1:02d}.jpg"
        picture = Image.fromarray(render_slice(maps, subject, height, noise))
        picture.save(directory / path, quality=_JPEG_QUALITY)
        rows.append((path, name))
    return rows
