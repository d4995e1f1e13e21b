"""Where images were published is kept, whatever they were imported from."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from alzmri.classes import FOLDERS
from alzmri.collections import origins
from alzmri.collections.cli import data_app
from alzmri.collections.importing import import_collection
from alzmri.data import similarity
from alzmri.errors import UserError

Write = Callable[..., Path]


@pytest.fixture
def release(tmp_path: Path, write: Write) -> Path:
    """Two subjects per class in ``Train``, two others with the same file names in ``test``."""
    for number, part in enumerate(("Train", "test")):
        for stage, folder in enumerate(FOLDERS):
            for person in range(2):
                path = tmp_path / "release" / "images" / part / folder / f"{person}.jpg"
                write(path, 10 * stage + 2 * number + person)
    return tmp_path / "release"


def bring(source: Path, name: str, root: Path, **options: Any) -> dict[str, list[str]]:
    """Import ``source``; return the origins of its images by path."""
    import_collection(source, name, root=root, **{"force": False, **options})
    return origins.find(root / "data" / name)


def files(directory: Path) -> set[str]:
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*.jpg")}


@pytest.mark.parametrize(
    ("origin", "part"),
    [
        ("train/MildDemented/1.jpg", "train"),
        ("Alzheimer_s Dataset/TEST/MildDemented/1.jpg", "test"),
        ("Training/x/y/MildDemented/1.jpg", "train"),
        ("train/test/MildDemented/1.jpg", "test"),
        ("data/valid/MildDemented/1.jpg", "val"),
        ("train-00000-of-00001.parquet/MildDemented/000001", "train"),
        ("data/test-00000-of-00001-a44ab5b2.parquet/MildDemented/1.jpg", "test"),
        ("Validation.parquet/MildDemented/1.jpg", "val"),
        ("MildDemented/train.jpg", None),
        ("train", None),
        ("trained/MildDemented/1.jpg", None),
        ("", None),
    ],
)
def test_part(origin: str, part: str | None) -> None:
    assert origins.part(origin) == part


def test_folder(release: Path, untracked: Path) -> None:
    found = bring(release, "mine", untracked)
    mine = untracked / "data" / "mine"
    assert set(found) == files(mine)
    assert {origin for several in found.values() for origin in several} == files(release)
    for path, (origin,) in found.items():
        assert (mine / path).read_bytes() == (release / origin).read_bytes()


def test_zip(release: Path, untracked: Path) -> None:
    archive = shutil.make_archive(str(release), "zip", release)
    assert bring(Path(archive), "zipped", untracked) == bring(release, "mine", untracked)


def test_parquet(release: Path, untracked: Path, tmp_path: Path) -> None:
    tables = tmp_path / "tables"
    tables.mkdir()
    for part in ("Train", "test"):
        images = sorted((release / "images" / part).rglob("*.jpg"))
        cells = [{"bytes": path.read_bytes(), "path": None} for path in images]
        labels = [path.parent.name for path in images]
        pq.write_table(
            pa.table({"image": cells, "label": labels}),
            tables / f"{part}-00000-of-00001.parquet",
        )
    found = bring(tables, "mine", untracked)
    assert len(found) == 16
    assert {origins.part(origin) for path, several in found.items() for origin in several} == {
        "train",
        "test",
    }
    for path, (origin,) in found.items():
        part = {"train": "Train", "test": "test"}[origins.part(origin) or ""]
        content = (untracked / "data" / "mine" / path).read_bytes()
        assert content in {item.read_bytes() for item in (release / "images" / part).rglob("*.jpg")}


def test_import_of_an_import(release: Path, untracked: Path) -> None:
    first = bring(release, "first", untracked)
    mine = untracked / "data" / "first"
    assert bring(mine, "second", untracked) == first
    assert bring(mine, "second", untracked, force=True) == first
    archive = shutil.make_archive(str(mine), "zip", mine.parent, mine.name)
    assert bring(Path(archive), "third", untracked) == first


def test_images_added_by_hand_come_from_where_they_are(
    release: Path, untracked: Path, write: Write
) -> None:
    first = bring(release, "first", untracked)
    write(untracked / "data" / "first" / "MildDemented" / "new.jpg", 77)
    second = bring(untracked / "data" / "first", "second", untracked)
    assert second == first | {"MildDemented/new.jpg": ["MildDemented/new.jpg"]}


def test_copies_keep_all_their_origins(release: Path, untracked: Path) -> None:
    """What was published for training and for test at once is the plainest leak."""
    train = release / "images" / "Train" / "MildDemented" / "0.jpg"
    shutil.copy(train, release / "images" / "test" / "MildDemented" / "copy.jpg")
    found = bring(release, "mine", untracked)
    several = [item for item in found.values() if len(item) > 1]
    both = ["images/Train/MildDemented/0.jpg", "images/test/MildDemented/copy.jpg"]
    assert several == [both]
    assert bring(untracked / "data" / "mine", "second", untracked) == found


def test_odd_names_survive(release: Path, untracked: Path, write: Write) -> None:
    write(release / "images" / "Train" / "MildDemented" / 'a,"b"\nc.jpg', 80)
    found = bring(release, "mine", untracked)
    assert 'images/Train/MildDemented/a,"b"\\nc.jpg' in {item for (item,) in found.values()}
    assert set(found) == files(untracked / "data" / "mine")


def test_the_table_is_no_image(
    release: Path,
    untracked: Path,
    monkeypatch: pytest.MonkeyPatch,
    committed: Callable[[str], Path],
) -> None:
    found = bring(release, "mine", untracked)
    table = "path,subject\n" + "".join(f"{path},S{n}\n" for n, path in enumerate(found))
    (untracked / "data/mine/subjects.csv").write_text(table)
    (untracked / "params.yaml").write_text(committed("params.yaml").read_text())
    monkeypatch.chdir(untracked)
    checked = CliRunner().invoke(data_app, ["check", "mine"])
    assert checked.exit_code == 0, checked.output
    assert "rejected" not in checked.output
    assert "origin" not in checked.output


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"scanner,site\n1,2\n", "columns path,origin; rename the file"),
        (b"path,origin\n\xff,x\n", "not a UTF-8 CSV table"),
        (b'path,origin\n"x', "not a UTF-8 CSV table"),
        (b"", "empty file"),
    ],
)
def test_a_table_that_is_none(release: Path, untracked: Path, content: bytes, message: str) -> None:
    (release / "origin.csv").write_bytes(content)
    with pytest.raises(UserError, match=message):
        bring(release, "mine", untracked)
    assert not (untracked / "data" / "mine").exists()
    with pytest.raises(UserError, match=message):
        origins.find(release)


def test_the_table_is_sorted(release: Path, untracked: Path) -> None:
    bring(release, "mine", untracked)
    with (untracked / "data" / "mine" / "origin.csv").open(encoding="utf-8", newline="") as handle:
        header, *rows = csv.reader(handle)
    assert header == ["path", "origin", "copy_of"]
    assert rows == sorted(rows)


def _codes(draw: np.random.Generator, *, of: similarity.Codes | None = None) -> similarity.Codes:
    """Of 200 slices that have nothing in common; or of a copy of each, 0.98 similar to it."""
    noise = draw.normal(size=(200, 1024))
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    if of is not None:
        noise = 0.98 * of.reshape(200, 1024) / 4000 + 0.2 * noise
    return np.rint(4000 * noise).astype(np.float32).reshape(200, 2, 512)


def test_copies_are_told_from_the_originals_of_another_size() -> None:
    draw = np.random.default_rng(0)
    originals = _codes(draw)
    first, second = (_codes(draw, of=originals) for _ in range(2))
    sizes = [(200, 190)] * 200 + [(208, 176)] * 200 + [(200, 190)] * 200
    found = origins.turned(np.concatenate([first, originals, second]), sizes)
    slices = np.arange(200)
    assert found.tolist() == [*(slices + 200), *[-1] * 200, *(slices + 200)]


@pytest.mark.parametrize("kept", [0, 100])
def test_nothing_is_called_a_copy_where_originals_are_missing(kept: int) -> None:
    """Copies of two sizes, and some of the originals: a part of a release."""
    draw = np.random.default_rng(0)
    originals = _codes(draw)
    copies = [_codes(draw, of=originals) for _ in range(2)]
    codes = np.concatenate([*copies, copies[0][:100], originals[:kept]])
    sizes = [(200, 190)] * 400 + [(180, 180)] * 100 + [(208, 176)] * kept
    assert (origins.turned(codes, sizes) == -1).all()
