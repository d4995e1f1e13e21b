"""The data that is trained on: phantom slices, packed as by ``prepare`` and as files for others."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from training import params

from alzmri.data.packing import pack
from alzmri.data.prepared import PREPARED, Prepared, write_manifest
from alzmri.params import PARAMS_FILE
from alzmri.phantom import generate

SUBJECTS, SLICES = 20, 8
"""Per class, per subject: 640 slices, repeated up to the number that is asked for."""
VALIDATION = 32


def draw(folder: Path) -> None:
    """Simulate the collection, the same bytes everywhere."""
    generate(folder, subjects=SUBJECTS, slices=SLICES, seed=20, difficulty=0.12)


def prepare(source: Path, folder: Path, image_size: int, batch_size: int, images: int) -> None:
    """Make ``folder`` a place to train in: ``data/prepared`` with ``images`` training slices.

    The split of ``pack`` is replaced, so that an epoch is a whole number of batches.
    """
    settings = params(image_size, batch_size, "fp32")
    directory = folder / PREPARED
    directory.mkdir(parents=True)
    pack(source, directory, settings, lambda *_: None)
    packed = Prepared.open(settings, directory)
    order = np.random.default_rng(0).permutation(len(packed.rows))
    chosen = np.resize(order, images + VALIDATION)
    rows = [
        replace(packed.rows[old], index=new, split="train" if new < images else "val")
        for new, old in enumerate(chosen)
    ]
    np.save(directory / "images.npy", packed.images[chosen])
    write_manifest(directory / "manifest.csv", rows)


def write_files(folder: Path, image_size: int, batch_size: int) -> None:
    """The training slices of ``folder`` as ``files/CLASS/NUMBER.jpg``, of the size trained on.

    Others need not resize them, as they would have to with the collection's own files.
    """
    prepared = Prepared.open(params(image_size, batch_size, "fp32"), folder / PREPARED)
    for index in prepared.indices("train"):
        path = folder / "files" / str(prepared.labels[index]) / f"{index:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), prepared.images[index], [cv2.IMWRITE_JPEG_QUALITY, 95])


def write_params(folder: Path, image_size: int, batch_size: int, precision: str) -> None:
    """``params.yaml`` for ``src/train.py`` in ``folder``."""
    # JSON is YAML.
    text = params(image_size, batch_size, precision).model_dump_json(indent=1)
    (folder / PARAMS_FILE).write_text(text)
