"""Subjects from the names of files and folders, published parts, copies."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from alzmri.classes import STAGES
from alzmri.collections import recognition
from alzmri.collections.recognition import by_names, by_pattern
from alzmri.data import similarity
from alzmri.data.class_folders import Collection, Entry
from alzmri.data.subjects import SubjectNames
from alzmri.errors import UserError


def found(*paths: str) -> SubjectNames | None:
    return by_names(paths, [STAGES.class_of(path.split("/")[0]) or "" for path in paths], STAGES)


@pytest.mark.parametrize(
    ("paths", "names", "known_by"),
    [
        (
            ("Mild/OAS1_0201_MR1_mpr-1_100.jpg", "Non/x/OAS1_0202_MR1_mpr-1_100.jpg"),
            ["OAS1_0201", "OAS1_0202"],
            "OASIS IDs such as OAS1_0201",
        ),
        (("Mild/OAS30001_1.png", "Non/OAS30002_1.png"), ["OAS30001", "OAS30002"], "OASIS IDs"),
        (
            ("Mild/002_S_0001/a.png", "Non/ADNI_011_S_4105_MR_55.png"),
            ["002_S_0001", "011_S_4105"],
            "ADNI IDs such as 002_S_0001",
        ),
        (
            ("Mild/sub-01/anat/sub-01_T1w/60.png", "Non/sub-B2_T1w.png"),
            ["sub-01", "sub-B2"],
            "BIDS names such as sub-01",
        ),
        (
            ("Mild/ann/1.png", "Mild/bob/x/1.png", "Non/c/1.png", "Non/d/1.png"),
            ["ann", "bob", "c", "d"],
            "a folder for each, such as ann",
        ),
    ],
)
def test_names_in_use(paths: tuple[str, ...], names: list[str], known_by: str) -> None:
    named = found(*paths)
    assert named
    assert named.names == names
    assert (named.known_by or "").startswith(known_by)


def test_names_that_most_images_have_are_mentioned(capsys: pytest.CaptureFixture[str]) -> None:
    paths = ["Mild/OAS1_0201.png", "Mild/OAS1_0202.png", "Mild/other.png"]
    assert found(*paths) is None
    warning = capsys.readouterr().err
    assert "OASIS IDs are in the paths of 2 of 3 images" in warning
    assert warning.endswith("Mild/other.png has none\n")
    assert found(*paths[:2])
    assert found(*paths[1:]) is None
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    "paths",
    [
        ("Mild/OAS1_0201_1.png", "Non/other.png"),  # not every image
        ("Mild/OAS1_0201_1.png", "Non/OAS1_0201_2.png"),  # one subject only
        ("Mild/1002_S_00011.png", "Non/1002_S_00012.png"),  # longer numbers
        ("Mild/axial/1.png", "Mild/sagittal/1.png", "Non/axial/1.png", "Non/sagittal/1.png"),
        ("Mild/a/1.png", "Mild/b/1.png", "Non/c/1.png"),  # a single folder of a class
        ("Mild/train/1.png", "Mild/test/1.png", "Non/train/2.png", "Non/test/2.png"),
        ("Mild/a/1.png", "Mild/b/1.png", "Non/c/1.png", "Non/d/1.png", "Non/2.png"),
    ],
)
def test_names_that_do_not_tell(paths: tuple[str, ...]) -> None:
    assert found(*paths) is None


def test_a_pattern_of_the_users() -> None:
    paths = ["MildDemented/p12_a.png", "NonDemented/p13_a.png"]
    assert by_pattern(r"p(\d+)", paths).names == ["12", "13"]
    assert by_pattern(r"p\d+", paths).names == ["p12", "p13"]
    for pattern, message in (
        ("(", "not a regular expression"),
        ("(p)(1)", "2 groups"),
        (r"p12", "does not match 1 of 2 images, such as NonDemented/p13_a.png"),
    ):
        with pytest.raises(UserError, match=message):
            by_pattern(pattern, paths)


@pytest.mark.parametrize(
    ("origin", "part"),
    [
        ("train/MildDemented/1.jpg", "train"),
        ("Alzheimer_s Dataset/TEST/MildDemented/1.jpg", "test"),
        ("train/test/MildDemented/1.jpg", "test"),
        ("data/valid/MildDemented/1.jpg", "val"),
        ("data/test-00000-of-00001-a44ab5b2.parquet/MildDemented/1.jpg", "test"),
        ("Validation.parquet/MildDemented/1.jpg", "val"),
        ("MildDemented/train.jpg", None),
        ("trained/MildDemented/1.jpg", None),
    ],
)
def test_part(origin: str, part: str | None) -> None:
    assert recognition.part(origin) == part


def _codes(
    draw: np.random.Generator, *, of: similarity.Codes | None = None, alike: float = 0.98
) -> similarity.Codes:
    """The codes of 200 slices with nothing in common, or of a copy of each of ``of``."""
    noise = draw.normal(size=(200, 1024))
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    if of is not None:
        noise = alike * of.reshape(200, 1024) / 4000 + np.sqrt(1 - alike**2) * noise
    return np.rint(4000 * noise).astype(np.float32).reshape(200, 2, 512)


def copies(codes: similarity.Codes, sizes: Sequence[tuple[int, int]]) -> list[int]:
    """The number of each image's original, -1 if there is none."""
    digits = [str(number) for number in range(len(codes))]
    entries = [
        Entry(*map(str, (n, "", n)), None, size, n, ())
        for n, size in zip(digits, sizes, strict=True)
    ]
    collection = Collection(Path(), (), entries, (), np.empty(0, np.uint8))
    collection.__dict__["codes"] = codes
    original = recognition.copies(collection)
    return [int(original.get(number, -1)) for number in digits]


def test_copies_are_told_from_the_originals_of_another_size() -> None:
    draw = np.random.default_rng(0)
    originals = _codes(draw)
    first, second = (_codes(draw, of=originals) for _ in range(2))
    codes = np.concatenate([first, originals, second])
    sizes = [(200, 190)] * 200 + [(208, 176)] * 200 + [(200, 190)] * 200
    slices = np.arange(200)
    assert copies(codes, sizes) == [*(slices + 200), *[-1] * 200, *(slices + 200)]


@pytest.mark.parametrize("kept", [0, 100])
def test_the_first_copy_stands_for_the_others_where_originals_are_missing(kept: int) -> None:
    """Copies of two sizes, and some of the originals: a part of a release."""
    draw = np.random.default_rng(0)
    originals = _codes(draw)
    made = [_codes(draw, of=originals, alike=0.99) for _ in range(2)]
    codes = np.concatenate([*made, made[0][:100], originals[:kept]])
    sizes = [(200, 190)] * 400 + [(180, 180)] * 100 + [(208, 176)] * kept
    slices = np.arange(200)
    assert copies(codes, sizes) == [*[-1] * 200, *slices, *slices[:100], *slices[:kept]]
    # Slices that nothing repeats are no copies, whatever their size.
    assert copies(originals, [(9, 9), (8, 8)] * 100) == [-1] * 200
