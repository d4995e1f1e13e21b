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
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import Result
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from alzmri.classes import CLASSES, FOLDERS
from alzmri.collections import sources
from alzmri.collections.data_commands import data_app
from alzmri.collections.importing import import_collection
from alzmri.data.class_folders import Collection, read, require
from alzmri.data.images import Unreadable, decode
from alzmri.errors import EnvironmentFault, UserError

Write = Callable[..., Path]
RELEASED = ("Non_Demented", "Very_Mild_Demented", "Mild_Demented", "Moderate_Demented")
MINE = Path("data/mine")
SLICES = "`alzmri data slices SOURCE --name NAME`"


def bring(source: Path, **options: Any) -> Collection:
    return import_collection(source, "mine", **options)[0]


def digests(directory: Path) -> dict[str, str]:
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name not in ("origin.csv", "classes.txt")
    }


def origins() -> dict[str, list[str]]:
    """The published paths of each image."""
    return {entry.path: list(entry.origins) for entry in read(MINE).entries}


def refused(source: Path, **options: Any) -> str:
    """Why an import is refused; nothing of it may be left."""
    with pytest.raises(UserError) as caught:
        bring(source, **options)
    assert not Path("data").exists() or not list(Path("data").iterdir())
    return str(caught.value)


def command(*words: str) -> Result:
    return CliRunner().invoke(data_app, words)


def said(*words: str) -> str:
    """What a command that ends well prints, without line ends."""
    done = command(*words)
    assert done.exit_code == 0, (done.output, done.exception)
    return " ".join(done.output.split())


def in_git() -> set[str]:
    words = ("git", "diff", "--cached", "--name-only", "--", "data")
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


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


def test_a_folder_replaced_with_force_by_an_archive(
    release: Path, archive: Path, root: Path, write: Write
) -> None:
    before = digests(release)
    brought, people = import_collection(release, "mine")
    assert digests(release) == before
    target = digests(MINE)
    assert sorted(target.values()) == sorted(before.values())
    for folder, released in zip(FOLDERS, RELEASED, strict=True):
        assert target[f"{folder}/test-1.jpg"] == before[f"test/{released}/1.jpg"]
        assert target[f"{folder}/first1.jpg"] == before[f"train/{released}/first1.jpg"]
    assert Counter(entry.label for entry in brought.entries) == dict.fromkeys(CLASSES, 6)
    pairs = zip(people.names, brought.entries, strict=True)
    assert len({(name, entry.label) for name, entry in pairs}) == 8
    assert in_git() == {"data/mine.dvc", "data/.gitignore"}
    with pytest.raises(UserError, match="--force"):
        bring(archive)
    write(release / "train" / "Mild_Demented" / "new.jpg", 77)
    bring(release, force=True)
    assert (MINE / "MildDemented" / "new.jpg").exists()
    with pytest.raises(UserError, match="itself"):
        bring(MINE, force=True)
    bring(archive, force=True)
    assert digests(MINE) == target
    # What git refuses is taken back, and the old images can be had again.
    lock = root / ".git" / "index.lock"
    lock.touch()
    with pytest.raises(EnvironmentFault, match=r"(?s)index\.lock.*new images.*--force.*checkout"):
        bring(release, force=True)
    lock.unlink()
    assert (MINE / "MildDemented" / "new.jpg").exists()
    checkout = ("checkout", "--quiet", "--force", "data/mine.dvc")
    subprocess.run((sys.executable, "-m", "dvc", *checkout), check=True)
    assert digests(MINE) == target


def test_what_dvc_and_git_refuse_leaves_nothing(release: Path, root: Path, tmp_path: Path) -> None:
    config = root / ".dvc" / "config"
    config.write_text("[core]\nnonsense = 1")
    with pytest.raises(EnvironmentFault, match="could not be added") as caught:
        bring(release)
    assert "ERROR: configuration error" in str(caught.value)
    assert "nothing was imported" in str(caught.value)
    assert list(Path("data").iterdir()) == []
    config.write_text("")
    # git's own excludes name the folder already: DVC writes no .gitignore.
    (root / ".git" / "info" / "exclude").write_text("/data/mine/\n")
    bring(release)
    assert in_git() == {"data/mine.dvc"}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    os.chdir(elsewhere)
    assert "not inside a DVC repository" in refused(release)
    shutil.copytree(root / ".dvc", elsewhere / ".dvc")
    assert "not a git repository" in refused(release)


def test_every_kind_of_source_gives_the_same(
    release: Path, archive: Path, untracked: Path, tmp_path: Path
) -> None:
    bring(release)
    wrapped = tmp_path / "wrapped" / "Combined Dataset"
    shutil.copytree(release, wrapped)
    windows = tmp_path / "windows.zip"
    with zipfile.ZipFile(windows, "w") as file:
        for path in release.rglob("*.jpg"):
            entry = zipfile.ZipInfo("x")
            entry.filename = str(path.relative_to(release)).replace("/", "\\")
            file.writestr(entry, path.read_bytes())
    for source in (archive, wrapped.parent, windows):
        import_collection(source, "other", force=True)
        assert set(digests(Path("data/other")).values()) == set(digests(MINE).values())


@pytest.fixture
def parquet(release: Path) -> Callable[..., Path]:
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


def test_parquet(
    parquet: Callable[..., Path], release: Path, untracked: Path, tmp_path: Path
) -> None:
    truth = {digest: path.split("/")[1] for path, digest in digests(release).items()}
    named = "0=Mild,1=Moderate,3=Very Mild,2=Non"
    for labels, options in (
        ("Mild,Moderate,Non,VeryMild", {}),
        (named, {"words": True, "bare": True}),
        (None, {"names": RELEASED}),
        (None, {"names": RELEASED[::-1], "paths": True}),
    ):
        file = parquet(tmp_path / "train.parquet", **options)
        brought = bring(file, named_classes=labels, force=True)
        assert len(brought.entries) == 24
        for entry in brought.entries:
            assert FOLDERS[CLASSES.index(entry.label)] == truth[entry.sha256].replace("_", "")
    parquet(tmp_path / "inner" / "Data" / "train-00000-of-00001.parquet", names=RELEASED)
    (tmp_path / "inner" / "__MACOSX").mkdir()
    (tmp_path / "inner" / "__MACOSX" / "._train-00000-of-00001.parquet").write_bytes(b"x")
    archive = shutil.make_archive(str(tmp_path / "inner"), "zip", tmp_path / "inner")
    assert len(bring(Path(archive), force=True).entries) == 24
    assert all("train-00000-of-00001.parquet" in origin for (origin,) in origins().values())


def test_numbers_without_names_are_refused(
    parquet: Callable[..., Path], untracked: Path, tmp_path: Path
) -> None:
    for words in (False, True):
        file = parquet(tmp_path / "x.parquet", words=words)
        message = refused(file)
        assert "0, 1, 2, 3 are numbers without a meaning" in message
        assert f"alzmri data import {file} --name mine --classes '0=NAME,1=NAME," in message
    assert "3 is not one of the classes" in refused(file, named_classes="a,b,c")
    unused = "Non,Very Mild,Mild,Moderate,Demented"
    assert "no usable image of Demented" in refused(file, named_classes=unused)


def test_parquet_with_one_large_value_in_many_rows(tmp_path: Path) -> None:
    """2 MiB in the file, 180 MiB if every row had its own."""
    value = os.urandom(2 << 20)
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 90, pa.int8()), pa.array([value]))
    file = tmp_path / "x.parquet"
    pq.write_table(pa.table({"image": column.cast(pa.binary()), "label": [0] * 90}), file)
    before = pa.total_allocated_bytes()
    rows, _ = sources.members(file)
    assert pa.total_allocated_bytes() - before < 40 << 20
    assert len({id(row.read()) for row in rows}) == 1


def test_unusable_parquet(untracked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x.parquet"

    def column(content: Any) -> pa.Array:
        return pa.array([{"bytes": content, "path": None}])

    for table, message in (
        ({"picture": [b"x"], "label": ["mild"]}, "not a complete parquet file with columns image"),
        ({"image": [1], "label": ["mild"]}, "image has the type int64"),
        ({"image": column("x"), "label": ["mild"]}, "image has the type struct"),
        ({"image": pa.array([[b"x"]]), "label": ["mild"]}, "image has the type list"),
        ({"image": column(None), "label": ["mild"]}, "rejected"),
        ({"image": [b"x"], "label": pa.array([None], pa.int8())}, "no label"),
    ):
        pq.write_table(pa.table(table), file)
        assert message in refused(file)
    file.write_bytes(file.read_bytes()[:-9])
    assert "not a complete parquet file" in refused(file)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(EnvironmentFault, match="pip install"):
        bring(file)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_damaged_containers_never_escape(containers: list[Path], data: st.DataObject) -> None:
    """Whatever happens to an archive or a table, it is read or refused in one sentence."""
    source = data.draw(st.sampled_from(containers))
    content = bytearray(source.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    damaged = source.with_name(f"damaged{source.suffix}")
    damaged.write_bytes(content)
    with contextlib.suppress(UserError):
        for member in sources.members(damaged)[0]:
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


def test_archives_that_do_not_open(archive: Path, untracked: Path) -> None:
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    assert "download it again" in refused(archive)
    damaged = bytearray(whole)
    damaged[whole.index(b"\xff\xd8") + 300] ^= 0xFF  # stored or deflated: the checksum tells
    archive.write_bytes(damaged)
    assert "damaged" in refused(archive)
    encrypted = bytearray(whole)
    for record in re.finditer(b"PK\x01\x02", whole):
        encrypted[record.start() + 8] |= 1  # the flag in the directory of the archive
    archive.write_bytes(encrypted)
    assert "encrypted" in refused(archive)
    archive.unlink()
    assert "not found" in refused(archive)
    archive.write_text("<html>please log in</html>")
    assert "neither a folder nor" in refused(archive)


def test_archives_made_to_harm(archive: Path, untracked: Path, tmp_path: Path) -> None:
    outside = ("../../evil.jpg", "/etc/evil.jpg", "MildDemented/..\\..\\evil.jpg", "NonDemented/..")
    with zipfile.ZipFile(archive, "a") as file:
        for name in outside:
            file.writestr(name, b"x")
        link = zipfile.ZipInfo("train/Mild_Demented/link.jpg")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        file.writestr(link, "/etc/passwd")
    before = sorted(tmp_path.iterdir())
    brought = bring(archive)
    assert len(brought.rejected) == 5
    assert sorted(tmp_path.iterdir()) == before
    assert not any(path.is_symlink() for path in MINE.rglob("*"))


def test_unusable_images_and_odd_names(
    release: Path, untracked: Path, write: Write, misnamed: Callable[[Path], None]
) -> None:
    folder = release / "train" / "Mild_Demented"
    write(folder / "tab\there.jpg", 80)
    write(folder / 'a,"b"\nc.jpg', 81)
    (folder / "bell\a.jpg").write_text("text")
    (folder / "Thumbs.db").write_bytes(b"x")
    (folder / "brain.nii.gz").write_bytes(b"volume")
    misnamed(folder)
    output = said("import", str(release), "--name", "mine")
    assert "not imported: 1 x not an image" in output
    assert f"not imported: 1 x a volume (use {SLICES}): train/Mild" in output
    for name in ("bell\\x07.jpg", "caf\\xe9.jpg", "Thumbs.db"):
        assert f"train/Mild_Demented/{name}" in output
    found = read(MINE)
    assert found.rejected == []
    assert "MildDemented/tab\\there.jpg" in {entry.path for entry in found.entries}
    assert ['train/Mild_Demented/a,"b"\\nc.jpg'] in origins().values()
    for number in range(4):
        (release / "test" / "Mild_Demented" / f"bad{number}.jpg").write_text("text")
    with pytest.raises(UserError) as caught:
        bring(release, force=True)
    assert "6 of its images (19%)" in str(caught.value)
    assert "test/Mild_Demented/bad0.jpg: not an image" in str(caught.value)
    assert "nothing was imported" in str(caught.value)
    assert len(bring(release, force=True, max_rejected=0.2).entries) == 26


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
    brought = bring(archive)
    assert len(brought.entries) == 24 + 2 * len(names)
    assert brought.rejected == []
    before = digests(MINE)
    bring(archive, force=True)
    assert digests(MINE) == before


def test_fewer_classes_and_classes_of_its_own(
    release: Path, untracked: Path, tmp_path: Path, write: Write
) -> None:
    """What has no stage is refused with the command; that is kept, also through an import."""
    for split in ("train", "test"):
        shutil.rmtree(release / split / "Moderate_Demented")
    assert "of Moderate Demented" in refused(release, named_classes=",".join(CLASSES))
    assert bring(release).classes == CLASSES[:3]
    assert (MINE / "classes.txt").read_text().splitlines() == list(CLASSES[:3])
    shutil.rmtree(MINE / "NonDemented")
    with pytest.raises(UserError, match="no usable image of Non Demented"):
        require(read(MINE), 1)
    shutil.rmtree("data")
    two = tmp_path / "two"
    write(two / "NonDemented" / "x.jpg", 1)
    assert "Non Demented is its only class" in refused(two)
    write(two / "Demented" / "x.jpg", 2)
    assert bring(two).classes == ("Non Demented", "Demented")
    write(two / "mild" / "x.jpg", 7)
    shutil.rmtree("data")
    assert "Demented is a class beside stages" in refused(two)
    source = tmp_path / "adni"
    for number, name in enumerate(("AD", "CN", "MCI", "EMCI")):
        for image in range(2):
            write(source / name / f"{image}.jpg", 10 * number + image)
    (source / "classes.txt").write_text("AD\nCN\nMCI\nEMCI\n")  # of a release: no order
    message = refused(source)
    assert "AD, EMCI, MCI are not stages of dementia" in message
    assert f"alzmri data import {source} --name mine --classes 'CN,EMCI,MCI,AD'" in message
    brought = bring(source, named_classes="CN,EMCI,MCI,AD")
    assert brought.classes == ("CN", "EMCI", "MCI", "AD")
    assert import_collection(MINE, "again")[0].classes == brought.classes
    (MINE / "classes.txt").write_text("CN\n../x\n")
    with pytest.raises(UserError, match=r"classes\.txt: '\.\./x' is not a valid class name"):
        read(MINE)


def test_a_table_of_labels(tmp_path: Path, untracked: Path, write: Write) -> None:
    """One-hot as Roboflow writes it, and a column beside a folder of images."""
    for number in range(4):
        write(tmp_path / "one" / "train" / f"{number}.jpg", number)
        write(tmp_path / "two" / "images" / f"scan{number}.jpg", number)
    marks = "".join(f"{n}.jpg, {int(n < 2)}, {int(n >= 2)}\n" for n in range(4))
    (tmp_path / "one" / "train" / "_classes.csv").write_text(f"filename, Mild, Non\n{marks}")
    brought = bring(tmp_path / "one")
    mild = [entry.path for entry in brought.entries if entry.label == "Mild Demented"]
    assert mild == ["MildDemented/0.jpg", "MildDemented/1.jpg"]
    rows = "".join(f"scan{n};{(0, 0, 0.5, 1)[n]};p{n % 2}\n" for n in range(4))
    table = tmp_path / "two" / "labels.csv"
    table.write_text(f"Image ID;CDR;Subject\n{rows}")
    output = said("import", str(tmp_path / "two"), "--name", "mine", "--force")
    assert "2 subjects known by the table of labels" in output
    assert read(MINE).classes == CLASSES[:3]
    rows = (MINE / "subjects.csv").read_text().splitlines()[1:]
    assert [row.split(",")[1] for row in rows] == ["p1", "p0", "p1", "p0"]
    for content, message in (
        ("file,label,group\nscan1,mild,non\n", "which of the columns label, group is the class"),
        ("file,label\nscan1,mild\nscan1,non\n", r"scan1\.jpg is non, and mild in another"),
        ("file,Mild,Non\nscan1,1,1\n", "line 2 marks 2 classes"),
    ):
        table.write_text(content)
        with pytest.raises(UserError, match=message):
            bring(tmp_path / "two", force=True)


def test_arrays(tmp_path: Path, untracked: Path, draw: Callable[..., Any]) -> None:
    folder = tmp_path / "arrays"
    folder.mkdir()
    pixels = np.stack([draw(number) for number in range(8)])
    np.save(folder / "X_train.npy", pixels[:4, :, :, None])
    np.save(folder / "y_train.npy", np.array(["CN", "mild", "CN", "mild"]))
    np.save(folder / "X_test.npy", pixels[4:] / 255)
    np.save(folder / "y_test.npy", np.array(["CN", "CN", "mild", "mild"]))
    labels = Counter(entry.label for entry in bring(folder).entries)
    assert labels == {"Non Demented": 4, "Mild Demented": 4}
    stored = {origin: decode(MINE / path).pixels for path, (origin,) in origins().items()}
    assert np.array_equal(stored["X_train.npy/000002.tif"], pixels[2])
    scaled = stored["X_test.npy/000001.tif"].astype(float)
    assert np.corrcoef(scaled.ravel(), pixels[5].ravel())[0, 1] > 0.999
    for name in ("X_train", "y_train"):
        (folder / f"{name}.npy").unlink()
    (folder / "y_test.npy").rename(folder / "diagnoses.npy")  # as the only two, they need no name
    assert len(bring(folder, force=True).entries) == 4
    np.save(folder / "y_test.npy", np.array([0, 1, 1]))
    with pytest.raises(UserError, match="no single file beside it has as many labels"):
        bring(folder, force=True)
    np.save(folder / "y_test.npy", np.array([0, 1, 1, {}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="cannot be read as a plain NumPy array"):
        bring(folder, force=True)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.eye(3)[[0, 2, 1]], ["0", "2", "1"]),
        (np.array([[0.0], [2], [1]]), ["0", "2", "1"]),
        (np.array([b"CN", b"AD", b"MCI"]), ["CN", "AD", "MCI"]),
    ],
)
def test_labels_of_arrays(
    tmp_path: Path, draw: Callable[..., Any], labels: NDArray[Any], words: list[str]
) -> None:
    """One-hot, a column, or bytes; the slices have their channel first."""
    np.save(tmp_path / "X.npy", np.stack([draw(number) for number in range(3)])[:, None])
    np.save(tmp_path / "y.npy", labels)
    assert [member.label for member in sources.members(tmp_path)[0]] == words


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4112\n"


def test_what_is_not_read_is_named_with_the_way_to_it(tmp_path: Path, untracked: Path) -> None:
    pointers = tmp_path / "lfs" / "MildDemented"
    pointers.mkdir(parents=True)
    for name in ("x.jpg", "y.parquet", "z.zip"):
        (pointers / name).write_text(POINTER)
        source = tmp_path / "lfs" if name == "x.jpg" else pointers / name
        assert "Git LFS pointer" in (message := refused(source))
        assert "git lfs pull" in message
        (pointers / name).unlink()
    files = tmp_path / "volumes"
    (files / "AD").mkdir(parents=True)
    (files / "AD" / "T1.mgz").write_bytes(b"volume")
    assert f"  AD/T1.mgz: a volume (use {SLICES})" in refused(files)
    (files / "AD" / "T1.mgz").rename(files / "AD" / "train.tfrecords")
    assert "AD/train.tfrecords: a TFRecord file, which only TensorFlow reads" in refused(files)
    (files / "AD" / "train.tfrecords").rename(files / "AD" / "IM0001")
    assert f"{SLICES} makes images of volumes (DICOM" in refused(files)


def test_subjects_are_read_from_names(release: Path, untracked: Path) -> None:
    """Written down, counted, and compared with the pixels, in which some are one subject."""
    for path in sorted(release.rglob("*.jpg")):
        number = sorted(RELEASED).index(path.parent.name) * 2 + int(path.stem[-1])
        number += 50 * (path.parent.parent.name == "test")
        path.rename(path.with_name(f"OAS1_{number:04}_{path.name}"))
    output = said("import", str(release), "--name", "mine")
    assert "16 subjects known by OASIS IDs such as OAS1_0000: see" in output
    assert "8 pairs of subjects have near-duplicate images: OAS1_0000 and" in output
    table = (MINE / "subjects.csv").read_text()
    assert len(set(re.findall(r",(OAS1_\d{4})\n", table))) == 16
    pattern = ("--subject", r"OAS1_(\d)")
    output = said("import", str(release), "--name", "mine", "--force", *pattern)
    assert "1 subjects known by --subject 'OAS1_(\\d)': see data/mine/subjects.csv" in output
    assert "near-duplicate" not in output


def test_subjects_come_along(release: Path, untracked: Path) -> None:
    paths = sorted(path.relative_to(release).as_posix() for path in release.rglob("*.jpg"))
    rows = [f"{path},S{number}" for number, path in enumerate(paths)]
    (release / "subjects.csv").write_text("\n".join(["path,subject", *rows[1:], "gone.jpg,S9"]))
    assert f"{paths[0]} is not listed" in refused(release)
    (release / "subjects.csv").write_text("\n".join(["path,subject", *rows, "gone.jpg,S9"]))
    bring(release)
    table = (MINE / "subjects.csv").read_text().splitlines()
    moved = f"MildDemented/test-1.jpg,S{paths.index('test/Mild_Demented/1.jpg')}"
    assert moved in table
    assert len({row.split(",")[1] for row in table[1:]}) == len(table) - 1 == 24


def test_origins_of_copies_are_kept(release: Path, untracked: Path) -> None:
    """What was published in both parts is the plainest leak."""
    train = release / "train" / "Mild_Demented" / "0.jpg"
    shutil.copy(train, release / "test" / "Mild_Demented" / "copy.jpg")
    bring(release)
    first = origins()
    everything = {path.relative_to(release).as_posix() for path in release.rglob("*.jpg")}
    assert {origin for several in first.values() for origin in several} == everything
    both = ["test/Mild_Demented/copy.jpg", "train/Mild_Demented/0.jpg"]
    assert [item for item in first.values() if len(item) > 1] == [both]
    lines = (MINE / "origin.csv").read_text().splitlines()
    assert lines[0] == "path,origin,copy_of"
    assert lines[1:] == sorted(lines[1:])


def test_copies_without_originals_are_found(untracked: Path, tmp_path: Path, write: Write) -> None:
    for stage, folder in enumerate(RELEASED):
        for number in range(4):
            head = np.asarray(Image.open(write(tmp_path / "x.png", 10 * stage + number)))
            for copy in range(3):
                path = tmp_path / "copies" / folder / f"{number}-{copy}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                darker = np.rint(head * (1 - 0.05 * copy)).astype(np.uint8)
                Image.fromarray(darker[:, :: 1 - 2 * (copy % 2)]).save(path)
    output = said("import", str(tmp_path / "copies"), "--name", "mine")
    assert "32 images are turned, mirrored or brightened copies of others" in output
    for entry in read(MINE).entries:
        assert entry.original == re.sub(r"-\d\.png", "-0.png", entry.path)


def test_names(untracked: Path) -> None:
    for name in ("", "Kaggle", "../x", "a b", "-x", "phantom", "prepared", "x" * 65, "x\n"):
        with pytest.raises(UserError, match="is not a valid name"):
            import_collection(Path("x"), name)


KILLED = """
import os, signal, sys
from pathlib import Path
from alzmri.collections import importing
importing.class_folders.read = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
importing.import_collection(Path(sys.argv[1]), "mine")
"""


def test_killed_halfway(release: Path, untracked: Path) -> None:
    killed = subprocess.run((sys.executable, "-c", KILLED, str(release)))
    assert killed.returncode == -signal.SIGKILL
    assert not MINE.exists()
    bring(release)
    assert os.listdir("data") == ["mine"]  # noqa: PTH208 - hidden ones count too


def test_check_ends_as_prepare_would(
    release: Path, untracked: Path, write: Write, committed: Callable[[str], Path]
) -> None:
    def refusal() -> str:
        done = command("check", "mine")
        assert isinstance(done.exception, UserError), done.output
        return str(done.exception)

    def set_to(subjects: str, unit: str = "subject") -> None:
        text = (
            committed("params.yaml").read_text().replace("subjects: auto", f"subjects: {subjects}")
        )
        Path("params.yaml").write_text(text.replace("unit: subject", f"unit: {unit}"))

    for stage, folder in enumerate(RELEASED):
        for slice_number in range(2):  # a third subject, for a split to have enough
            write(release / "train" / folder / f"third{slice_number}.jpg", 50 + stage, slice_number)
    set_to("auto")
    bring(release)
    output = said("check", "mine")
    assert "rejected" not in output
    assert "origin" not in output
    paths = [path.relative_to(MINE) for path in MINE.rglob("*.jpg")]
    table = MINE / "subjects.csv"
    table.write_text("path,subject\n" + "".join(f"{path},S1\n" for path in paths))
    assert "too few subjects (1)" in refusal()
    assert "1 subjects have images in several classes" in command("check", "mine").output
    set_to("pixels")
    assert command("check", "mine").exit_code == 0
    set_to("auto")
    table.unlink()
    table.symlink_to("gone.csv")
    assert "symbolic link" in refusal()
    table.unlink()
    shutil.rmtree(MINE / "MildDemented")
    assert "no usable image of Mild Demented" in refusal()
    # One slice of each subject: nothing tells who is who.
    for path in MINE.rglob("*.jpg"):
        path.unlink()
    for stage, folder in enumerate(FOLDERS):
        for number in range(3):
            write(MINE / folder / f"{number}.jpg", 10 * stage + number)
    for way in ("--subject REGEX", "a subjects.csv", "split.subjects=unknown"):
        assert way in refusal()
    assert "?" in command("check", "mine").output
    output = said("import", str(MINE), "--name", "again")
    assert "prepare would refuse this: the pixels of 12 images do not separate" in output
    set_to("unknown")
    assert "split.subjects = 'unknown': a subject split needs known subjects" in refusal()
    set_to("unknown", "slice")
    assert command("check", "mine").exit_code == 0
