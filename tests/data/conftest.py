"""A tiny collection, made on the spot."""

from collections.abc import Callable
from pathlib import Path

import pytest

from alzmri.classes import FOLDERS


@pytest.fixture
def classes(tmp_path: Path, write: Callable[..., Path]) -> Path:
    """A faultless collection: two subjects per class, two slices each."""
    for stage, folder in enumerate(FOLDERS):
        for number in range(2):
            for slice_number in range(2):
                path = tmp_path / "classes" / folder / f"{number}_{slice_number}.jpg"
                write(path, 10 * stage + number, slice_number)
    return tmp_path / "classes"
