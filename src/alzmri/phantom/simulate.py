"""The collection on disk: class folders of JPEG slices, and the table of their subjects."""

from pathlib import Path

from PIL import Image

from alzmri import terminal
from alzmri.classes import FOLDERS
from alzmri.files import replacing_directory, write_csv
from alzmri.parallel import in_order
from alzmri.phantom.anatomy import SimulatedSubject
from alzmri.phantom.exact import ExactRandom
from alzmri.phantom.mni import prepare_maps
from alzmri.phantom.render import render_slice

_PREFIXES = ("ND", "VMD", "MD", "MOD")
"""Prefixes of subject IDs, one per class in severity order."""
_ANATOMY_STREAM, _NOISE_STREAM = 0, 1
"""Streams of random numbers per subject, so that more slices do not change the anatomy."""


def generate(directory: Path, *, subjects: int, slices: int, seed: int, difficulty: float) -> None:
    """Write a simulated collection to ``directory``, the same bytes for a seed everywhere.

    ``subjects`` are per class, ``slices`` per subject. Images are
    ``<class folder>/<subject>_<slice>.jpg``, 8-bit grayscale, 176 wide and 208 high, front of the
    head down; subjects are ``ND-001``, ``VMD-001``, ``MD-001``, ``MOD-001`` and so on, slices
    ``01`` (lowest) upward. ``subjects.csv`` (``path,subject``) lists all images, sorted by path.
    ``difficulty`` is as in `SimulatedSubject`. ``directory`` appears, or is replaced, only when
    everything is written.

    Raises:
        EnvironmentFault: the MNI152 template is missing, damaged or different.
    """
    # Heights above the anterior commissure, mm: 1 mm apart and, as in the public collection, within
    # 30 mm, from the level of the commissures to the roof of the lateral ventricles.
    spacing = min(1.0, 30.0 / max(1, slices - 1))
    heights = [14.0 + spacing * (index - (slices - 1) / 2) for index in range(slices)]
    tasks = [(stage, number) for number in range(1, subjects + 1) for stage in range(len(FOLDERS))]
    with (
        replacing_directory(directory) as target,
        terminal.progress("simulating subjects") as progress,
    ):
        maps = prepare_maps()
        for folder in FOLDERS:
            (target / folder).mkdir()

        def draw(task: tuple[int, int]) -> list[tuple[str, str]]:
            """Write all slices of one subject; return the path and subject of each."""
            stage, number = task
            name, rows = f"{_PREFIXES[stage]}-{number:03d}", []
            anatomy = ExactRandom(seed, stage, number, _ANATOMY_STREAM)
            subject = SimulatedSubject(stage, difficulty, anatomy)
            for index, height in enumerate(heights):
                noise = ExactRandom(seed, stage, number, _NOISE_STREAM, index)
                path = f"{FOLDERS[stage]}/{name}_{index + 1:02d}.jpg"
                picture = Image.fromarray(render_slice(maps, subject, height, noise))
                picture.save(target / path, quality=95)
                rows.append((path, name))
            return rows

        rows: list[tuple[str, str]] = []
        for count, drawn in enumerate(in_order(draw, tasks), start=1):
            rows += drawn
            progress(count, len(tasks))
        write_csv(target / "subjects.csv", ("path", "subject"), sorted(rows))
