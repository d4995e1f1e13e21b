"""Importing published releases into a real git and DVC repository."""

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from alzmri.classes import CLASSES, FOLDERS
from alzmri.collections import origins, sources
from alzmri.collections.cli import data_app
from alzmri.collections.importing import Report, import_collection, survey
from alzmri.data.collection import require
from alzmri.data.images import Unreadable, decode
from alzmri.errors import EnvironmentFault, UserError

Write = Callable[..., Path]
RELEASED = ("Non_Demented", "Very_Mild_Demented", "Mild_Demented", "Moderate_Demented")


def bring(source: Path, root: Path, **options: Any) -> Report:
    options.setdefault("force", False)
    return import_collection(source, "mine", root=root, **options)


def digests(directory: Path) -> dict[str, str]:
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name not in ("origin.csv", "classes.txt")
    }


def refused(source: Path, root: Path, **options: Any) -> str:
    """Why an import is refused; nothing of it may be left."""
    with pytest.raises(UserError) as caught:
        bring(source, root, **options)
    data = root / "data"
    assert not data.exists() or not list(data.iterdir())
    return str(caught.value)


@pytest.fixture
def release(tmp_path: Path, write: Write) -> Path:
    """Train and test folders with colliding names, as published; two subjects per class."""
    for stage, folder in enumerate(RELEASED):
        for slice_number, split in enumerate(("train", "train", "test")):
            for number in range(2):
                name = f"{number}.jpg" if slice_number else f"first{number}.jpg"
                path = tmp_path / "release" / split / folder / name
                write(path, 10 * stage + number, slice_number)
    return tmp_path / "release"


@pytest.fixture
def archive(release: Path) -> Path:
    return Path(shutil.make_archive(str(release), "zip", release))


def test_folder_with_splits(release: Path, root: Path) -> None:
    before = digests(release)
    report = bring(release, root)
    assert digests(release) == before
    target = digests(root / "data" / "mine")
    assert sorted(target.values()) == sorted(before.values())
    for folder, released in zip(FOLDERS, RELEASED, strict=True):
        assert target[f"{folder}/test-1.jpg"] == before[f"test/{released}/1.jpg"]
        assert target[f"{folder}/train-1.jpg"] == before[f"train/{released}/1.jpg"]
        assert target[f"{folder}/first1.jpg"] == before[f"train/{released}/first1.jpg"]
    for label in CLASSES:
        assert (report.images_of(label), report.subjects_of(label)) == (6, 2)
    git = subprocess.run(
        ("git", "diff", "--cached", "--name-only"), cwd=root, capture_output=True, text=True
    )
    assert {"data/mine.dvc", "data/.gitignore"} <= set(git.stdout.split())
    assert survey(root / "data" / "mine").people == report.people


def test_every_kind_of_source_gives_the_same(
    release: Path, archive: Path, untracked: Path, tmp_path: Path
) -> None:
    bring(release, untracked)
    wrapped = tmp_path / "wrapped" / "Combined Dataset"
    shutil.copytree(release, wrapped)
    for name, source in {"zipped": archive, "wrapped": wrapped.parent}.items():
        import_collection(source, name, force=False, root=untracked)
    data = untracked / "data"
    assert digests(data / "zipped") == digests(data / "mine")
    assert set(digests(data / "wrapped").values()) == set(digests(data / "mine").values())


def test_zip_made_on_windows(release: Path, untracked: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.zip", "w") as file:
        for path in release.rglob("*.jpg"):
            entry = zipfile.ZipInfo("x")
            entry.filename = str(path.relative_to(release)).replace("/", "\\")
            file.writestr(entry, path.read_bytes())
    assert len(bring(tmp_path / "w.zip", untracked).collection.entries) == 24


@pytest.fixture
def parquet(release: Path, tmp_path: Path) -> Callable[..., Path]:
    """Write the release as a parquet file; ``names`` go into a Hugging Face schema.

    Without, labels are numbers of the same order, or with ``words`` texts.
    """

    def write(
        path: Path,
        names: tuple[str, ...] | None = None,
        paths: bool = False,
        bare: bool = False,
        words: bool = False,
    ) -> Path:
        order = names or ("Mild_Demented", "Moderate_Demented", "Non_Demented", *RELEASED[1:2])
        files = sorted(release.rglob("*.jpg"))
        cells = [{"bytes": f.read_bytes(), "path": f.name if paths else None} for f in files]
        column = pa.array([cell["bytes"] for cell in cells]) if bare else pa.array(cells)
        labels: list[Any] = [order.index(f.parent.name) for f in files]
        labels = list(map(str, labels)) if words else labels
        table = pa.table({"image": column, "label": labels})
        if names:
            features = {"label": {"names": names, "_type": "ClassLabel"}}
            schema = {"info": {"features": features}}
            table = table.replace_schema_metadata({"huggingface": json.dumps(schema)})
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path)
        return path

    return write


@pytest.mark.parametrize(
    "options",
    [
        {"named": "Mild,Moderate,Non,VeryMild"},
        {"named": "0=Mild,1=Moderate,3=Very Mild,2=Non", "words": True, "bare": True},
        {"names": RELEASED},
        {"names": RELEASED[::-1], "paths": True},
    ],
    ids=["numbers named", "texts named", "schema", "schema and paths"],
)
def test_parquet(
    parquet: Callable[..., Path],
    release: Path,
    untracked: Path,
    tmp_path: Path,
    options: dict[str, Any],
) -> None:
    given = options.pop("named", None)
    file = parquet(tmp_path / "train.parquet", **options)
    report = bring(file, untracked, named_classes=given)
    truth = {digest: path.split("/")[1] for path, digest in digests(release).items()}
    assert len(report.collection.entries) == 24
    for entry in report.collection.entries:
        assert FOLDERS[CLASSES.index(entry.label)] == truth[entry.sha256].replace("_", "")


@pytest.mark.parametrize("words", [False, True])
def test_numbers_without_names_are_refused(
    parquet: Callable[..., Path], untracked: Path, tmp_path: Path, words: bool
) -> None:
    file = parquet(tmp_path / "x.parquet", words=words)
    message = refused(file, untracked)
    assert "0, 1, 2, 3 are numbers, and nothing says what they mean" in message
    assert f"alzmri data import {file} --name mine --classes 'NAME OF 0,NAME OF 1," in message
    assert "3 is none of the classes" in refused(file, untracked, named_classes="a,b,c")
    unused = "Non,Very Mild,Mild,Moderate,Demented"
    assert "no usable image of Demented" in refused(file, untracked, named_classes=unused)


def test_parquet_inside_a_zip(
    parquet: Callable[..., Path], untracked: Path, tmp_path: Path
) -> None:
    parquet(tmp_path / "inner" / "Data" / "train-00000-of-00001.parquet", names=RELEASED)
    (tmp_path / "inner" / "__MACOSX").mkdir()
    (tmp_path / "inner" / "__MACOSX" / "._train-00000-of-00001.parquet").write_bytes(b"x")
    archive = shutil.make_archive(str(tmp_path / "inner"), "zip", tmp_path / "inner")
    assert len(bring(Path(archive), untracked).collection.entries) == 24


def test_parquet_with_one_large_value_in_many_rows(untracked: Path, tmp_path: Path) -> None:
    """20 MiB in the file, 1.8 GB if every row had its own."""
    value = os.urandom(20 << 20)
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 90, pa.int8()), pa.array([value]))
    file = tmp_path / "x.parquet"
    pq.write_table(pa.table({"image": column.cast(pa.binary()), "label": [0] * 90}), file)
    before = pa.total_allocated_bytes()
    peak = 0
    with sources.members(file, room=4 << 30) as (rows, _):
        peak = pa.total_allocated_bytes() - before
        assert len({id(row.read()) for row in rows}) == 1
    assert peak < 200 << 20
    with pytest.raises(UserError, match="unpacks to"), sources.members(file, room=1 << 30):
        pass


def test_unusable_parquet(untracked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x.parquet"
    pq.write_table(pa.table({"picture": [b"x"], "label": [0]}), file)
    assert "no column image" in refused(file, untracked)
    pq.write_table(pa.table({"image": [1], "label": [0]}), file)
    assert "of type int64" in refused(file, untracked)
    pq.write_table(pa.table({"image": [b"x"], "label": pa.array([None], pa.int8())}), file)
    assert "no label" in refused(file, untracked)
    file.write_bytes(file.read_bytes()[:-9])
    assert "no whole parquet file" in refused(file, untracked)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(EnvironmentFault, match="pip install"):
        bring(file, untracked)


def column(path: Any = None, content: Any = b"x") -> pa.Array:
    return pa.array([{"bytes": content, "path": path}])


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (column(path=b"\xff.jpg"), "image.path is of type binary"),
        (column(path=3), "image.path is of type int64"),
        (column(content="x"), "holds no bytes"),
        (column(content=3), "holds no bytes"),
        (pa.array([[b"x"]]), "holds no bytes"),
        (pa.array([None], pa.struct([("bytes", pa.binary())])), "rejected"),
        (pa.array([b"\xff"], pa.binary(1)), "holds no bytes"),
    ],
)
def test_parquet_of_other_types(
    untracked: Path, tmp_path: Path, image: pa.Array, message: str
) -> None:
    file = tmp_path / "x.parquet"
    pq.write_table(pa.table({"image": image, "label": ["mild"]}), file)
    assert message in refused(file, untracked)


def test_parquet_with_a_column_twice(untracked: Path, tmp_path: Path) -> None:
    file = tmp_path / "x.parquet"
    table = pa.table([column(), column(), pa.array([0])], names=["image", "image", "label"])
    pq.write_table(table, file)
    assert "several columns" in refused(file, untracked)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_containers_never_escape(containers: list[Path], data: st.DataObject) -> None:
    """Whatever happens to an archive or a table, it is read or refused in one sentence."""
    source = data.draw(st.sampled_from(containers))
    content = bytearray(source.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    damaged = source.with_name(f"damaged{source.suffix}")
    damaged.write_bytes(content)
    with (
        contextlib.suppress(UserError),
        sources.members(damaged, room=10**9) as (found, _),
    ):
        for member in found:
            with contextlib.suppress(Unreadable):
                member.read()


@pytest.fixture(scope="module")
def containers(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Small archives of every compression, and a table."""
    folder = tmp_path_factory.mktemp("containers")
    content = np.random.default_rng(0).bytes(300)
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with zipfile.ZipFile(folder / f"{method}.zip", "w", method) as file:
            file.writestr("MildDemented/x.jpg", content)
    cells = [{"bytes": content, "path": f"{number}.jpg"} for number in range(4)]
    pq.write_table(pa.table({"image": cells, "label": [0, 1, 2, 3]}), folder / "x.parquet")
    with zipfile.ZipFile(folder / "arrays.zip", "w") as file:
        for name, array in (("X", np.zeros((2, 16, 16), np.uint8)), ("y", np.arange(2))):
            np.save(folder / f"{name}.npy", array)
            file.write(folder / f"{name}.npy", f"{name}.npy")
            (folder / f"{name}.npy").unlink()
        file.writestr("labels.csv", "file,label\nx.jpg,mild\n")
        file.writestr("x.jpg", content)
    return sorted(folder.iterdir())


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damaged_members(release: Path, untracked: Path, tmp_path: Path, method: int) -> None:
    archive = tmp_path / "x.zip"
    with zipfile.ZipFile(archive, "w", method) as file:
        for path in sorted(release.rglob("*.jpg")):
            file.write(path, path.relative_to(release))
    content = bytearray(archive.read_bytes())
    content[60:200] = bytes(140)
    archive.write_bytes(content)
    assert f"{archive} is damaged (" in refused(archive, untracked)


def test_archives_made_to_harm(archive: Path, untracked: Path, tmp_path: Path) -> None:
    for name in ("../../evil.jpg", "/etc/evil.jpg", "MildDemented/..\\..\\evil.jpg"):
        slip = tmp_path / "slip.zip"
        shutil.copy(archive, slip)
        with zipfile.ZipFile(slip, "a") as file:
            file.writestr(name, b"x")
        assert "leads out of the archive" in refused(slip, untracked)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("MildDemented/x.bmp", bytes(2**24))
    assert "100 times its size" in refused(tmp_path / "bomb.zip", untracked)
    with sources.members(archive, room=10**6):
        pass
    with pytest.raises(UserError, match="make room"), sources.members(archive, room=1000):
        pass


def test_symbolic_links_in_archives_are_not_followed(archive: Path, untracked: Path) -> None:
    with zipfile.ZipFile(archive, "a") as file:
        link = zipfile.ZipInfo("train/Mild_Demented/link.jpg")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        file.writestr(link, "/etc/passwd")
    report = bring(archive, untracked)
    assert [item.reason for item in report.collection.rejected] == ["symbolic link"]
    assert not any(path.is_symlink() for path in (untracked / "data").rglob("*"))


def test_archives_that_do_not_open(archive: Path, untracked: Path, tmp_path: Path) -> None:
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    assert "download it again" in refused(archive, untracked)
    damaged = bytearray(whole)
    damaged[whole.index(b"\xff\xd8") + 300] ^= 0xFF  # stored or deflated: the checksum tells
    archive.write_bytes(damaged)
    assert "damaged" in refused(archive, untracked)
    encrypted = bytearray(whole)
    for record in re.finditer(b"PK\x01\x02", whole):
        encrypted[record.start() + 8] |= 1  # the flag in the directory of the archive
    archive.write_bytes(encrypted)
    assert "encrypted" in refused(archive, untracked)
    archive.unlink()
    assert "not found" in refused(archive, untracked)
    archive.write_text("<html>please log in</html>")
    assert "neither a folder nor" in refused(archive, untracked)


def test_unusable_images_stay_behind(release: Path, untracked: Path) -> None:
    (release / "train" / "Mild_Demented" / "bad.jpg").write_text("text")
    (release / "train" / "Mild_Demented" / "Thumbs.db").write_bytes(b"x")
    report = bring(release, untracked)
    assert {item.path for item in report.collection.rejected} == {
        "train/Mild_Demented/bad.jpg",
        "train/Mild_Demented/Thumbs.db",
    }
    assert survey(untracked / "data" / "mine").collection.rejected == ()


def test_odd_names(
    release: Path, untracked: Path, write: Write, misnamed: Callable[[Path], None]
) -> None:
    folder = release / "train" / "Mild_Demented"
    write(folder / "tab\there.jpg", 80)
    (folder / "bell\a.jpg").write_text("text")
    misnamed(folder)
    report = bring(release, untracked)
    assert "MildDemented/tab\\there.jpg" in {entry.path for entry in report.collection.entries}
    assert [item.path for item in report.collection.rejected] == [
        "train/Mild_Demented/bell\\x07.jpg",
        "train/Mild_Demented/caf\\xe9.jpg",
    ]


def test_long_names(
    release: Path, untracked: Path, tmp_path: Path, draw: Callable[..., Any]
) -> None:
    archive = tmp_path / "long.zip"
    shutil.make_archive(str(archive.with_suffix("")), "zip", release)
    names = {"a" * 300 + ".jpg", "a" * 301 + ".jpg", "b\n" * 60 + ".PNG", "ä" * 200, "c.jpg"}
    with zipfile.ZipFile(archive, "a") as file:
        for number, name in enumerate(sorted(names)):
            for above in ("train", "x" * 250):
                content = io.BytesIO()
                Image.fromarray(draw(number, len(above))).save(content, "PNG")
                file.writestr(f"{above}/MildDemented/{name}", content.getvalue())
    report = bring(archive, untracked)
    assert len(report.collection.entries) == 24 + 2 * len(names)
    assert report.collection.rejected == ()
    before = digests(untracked / "data" / "mine")
    assert sum(path.endswith(".PNG") for path in before) == 2
    bring(archive, untracked, force=True)
    assert digests(untracked / "data" / "mine") == before


def test_too_many_unusable_images(release: Path, untracked: Path) -> None:
    for number in range(4):
        (release / "test" / "Mild_Demented" / f"bad{number}.jpg").write_text("text")
    message = refused(release, untracked)
    assert "4 of its images (14%)" in message
    assert "test/Mild_Demented/bad0.jpg: not an image" in message
    assert "nothing was imported" in message
    assert len(bring(release, untracked, max_rejected=0.2).collection.entries) == 24


def test_fewer_classes(release: Path, untracked: Path) -> None:
    for split in ("train", "test"):
        shutil.rmtree(release / split / "Moderate_Demented")
    all_four = ",".join(CLASSES)
    assert "of Moderate Demented" in refused(release, untracked, named_classes=all_four)
    assert bring(release, untracked).collection.classes == CLASSES[:3]
    mine = untracked / "data" / "mine"
    assert (mine / "classes.txt").read_text().splitlines() == list(CLASSES[:3])
    shutil.rmtree(mine / "NonDemented")
    with pytest.raises(UserError, match="no usable image of Non Demented"):
        require(survey(mine).collection, 1)


def test_two_classes_of_which_one_is_all_stages(
    tmp_path: Path, untracked: Path, write: Write
) -> None:
    for number, name in enumerate(("NonDemented", "Demented")):
        write(tmp_path / "two" / name / "x.jpg", number)
    assert bring(tmp_path / "two", untracked).collection.classes == ("Non Demented", "Demented")
    write(tmp_path / "two" / "mild" / "x.jpg", 7)
    with pytest.raises(UserError, match="Demented is a class beside stages"):
        bring(tmp_path / "two", untracked, force=True)
    shutil.rmtree(tmp_path / "two" / "mild")
    shutil.rmtree(tmp_path / "two" / "Demented")
    with pytest.raises(UserError, match="Non Demented is its only class"):
        bring(tmp_path / "two", untracked, force=True)


def test_classes_of_its_own(tmp_path: Path, untracked: Path, write: Write) -> None:
    """What has no stage is refused with the command; that is kept, also through an import."""
    source = tmp_path / "adni"
    for number, name in enumerate(("AD", "CN", "MCI", "EMCI")):
        for image in range(2):
            write(source / name / f"{image}.jpg", 10 * number + image)
    (source / "classes.txt").write_text("AD\nCN\nMCI\nEMCI\n")  # of a release: no order
    message = refused(source, untracked)
    assert "AD, EMCI, MCI are no stages of dementia" in message
    command = f"alzmri data import {source} --name mine --classes 'CN,EMCI,MCI,AD'"
    assert command in message
    report = bring(source, untracked, named_classes="CN,EMCI,MCI,AD")
    mine = untracked / "data" / "mine"
    assert report.collection.classes == ("CN", "EMCI", "MCI", "AD")
    assert [report.images_of(name) for name in report.collection.classes] == [2] * 4
    import_collection(mine, "again", force=False, root=untracked)
    assert survey(untracked / "data" / "again").collection.classes == report.collection.classes
    (mine / "classes.txt").write_text("CN\n../x\n")
    with pytest.raises(UserError, match=r"classes\.txt: '\.\./x' cannot name a class"):
        survey(mine)


def test_a_table_of_labels(tmp_path: Path, untracked: Path, write: Write) -> None:
    """One-hot as Roboflow writes it, and a column beside a folder of images."""
    for number in range(4):
        write(tmp_path / "one" / "train" / f"{number}.jpg", number)
        write(tmp_path / "two" / "images" / f"scan{number}.jpg", number)
    marks = "".join(f"{n}.jpg, {int(n < 2)}, {int(n >= 2)}\n" for n in range(4))
    (tmp_path / "one" / "train" / "_classes.csv").write_text(f"filename, Mild, Non\n{marks}")
    report = bring(tmp_path / "one", untracked)
    mild = [entry.path for entry in report.collection.entries if entry.label == "Mild Demented"]
    assert mild == ["MildDemented/0.jpg", "MildDemented/1.jpg"]
    rows = "".join(f"scan{n};{(0, 0, 0.5, 1)[n]};p{n % 2}\n" for n in range(4))
    table = tmp_path / "two" / "labels.csv"
    table.write_text(f"Image ID;CDR;Subject\n{rows}")
    report = bring(tmp_path / "two", untracked, force=True)
    assert report.collection.classes == CLASSES[:3]
    assert (report.people, report.known_by) == (("p1", "p0", "p1", "p0"), "the table of labels")
    table.write_text("file,label,group\nscan1,mild,non\n")
    with pytest.raises(UserError, match=r"which of the columns label, group is the class"):
        bring(tmp_path / "two", untracked, force=True)
    table.write_text("file,label\nscan1,mild\nscan1,non\n")
    with pytest.raises(UserError, match=r"scan1\.jpg is non, and mild in another"):
        bring(tmp_path / "two", untracked, force=True)
    table.write_text("file,Mild,Non\nscan1,1,1\n")
    with pytest.raises(UserError, match="line 2 marks 2 classes"):
        bring(tmp_path / "two", untracked, force=True)


def test_arrays(tmp_path: Path, untracked: Path, draw: Callable[..., Any]) -> None:
    folder = tmp_path / "arrays"
    folder.mkdir()
    pixels = np.stack([draw(number) for number in range(8)])
    np.save(folder / "X_train.npy", pixels[:4, :, :, None])
    np.save(folder / "y_train.npy", np.array(["CN", "mild", "CN", "mild"]))
    np.save(folder / "X_test.npy", pixels[4:] / 255)
    np.save(folder / "y_test.npy", np.array(["CN", "CN", "mild", "mild"]))
    report = bring(folder, untracked)
    assert [report.images_of(name) for name in ("Non Demented", "Mild Demented")] == [4, 4]
    stored = {
        origin: decode(untracked / "data" / "mine" / path).pixels
        for path, (origin,) in origins.find(untracked / "data" / "mine").items()
    }
    assert np.array_equal(stored["X_train.npy/000002.tif"], pixels[2])
    scaled = stored["X_test.npy/000001.tif"].astype(float)
    assert np.corrcoef(scaled.ravel(), pixels[5].ravel())[0, 1] > 0.999
    np.save(folder / "y_test.npy", np.array([0, 1, 1]))
    with pytest.raises(UserError, match="not one file of as many labels"):
        bring(folder, untracked, force=True)
    np.save(folder / "y_test.npy", np.array([0, 1, 1, {}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="cannot be read as a plain NumPy array"):
        bring(folder, untracked, force=True)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4112\n"


def test_what_is_not_read_is_named_with_the_way_to_it(tmp_path: Path, untracked: Path) -> None:
    pointers = tmp_path / "lfs" / "MildDemented"
    pointers.mkdir(parents=True)
    for name in ("x.jpg", "y.parquet", "z.zip"):
        (pointers / name).write_text(POINTER)
        source = tmp_path / "lfs" if name == "x.jpg" else pointers / name
        assert "Git LFS pointer" in (message := refused(source, untracked))
        assert "git lfs pull" in message
        (pointers / name).unlink()
    files = tmp_path / "a b"
    (files / "AD").mkdir(parents=True)
    (files / "AD" / "T1.mgz").write_bytes(b"volume")
    command = f"`alzmri data slices '{files}' --name mine`"
    assert command in refused(files, untracked)
    (files / "AD" / "T1.mgz").rename(files / "AD" / "train.tfrecords")
    assert "only TensorFlow reads" in refused(files, untracked)
    (files / "AD" / "train.tfrecords").unlink()
    (files / "AD" / "IM0001").write_bytes(bytes(128) + b"DICM")
    assert command in refused(files, untracked)


def test_subjects_are_read_from_names(
    release: Path, untracked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written down, counted, and compared with the pixels, in which some are one subject."""
    for path in sorted(release.rglob("*.jpg")):
        number = sorted(RELEASED).index(path.parent.name) * 2 + int(path.stem[-1])
        name = (
            f"OAS1_{number if path.parent.parent.name == 'train' else 50 + number:04}_{path.name}"
        )
        path.rename(path.with_name(name))
    shutil.copy(path.with_name(name), path.with_name(f"OAS1_0099_{path.name}"))
    report = bring(release, untracked)
    assert report.known_by == "OASIS IDs such as OAS1_0000"
    assert len(set(report.people or ())) == 16
    # The same subject's slices, and the same bytes, under two names.
    assert {("OAS1_0001", "OAS1_0051"), ("OAS1_0007", "OAS1_0099")} <= set(report.near_duplicates)
    table = (untracked / "data/mine/subjects.csv").read_text()
    assert len(set(re.findall(r",(OAS1_\d{4})\n", table))) == 16
    monkeypatch.chdir(untracked)
    arguments = ["import", str(release), "--name", "mine", "--force"]
    done = CliRunner().invoke(data_app, [*arguments, "--subject", r"OAS1_(\d)"])
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    assert "1 subjects known by --subject 'OAS1_(\\d)': see data/mine/subjects.csv" in said
    assert "near-duplicate" not in said


def test_subjects_come_along(release: Path, untracked: Path) -> None:
    paths = sorted(path.relative_to(release).as_posix() for path in release.rglob("*.jpg"))
    rows = [f"{path},S{number}" for number, path in enumerate(paths)]
    (release / "subjects.csv").write_text("\n".join(["path,subject", *rows, "gone.jpg,S9"]))
    report = bring(release, untracked)
    assert len(set(report.people)) == 24
    assert survey(untracked / "data" / "mine").people == report.people
    table = (untracked / "data" / "mine" / "subjects.csv").read_text().splitlines()
    moved = f"MildDemented/test-1.jpg,S{paths.index('test/Mild_Demented/1.jpg')}"
    assert moved in table
    assert len(table) == 25


def test_subjects_with_faults(release: Path, untracked: Path) -> None:
    (release / "subjects.csv").write_text("path,subject\ntrain/Mild_Demented/1.jpg,S1\n")
    assert "test/Mild_Demented/1.jpg is not listed" in refused(release, untracked)


@pytest.mark.parametrize(
    "name", ["", "Kaggle", "../x", "a b", "-x", "phantom", "prepared", "x" * 65, "x\n"]
)
def test_names(release: Path, untracked: Path, name: str) -> None:
    with pytest.raises(UserError, match="cannot name a collection"):
        import_collection(release, name, force=False, root=untracked)


def test_replacing_needs_force(release: Path, archive: Path, root: Path, write: Write) -> None:
    bring(release, root)
    before = digests(root / "data" / "mine")
    with pytest.raises(UserError, match="--force"):
        bring(archive, root)
    assert digests(root / "data" / "mine") == before
    write(release / "train" / "Mild_Demented" / "new.jpg", 77)
    bring(release, root, force=True)
    assert digests(root / "data" / "mine").items() - before.items() == {
        ("MildDemented/new.jpg", digests(release)["train/Mild_Demented/new.jpg"])
    }
    with pytest.raises(UserError, match="itself"):
        bring(root / "data" / "mine", root, force=True)


def test_outside_a_repository(release: Path, tmp_path: Path) -> None:
    assert "no DVC repository" in refused(release, tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / ".dvc").mkdir(parents=True)
    assert "no git repository" in refused(release, tmp_path / "elsewhere")


def test_dvc_refuses(release: Path, root: Path) -> None:
    config = root / ".dvc" / "config"
    config.write_text("[core]\nnonsense = 1")
    with pytest.raises(EnvironmentFault, match="could not be added") as caught:
        bring(release, root)
    assert "ERROR: configuration error" in str(caught.value)
    assert "nothing was imported" in str(caught.value)
    assert list((root / "data").iterdir()) == []
    config.write_text("")
    assert len(bring(release, root).collection.entries) == 24


def test_gits_own_excludes_name_it_already(release: Path, root: Path) -> None:
    (root / ".git" / "info" / "exclude").write_text("/data/mine/\n")
    bring(release, root)
    git = subprocess.run(
        ("git", "diff", "--cached", "--name-only"), cwd=root, capture_output=True, text=True
    )
    assert [line for line in git.stdout.split() if line.startswith("data/")] == ["data/mine.dvc"]


def test_git_refuses(release: Path, root: Path, write: Write) -> None:
    lock = root / ".git" / "index.lock"
    lock.touch()
    with pytest.raises(EnvironmentFault, match=r"fatal: .*index\.lock"):
        bring(release, root)
    assert list((root / "data").iterdir()) == []
    lock.unlink()
    bring(release, root)
    before = digests(root / "data")
    write(release / "train" / "Mild_Demented" / "new.jpg", 77)
    lock.touch()
    with pytest.raises(EnvironmentFault, match=r"holds the new images.*--force.*dvc checkout"):
        bring(release, root, force=True)
    lock.unlink()
    assert (root / "data" / "mine" / "MildDemented" / "new.jpg").exists()
    checkout = ("checkout", "--quiet", "--force", "data/mine.dvc")
    subprocess.run((sys.executable, "-m", "dvc", *checkout), cwd=root, check=True)
    assert digests(root / "data") == before
    assert len(bring(release, root, force=True).collection.entries) == 25


KILLED = """
import os, signal, sys
from pathlib import Path
from alzmri.collections import importing
importing.collection.read = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
importing.import_collection(Path(sys.argv[1]), "mine", force=False, root=Path(sys.argv[2]))
"""


def test_killed_halfway(release: Path, untracked: Path) -> None:
    killed = subprocess.run((sys.executable, "-c", KILLED, str(release), str(untracked)))
    assert killed.returncode == -signal.SIGKILL
    assert not (untracked / "data" / "mine").exists()
    bring(release, untracked)
    assert os.listdir(untracked / "data") == ["mine"]  # noqa: PTH208 - hidden ones count too


def test_commands(
    release: Path, untracked: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(untracked)
    (release / "train" / "Mild_Demented" / "bad.jpg").write_text("text")
    imported = CliRunner().invoke(data_app, ["import", str(release), "--name", "mine"])
    assert imported.exit_code == 0, imported.output
    assert "left behind: 1 x not an image" in imported.output
    assert "Moderate Demented has 2 subjects" in imported.output


def test_check_ends_as_prepare_would(
    release: Path,
    untracked: Path,
    monkeypatch: pytest.MonkeyPatch,
    write: Write,
    committed: Callable[[str], Path],
) -> None:
    for stage, folder in enumerate(RELEASED):
        for slice_number in range(2):  # a third subject, for a split to have enough
            write(release / "train" / folder / f"third{slice_number}.jpg", 50 + stage, slice_number)
    (untracked / "params.yaml").write_text(committed("params.yaml").read_text())
    monkeypatch.chdir(untracked)
    bring(release, Path())
    fine = CliRunner().invoke(data_app, ["check", "mine"])
    assert fine.exit_code == 0, fine.output
    alone = Path("data/mine/subjects.csv")
    paths = [path.relative_to("data/mine") for path in Path("data/mine").rglob("*.jpg")]
    alone.write_text("path,subject\n" + "".join(f"{path},S1\n" for path in paths))
    divided = CliRunner().invoke(data_app, ["check", "mine"])
    assert isinstance(divided.exception, UserError)
    assert "too few subjects (1)" in str(divided.exception)
    assert "1 subjects have images in several classes" in divided.output
    by_pixels = Path("params.yaml").read_text().replace("subjects: auto", "subjects: pixels")
    Path("params.yaml").write_text(by_pixels)
    assert CliRunner().invoke(data_app, ["check", "mine"]).exit_code == 0
    shutil.rmtree("data/mine/MildDemented")
    broken = CliRunner().invoke(data_app, ["check", "mine"])
    assert isinstance(broken.exception, UserError)
    assert "no usable image of Mild Demented" in str(broken.exception)


def test_people_that_nothing_tells_are_asked_for(
    tmp_path: Path,
    untracked: Path,
    monkeypatch: pytest.MonkeyPatch,
    write: Write,
    committed: Callable[[str], Path],
) -> None:
    for stage, folder in enumerate(RELEASED):
        for number in range(3):
            write(tmp_path / "single" / folder / f"{number}.jpg", 10 * stage + number)
    (untracked / "params.yaml").write_text(committed("params.yaml").read_text())
    monkeypatch.chdir(untracked)
    brought = CliRunner().invoke(data_app, ["import", str(tmp_path / "single"), "--name", "mine"])
    assert brought.exit_code == 0
    assert "?" in brought.output
    assert "do not show who is who" in " ".join(brought.output.split())
    checked = CliRunner().invoke(data_app, ["check", "mine"])
    assert isinstance(checked.exception, UserError)
    for way in ("--subject REGEX", "a subjects.csv", "split.subjects=unknown"):
        assert way in str(checked.exception)
    assert "of its own" not in str(checked.exception)
    known = Path("params.yaml").read_text()
    unknown = re.sub("subjects: auto", "subjects: unknown", known)
    Path("params.yaml").write_text(unknown)
    refusal = CliRunner().invoke(data_app, ["check", "mine"]).exception
    assert isinstance(refusal, UserError)
    assert "split.subjects = 'unknown': a split of subjects must know them" in str(refusal)
    Path("params.yaml").write_text(unknown.replace("unit: subject", "unit: slice"))
    assert CliRunner().invoke(data_app, ["check", "mine"]).exit_code == 0
    Path("params.yaml").write_text(known)
    paths = [path.relative_to("data/mine") for path in Path("data/mine").rglob("*.jpg")]
    rows = "".join(f"{path},{path}\n" for path in paths)
    Path("data/mine/subjects.csv").write_text(f"path,subject\n{rows}")
    assert CliRunner().invoke(data_app, ["check", "mine"]).exit_code == 0


@pytest.mark.parametrize("name", ["", "..", "../..", "/data", "prepared", "Kaggle"])
def test_check_takes_names_only(
    untracked: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(untracked)
    refusal = CliRunner().invoke(data_app, ["check", name]).exception
    assert isinstance(refusal, UserError)
    assert "cannot name a collection" in str(refusal)


def test_volumes_are_warned_of(
    release: Path, untracked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(untracked)
    (release / "train" / "Mild_Demented" / "brain.nii.gz").write_bytes(b"volume")
    imported = CliRunner().invoke(data_app, ["import", str(release), "--name", "mine"])
    assert imported.exit_code == 0, imported.output
    assert "1 volumes (DICOM, NIfTI, FreeSurfer) are not read: `alzmri data slices" in (
        " ".join(imported.output.split())
    )


def test_survey_with_a_table_that_is_none(release: Path, untracked: Path) -> None:
    bring(release, untracked)
    mine = untracked / "data" / "mine"
    (mine / "subjects.csv").symlink_to("gone.csv")
    with pytest.raises(UserError, match="symbolic link"):
        survey(mine)
    assert len(set(survey(mine, subjects_from="pixels").people)) == 8
