"""Explanations on disk: an overlay and a raw map per slice and per subject, and their index."""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from alzmri import terminal
from alzmri.data.images import Pixels
from alzmri.files import write_bytes, write_csv
from alzmri.inference import NOTICE
from alzmri.inference.explain import Maps, grad_cam, overlay
from alzmri.inference.report import Report

INDEX = "index.csv"


@dataclass(frozen=True)
class _Entry:
    """One picture: of a slice, or the mean of a subject's slices."""

    of: str
    name: str
    target: int
    probability: float
    in_distribution: bool
    pixels: Pixels
    evidence: Maps


def write(directory: Path, report: Report, target: int | None) -> int:
    """Write ``NUMBER-NAME.png`` and ``.npy``, and ``index.csv``; return how many pictures.

    ``target`` is the class to show evidence for; None takes the most probable one of each slice,
    and for a person that of their mean, over their slices in distribution.
    """
    entries = list(_entries(report, target))
    rows = []
    with terminal.progress("writing") as progress:
        for number, entry in enumerate(entries, start=1):
            stem = f"{number:04d}-{re.sub(r'[^A-Za-z0-9._-]+', '_', Path(entry.name).name)}"
            map_file = io.BytesIO()
            np.save(map_file, entry.evidence)
            write_bytes(directory / f"{stem}.npy", map_file.getvalue())
            write_bytes(directory / f"{stem}.png", _png(overlay(entry.pixels, entry.evidence)))
            name = report.predictor.classes[entry.target]
            distribution = "in distribution" if entry.in_distribution else "out of distribution"
            chance = f"{entry.probability:.6f}"
            rows.append(
                (f"{stem}.png", f"{stem}.npy", entry.of, entry.name, name, chance, distribution)
            )
            progress(number, len(entries))
    header = ("overlay", "map", "of", "path", "class", "probability", "distribution", "notice")
    write_csv(directory / INDEX, header, ((*row, NOTICE) for row in rows))
    return len(entries)


def _entries(report: Report, target: int | None) -> Iterator[_Entry]:
    pixels = np.stack([item.pixels for item in report.slices])
    chances, in_distribution = report.prediction.probabilities, report.prediction.in_distribution
    targets = chances.argmax(axis=1) if target is None else np.full(len(pixels), target)
    maps = grad_cam(report.predictor, pixels, targets)
    for number, item in enumerate(report.slices):
        name = item.source if item.depth is None else f"{item.source}-{item.depth}mm"
        wanted = int(targets[number])
        chance = float(chances[number, wanted])
        inside = bool(in_distribution[number])
        yield _Entry("slice", name, wanted, chance, inside, pixels[number], maps[number])
    for person in report.subjects:
        if person.probabilities is None:
            continue
        members = list(person.members)
        wanted = int(person.probabilities.argmax()) if target is None else target
        chance = float(person.probabilities[wanted])
        evidence = grad_cam(report.predictor, pixels[members], np.full(len(members), wanted))
        mean = np.rint(pixels[members].mean(axis=0)).astype(np.uint8)
        yield _Entry("person", person.name, wanted, chance, True, mean, evidence.mean(axis=0))


def _png(picture: Pixels) -> bytes:
    """``picture`` (RGB) as a PNG that says what it is."""
    about = PngInfo()
    about.add_text("Description", NOTICE)
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", pnginfo=about)
    return file.getvalue()
