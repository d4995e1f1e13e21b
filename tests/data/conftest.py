"""Tiny images and collections, made on the spot."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from alzmri.data.classes import FOLDERS

Pixels = NDArray[np.uint8]
Write = Callable[..., Path]


def person(seed: int, slice_number: int = 0) -> Pixels:
    """uint8 ``[40, 32]``: a head of its own per seed, almost the same in each of its slices."""
    coarse = np.pad(np.random.default_rng(seed).integers(140, 240, (8, 6)), 1)
    fine = np.random.default_rng((seed, slice_number)).integers(0, 8, (40, 32))
    return (np.kron(coarse, np.ones((4, 4), int)) + fine).astype(np.uint8)


@pytest.fixture
def draw() -> Callable[..., Pixels]:
    return person


@pytest.fixture
def write() -> Write:
    """``write(path, seed, slice_number)`` writes a JPEG and the folders above it."""

    def save(path: Path, seed: int = 0, slice_number: int = 0) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(person(seed, slice_number)).save(path, quality=95)
        return path

    return save


@pytest.fixture
def classes(tmp_path: Path, write: Write) -> Path:
    """A faultless collection: two people per class, two slices each."""
    for stage, folder in enumerate(FOLDERS):
        for number in range(2):
            for slice_number in range(2):
                path = tmp_path / "classes" / folder / f"{number}_{slice_number}.jpg"
                write(path, 10 * stage + number, slice_number)
    return tmp_path / "classes"


@pytest.fixture
def misnamed() -> Callable[[Path], None]:
    """Write an image whose name is not UTF-8 into a folder."""

    def save(folder: Path) -> None:
        with open(os.fsencode(folder) + b"/caf\xe9.jpg", "wb") as file:  # noqa: PTH123 - bytes
            Image.fromarray(person(99)).save(file, "JPEG")

    return save


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("template")
    for command in (("git", "init", "--quiet"), (sys.executable, "-m", "dvc", "init", "--quiet")):
        subprocess.run(command, cwd=root, check=True)
    return root


@pytest.fixture
def root(template: Path, tmp_path: Path) -> Path:
    """A fresh git and DVC repository."""
    return Path(shutil.copytree(template, tmp_path / "repository"))


@pytest.fixture
def untracked(monkeypatch: pytest.MonkeyPatch, root: Path) -> Path:
    """The same, without the seconds that DVC takes at the end of an import."""

    def leave_it(name: str, root: Path, *, fresh: bool) -> None:
        """In place of ``dvc add`` and ``git add``."""

    monkeypatch.setattr("alzmri.data.importing._track", leave_it)
    return root
