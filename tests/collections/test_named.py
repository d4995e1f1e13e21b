"""Subjects from the names of files and folders."""

import pytest

from alzmri.classes import STAGES
from alzmri.collections.named import Subjects, by_pattern, in_most, recognise
from alzmri.errors import UserError


def found(*paths: str) -> Subjects | None:
    return recognise(paths, [STAGES.class_of(path.split("/")[0]) or "" for path in paths], STAGES)


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
    subjects = found(*paths)
    assert subjects
    assert subjects.names == names
    assert subjects.known_by.startswith(known_by)


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


def test_names_that_most_images_have_are_mentioned() -> None:
    paths = ["Mild/OAS1_0201.png", "Mild/OAS1_0202.png", "Mild/other.png"]
    said = in_most(paths) or ""
    assert said.startswith("OASIS IDs are in the paths of 2 of 3 images")
    assert said.endswith("Mild/other.png has none")
    assert in_most(paths[:2]) is in_most(paths[2:]) is None


def test_a_pattern_of_the_users() -> None:
    paths = ["MildDemented/p12_a.png", "NonDemented/p13_a.png"]
    assert by_pattern(r"p(\d+)", paths).names == ["12", "13"]
    assert by_pattern(r"p\d+", paths).names == ["p12", "p13"]
    for pattern, message in (
        ("(", "no regular expression"),
        ("(p)(1)", "2 groups"),
        (r"p12", "finds nothing in 1 of 2 images, such as NonDemented/p13_a.png"),
    ):
        with pytest.raises(UserError, match=message):
            by_pattern(pattern, paths)
