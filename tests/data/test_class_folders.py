"""What a directory of class folders is taken for."""

from collections.abc import Callable
from pathlib import Path

import pytest

from alzmri.classes import CLASSES, STAGES
from alzmri.data.class_folders import place, read, require
from alzmri.data.images import SYMBOLIC_LINK
from alzmri.errors import UserError
from alzmri.parallel import in_order

Write = Callable[..., Path]


def test_faultless(classes: Path) -> None:
    (classes / "subjects.csv").write_text("path,subject\n")
    (classes / "README.md").write_text("about")
    (classes / "origin.csv").write_text(
        "path,origin,copy_of\nMildDemented/0_1.jpg,test/x.jpg,MildDemented/0_0.jpg\n"
    )
    found = read(classes)
    assert found.rejected == []
    paths = [entry.path for entry in found.entries]
    assert paths == sorted(path.relative_to(classes).as_posix() for path in classes.rglob("*.jpg"))
    assert len(found.thumbnails) == 16
    assert {entry.label for entry in found.entries} == set(CLASSES)
    original, copy = (entry for entry in found.entries if "MildDemented/0" in entry.path[:14])
    assert (original.original, original.origins) == (original.path, ())
    assert (copy.original, copy.origins) == (original.path, ["test/x.jpg"])
    require(found, 0)


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("MildDemented/x.jpg", "Mild Demented"),
        ("train/Mild_Demented/x.jpg", "Mild Demented"),
        ("a/b/very mild demented/c/x.jpg", "Very Mild Demented"),
        ("Combined Dataset/test/No Impairment/x.jpg", "Non Demented"),
        ("MildDemented/NonDemented/x.jpg", "Non Demented"),
        ("Moderate Impairment/x", "Moderate Demented"),
        ("labels.csv", None),
        ("train/notes.txt", None),
    ],
)
def test_place(path: str, label: str | None) -> None:
    assert place(path, STAGES)[1] == label


def test_what_is_rejected_and_why(
    classes: Path, write: Write, tmp_path: Path, misnamed: Callable[[Path], None]
) -> None:
    mild = classes / "MildDemented"
    write(classes / "Severe" / "x.jpg", 50)
    write(classes / "top.jpg", 51)
    (mild / "text.jpg").write_text("text")
    (mild / "b\x1bell.jpg").write_text("text")
    (mild / "empty.png").touch()
    (mild / "link.jpg").symlink_to(write(tmp_path / "outside.jpg", 52))
    (classes / "elsewhere").symlink_to(tmp_path, target_is_directory=True)
    misnamed(mild)
    strays = ("Thumbs.db", ".DS_Store", "desktop.ini", "notes.txt", ".ipynb_checkpoints/0_0.jpg")
    for name in strays:
        path = mild / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"\xd0\xcf\x11\xe0 whatever")
    write(classes / "__MACOSX" / "MildDemented" / "._x.jpg", 60)
    (mild / "again.jpg").write_bytes((mild / "0_0.jpg").read_bytes())
    for path in (mild / "a.jpg", classes / "NonDemented" / "b.jpg"):
        path.write_bytes((mild / "1_1.jpg").read_bytes())
    found = read(classes)
    assert len(found.entries) == 15
    known = "known are NonDemented, VeryMildDemented, MildDemented, ModerateDemented"
    no_image = "not an image in JPEG, PNG, BMP, GIF, TIFF, WebP or PGM"
    same = "contradictory labels: the same bytes as"
    lost = {
        "MildDemented/caf\\xe9.jpg": "the name is not valid UTF-8",
        "MildDemented/b\\x1bell.jpg": no_image,
        "MildDemented/empty.png": "empty file",
        "MildDemented/link.jpg": SYMBOLIC_LINK,
        "MildDemented/text.jpg": no_image,
        "Severe/x.jpg": f"unknown class folder 'Severe'; {known}",
        "elsewhere": SYMBOLIC_LINK,
        "top.jpg": f"in no class folder; {known}",
        "MildDemented/1_1.jpg": f"{same} NonDemented/b.jpg",
        "MildDemented/a.jpg": f"{same} NonDemented/b.jpg",
        "NonDemented/b.jpg": f"{same} MildDemented/1_1.jpg",
    }
    assert {item.path: item.reason for item in found.faults} == lost
    (again,) = (item for item in found.rejected if item.duplicate_of)
    assert (again.path, again.duplicate_of) == ("MildDemented/again.jpg", "MildDemented/0_0.jpg")
    assert again.reason == "duplicate of MildDemented/0_0.jpg"
    assert sum(item.stray for item in found.rejected) == len(strays) + 1
    with pytest.raises(UserError, match=r"11 of its images \(41%\)"):
        require(found, 0.4)


def test_require_names_files_reasons_and_missing_classes(classes: Path) -> None:
    for path in (classes / "ModerateDemented").iterdir():
        path.write_text("text")
    found = read(classes)
    with pytest.raises(UserError) as caught:
        require(found, 0.1)
    message = str(caught.value)
    assert "4 of its images (25%) were rejected" in message
    assert "no usable image of Moderate Demented" in message
    assert "ModerateDemented/0_0.jpg: not an image" in message
    assert "data check" in message
    with pytest.raises(UserError, match="no usable image of Moderate Demented"):
        require(found, 0.5)


def test_require_allows_as_many_rejected_images_as_it_says(classes: Path) -> None:
    for number in range(4):
        (classes / "NonDemented" / f"damaged{number}.jpg").write_text("text")
    (classes / "NonDemented" / "copy.jpg").write_bytes(
        (classes / "NonDemented" / "0_0.jpg").read_bytes()
    )
    found = read(classes)
    # 16 usable, 4 damaged, and a duplicate by which nothing is lost: 4 of 21.
    require(found, 4 / 21)
    with pytest.raises(UserError, match=r"4 of its images \(19%\) were rejected"):
        require(found, 0.19)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no images"):
        require(read(tmp_path), 1)
    with pytest.raises(UserError, match="not a directory"):
        read(tmp_path / "gone")
    (tmp_path / "classes.txt").write_text("CN\nDémence\n", encoding="utf-16")
    with pytest.raises(UserError, match=r"classes\.txt is not UTF-8 text, save it"):
        read(tmp_path)


def test_an_interruption_stops_soon() -> None:
    done: list[int] = []
    results = in_order(done.append, range(100_000))
    next(results)
    results.close()
    assert 0 < len(done) < 100_000


@pytest.mark.parametrize(
    ("folders", "reason"),
    [
        (["NonDemented"], "Non Demented is its only class"),
        (
            ["NonDemented", "Demented", "VeryMildDemented"],
            "Demented is a class beside stages of dementia",
        ),
        (["NonDemented", "Demented", "ModerateDemented"], "Demented is a class beside stages"),
    ],
)
def test_classes_that_cannot_be_told_apart_are_refused(
    tmp_path: Path, write: Write, folders: list[str], reason: str
) -> None:
    for number, folder in enumerate(folders):
        write(tmp_path / folder / "x.jpg", number)
    with pytest.raises(UserError, match=reason):
        require(read(tmp_path), 0)
