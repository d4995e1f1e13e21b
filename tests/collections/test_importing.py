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
from alzmri.collections import sources
from alzmri.collections.cli import data_app
from alzmri.collections.importing import Report, import_collection, survey
from alzmri.data.images import Unreadable
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
        if path.is_file() and path.name != "origin.csv"  # see test_origin.py
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
    """Train and test folders with colliding names, as published; two people per class."""
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
        assert (report.images_of(label), report.people_of(label)) == (6, 2)
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
    """Write the release as a parquet file; ``names`` go into a Hugging Face schema."""

    def write(
        path: Path, names: tuple[str, ...] | None = None, paths: bool = False, bare: bool = False
    ) -> Path:
        order = names or ("Mild_Demented", "Moderate_Demented", "Non_Demented", *RELEASED[1:2])
        files = sorted(release.rglob("*.jpg"))
        cells = [{"bytes": f.read_bytes(), "path": f.name if paths else None} for f in files]
        column = pa.array([cell["bytes"] for cell in cells]) if bare else pa.array(cells)
        labels = [order.index(f.parent.name) for f in files]
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
    [{}, {"bare": True}, {"names": RELEASED}, {"names": RELEASED[::-1], "paths": True}],
    ids=["published order", "bytes only", "schema", "schema and paths"],
)
def test_parquet(
    parquet: Callable[..., Path],
    release: Path,
    untracked: Path,
    tmp_path: Path,
    options: dict[str, Any],
) -> None:
    report = bring(parquet(tmp_path / "train.parquet", **options), untracked)
    truth = {digest: path.split("/")[1] for path, digest in digests(release).items()}
    assert len(report.collection.entries) == 24
    for entry in report.collection.entries:
        assert FOLDERS[CLASSES.index(entry.label)] == truth[entry.sha256].replace("_", "")


def test_parquet_inside_a_zip(
    parquet: Callable[..., Path], untracked: Path, tmp_path: Path
) -> None:
    parquet(tmp_path / "inner" / "Data" / "train-00000-of-00001.parquet")
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
    pq.write_table(pa.table({"image": [b"x"], "label": [7]}), file)
    assert "row 0 has the label 7" in refused(file, untracked)
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
    pq.write_table(pa.table({"image": image, "label": [0]}), file)
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


def test_a_class_that_is_missing(release: Path, untracked: Path) -> None:
    for split in ("train", "test"):
        shutil.rmtree(release / split / "Moderate_Demented")
    assert "no usable image of Moderate Demented" in refused(release, untracked)


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
from alzmri.collections.importing import import_collection
import_collection(Path(sys.argv[1]), "mine", force=False, root=Path(sys.argv[2]),
                  progress=lambda done, total: os.kill(os.getpid(), signal.SIGKILL))
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
    assert "Moderate Demented has 2 people" in imported.output


def test_check_ends_as_prepare_would(
    release: Path,
    untracked: Path,
    monkeypatch: pytest.MonkeyPatch,
    write: Write,
    committed: Callable[[str], Path],
) -> None:
    for stage, folder in enumerate(RELEASED):
        for slice_number in range(2):  # a third person, for a split to have enough
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
    assert "1 people have images in several classes" in divided.output
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
    assert "add a subjects.csv" in str(checked.exception)
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
    assert "1 DICOM or NIfTI files are not read: export them as slices" in imported.output


def test_survey_with_a_table_that_is_none(release: Path, untracked: Path) -> None:
    bring(release, untracked)
    mine = untracked / "data" / "mine"
    (mine / "subjects.csv").symlink_to("gone.csv")
    with pytest.raises(UserError, match="symbolic link"):
        survey(mine)
    assert len(set(survey(mine, people_from="pixels").people)) == 8
