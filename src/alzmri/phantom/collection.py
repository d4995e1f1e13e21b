"""The collection on disk: class folders of JPEG slices, and the table of their subjects."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from alzmri.classes import FOLDERS
from alzmri.files import replacing_directory, write_csv
from alzmri.parallel import in_order
from alzmri.phantom.anatomy import draw_subject
from alzmri.phantom.mni import Maps, prepare_maps
from alzmri.phantom.render import render_slice
from alzmri.phantom.rng import ExactRandom

_PREFIXES = ("ND", "VMD", "MD", "MOD")
"""Of subject ids, one per class in severity order."""

_MIDDLE = 14.0
"""Height of a subject's middle slice above the anterior commissure, mm."""
_MOST_SPACING = 1.0
"""Distance of adjacent slices, mm, as long as all fit into the range below."""
_RANGE = 30.0
"""From the lowest to the highest slice at most, mm: from the level of the commissures to the roof
of the lateral ventricles, like the public collection."""

_JPEG_QUALITY = 95

_ANATOMY_STREAM, _NOISE_STREAM = 0, 1
"""Streams of random numbers per subject: more slices leave the anatomy as it is."""


class _Task(NamedTuple):
    """One subject to draw."""

    directory: Path
    stage: int
    number: int
    slices: int
    seed: int
    difficulty: float

    @property
    def subject(self) -> str:
        return f"{_PREFIXES[self.stage]}-{self.number:03d}"

    def path(self, index: int) -> str:
        """Of the slice ``index`` (from 0, lowest first) within the collection."""
        return f"{FOLDERS[self.stage]}/{self.subject}_{index + 1:02d}.jpg"


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

    ``subjects`` is the number of subjects per class, ``slices`` that of slices per subject. Images
    are ``<class folder>/<subject>_<slice>.jpg``, 8-bit grayscale, 176 wide and 208 high, front of
    the head down; subjects are ``ND-001``, ``VMD-001``, ``MD-001``, ``MOD-001`` and so on, slices
    ``01`` (lowest) upward, at most 1 mm apart. ``subjects.csv`` (``path,subject``) lists them all,
    sorted by path. ``difficulty`` is the standard deviation of the subjects' latent stage around
    their class, in classes; the larger, the more the classes overlap.

    ``directory`` appears, or is replaced, only once everything is written. ``threads`` (default:
    one per processor) share the subjects; the result does not depend on their number.
    ``progress(done, total)`` counts slices.

    Raises:
        EnvironmentFault: the MNI152 template is missing, damaged or another.
    """
    with replacing_directory(directory) as target:
        for folder in FOLDERS:
            (target / folder).mkdir()
        tasks = [
            _Task(target, stage, number, slices, seed, difficulty)
            for number in range(1, subjects + 1)
            for stage in range(len(FOLDERS))
        ]
        drawn = in_order(partial(_draw, prepare_maps()), tasks, threads)
        for count, _ in enumerate(drawn, start=1):
            if progress:
                progress(count * slices, len(tasks) * slices)
        _write_table(target / "subjects.csv", tasks)


def _write_table(path: Path, tasks: list[_Task]) -> None:
    rows = [(task.path(index), task.subject) for task in tasks for index in range(task.slices)]
    write_csv(path, ("path", "subject"), sorted(rows))


def slice_heights(slices: int) -> list[float]:
    """Heights of a subject's slices above the anterior commissure, mm, lowest first."""
    spacing = min(_MOST_SPACING, _RANGE / max(1, slices - 1))
    return [_MIDDLE + spacing * (index - (slices - 1) / 2) for index in range(slices)]


def _draw(maps: Maps, task: _Task) -> None:
    """Write all slices of one subject."""
    key = (task.seed, task.stage, task.number)
    random = ExactRandom(*key, _ANATOMY_STREAM)
    subject = draw_subject(task.stage, task.difficulty, random)
    for index, height in enumerate(slice_heights(task.slices)):
        noise = ExactRandom(*key, _NOISE_STREAM, index)
        picture = render_slice(maps, subject, height, noise)
        Image.fromarray(picture).save(task.directory / task.path(index), quality=_JPEG_QUALITY)
