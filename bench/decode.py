"""How fast a collection is validated, relative to a bare OpenCV loop over the same files.

    python bench/decode.py [FOLDER]

The bare loop does nothing but ``cv2.imread(path, IMREAD_GRAYSCALE)``, with one thread or with one
per processor. The others are reading, hashing, validating and decoding every file (``decode``), and
the same with the area resize of ``prepare`` (``decode + fit``), which takes OpenCV about as long as
decoding: ``imread + fit`` is the bare loop with it. Runs take turns, so that a noisy machine is
noisy to all; rates are medians.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from alzmri.data import images

REPEATS = 7
CHUNK = 32
IMAGE_SIZE = 64


def bare(path: Path) -> None:
    cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)


def bare_fitted(path: Path) -> None:
    pixels = np.asarray(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), np.uint8)
    images.fit(pixels, IMAGE_SIZE, "pad")


def validated(path: Path) -> None:
    images.decode(path)


def fitted(path: Path) -> None:
    images.fit(images.decode(path).pixels, IMAGE_SIZE, "pad")


def rate(work: Callable[[Path], None], files: list[Path], threads: int) -> float:
    """Files per second, handed to the threads in chunks."""

    def chunk(start: int) -> None:
        for path in files[start : start + CHUNK]:
            work(path)

    begin = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(chunk, range(0, len(files), CHUNK)))
    return len(files) / (time.perf_counter() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path("data/phantom"))
    folder = parser.parse_args().folder
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in images.SUFFIXES)
    if not files:
        sys.exit(f"error: no images in {folder}; `dvc repro phantom` draws some")
    cores = os.cpu_count() or 1
    runs = {
        f"imread, {cores} threads": (bare, cores),
        "imread, 1 thread": (bare, 1),
        f"decode, {cores} threads": (validated, cores),
        f"imread + fit {IMAGE_SIZE}, {cores} threads": (bare_fitted, cores),
        f"decode + fit {IMAGE_SIZE}, {cores} threads": (fitted, cores),
    }
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(REPEATS):
        for name, (work, threads) in runs.items():
            rates[name].append(rate(work, files, threads))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    threaded, single = list(medians.values())[:2]
    for name, median in medians.items():
        print(
            f"{name:28} {median:8.0f} files/s, {median / threaded:.2f} of threaded imread, "
            f"{median / single:.2f} of single"
        )


if __name__ == "__main__":
    main()
