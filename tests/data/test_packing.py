"""From files to packed arrays: nothing lost, nothing mixed up, nothing left behind."""

import csv
import io
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import cv2
import numpy as np
import pytest
from PIL import Image

from alzmri.classes import FOLDERS
from alzmri.data import images, packing, subjects
from alzmri.data.class_folders import read
from alzmri.data.packing import pack
from alzmri.data.prepared import COPY, Prepared
from alzmri.errors import UserError


@pytest.fixture
def collection(tmp_path, write):
    """Four subjects per class, three slices each."""
    for stage, folder in enumerate(FOLDERS):
        for person in range(4):
            for number in range(3):
                name = f"{person}_{number}.jpg"
                write(tmp_path / "classes" / folder / name, 10 * stage + person, number)
    return tmp_path / "classes"


@pytest.fixture
def packed(collection, tmp_path, make_params):
    """A function that packs ``collection`` into a new folder."""

    def run(**changes):
        params = make_params(**changes)
        directory = tmp_path / "prepared"
        directory.mkdir(exist_ok=True)
        result = pack(collection, directory, params, tmp_path / "subjects.png")
        return result, Prepared.open(params, directory)

    return run


def test_rows_pixels_and_subjects(packed, collection, tmp_path):
    (collection / "NonDemented" / "empty.jpg").touch()
    source = collection / "MildDemented" / "0_0.jpg"
    (collection / "MildDemented" / "again.jpg").write_bytes(source.read_bytes())
    result, prepared = packed(data={"image_size": 32})
    assert prepared.images.shape == (48, 32, 32)
    assert prepared.images.dtype == np.uint8
    who = {}
    for row in prepared.rows:
        pixels = cv2.imread(str(collection / row.path), cv2.IMREAD_GRAYSCALE)
        np.testing.assert_array_equal(prepared.images[row.index], images.fit(pixels, 32, "pad"))
        who.setdefault(row.path.rsplit("_")[0], set()).add(row.subject)
    assert all(len(found) == 1 for found in who.values())
    assert len({row.subject for row in prepared.rows}) == 16
    (found, people), gap = result, result[1].gap
    assert (found["images"], found["rejected"], found["duplicates"]) == (48, 2, 1)
    assert found["leak"]["test_images_with_training_near_duplicate"] == 0
    assert found["people"]["from"] == "pixels"
    assert found["people"]["gap"] == [round(end, 3) for end in gap]
    assert gap[0] < found["people"]["cut"] < gap[1]
    with (tmp_path / "prepared" / "rejected.csv").open() as handle:
        listed = {row["path"]: row["reason"] for row in csv.DictReader(handle)}
    assert listed == {
        "MildDemented/again.jpg": "duplicate of MildDemented/0_0.jpg",
        "NonDemented/empty.jpg": "empty file",
    }
    assert {path.name for path in (tmp_path / "prepared").iterdir()} == {
        *("images.npy", "manifest.csv", "rejected.csv"),
        *("params.json", "summary.json"),
    }
    digest = prepared.digest
    assert packed(data={"image_size": 32}, split={"seed": 1})[1].digest != digest
    assert packed(data={"image_size": 32, "fit": "stretch"})[1].digest != digest
    assert replace(prepared, classes=prepared.classes[::-1]).digest != digest
    drawn, names, links = {}, people.names, read(collection).links
    for name, how in (
        ("pixels", people),
        ("again", people),
        ("file", subjects.SubjectNames(names)),
        ("no gap", subjects.SubjectNames(names, subjects.CUT)),
        ("unclear", subjects.SubjectNames(["?"] * len(names))),
    ):
        packing.draw_links(tmp_path / f"{name}.png", links, how, "mine")
        drawn[name] = (tmp_path / f"{name}.png").read_bytes()
    assert drawn["pixels"] == drawn["again"]
    assert len(set(drawn.values())) == 4


def test_a_file_that_changes_after_its_validation_is_refused(packed, collection, monkeypatch):
    file = collection / "MildDemented" / "0_0.jpg"
    before, other = file.read_bytes(), (collection / "NonDemented" / "0_0.jpg").read_bytes()
    for change in (lambda *_: file.write_bytes(other), lambda *_: file.unlink()):
        file.write_bytes(before)
        monkeypatch.setattr(packing.class_folders, "require", change)
        with pytest.raises(UserError, match=r"0_0\.jpg changed or vanished .* run this again"):
            packed()


def test_one_image_of_each_slice_is_scored(packed, collection):
    """As an import of an augmented release notes its copies: here of two slices of each subject."""
    rows = ["path,origin,copy_of"]
    for path in sorted(collection.rglob("*_0.jpg")):
        name = path.relative_to(collection).as_posix()
        rows.append(f"{name.replace('_0', '_1')},x,{name}")
        rows.append(f"{name.replace('_0', '_2')},x,{f'gone-{name}' if name < 'N' else name}")
    (collection / "origin.csv").write_text("\n".join(rows))
    (found, _), prepared = packed()
    for part in ("val", "test"):
        scored = [row.path for row in prepared.rows if row.split == part]
        # Where the original is gone, the copy stands for its slice.
        assert len(scored) == len(set(scored)) == 2 * 2 + 2
        assert not any(path.endswith("_1.jpg") for path in scored)
    assert len(prepared.indices("train")) == 8 * 3
    assert found["copies_not_scored"] == 48 - 24 - 12
    assert found["split"]["test"]["Non Demented"] == {"images": 1, "subjects": 1}
    left = [row for row in prepared.rows if row.split == COPY]
    assert {row.subject for row in left} <= prepared.subjects("val") | prepared.subjects("test")
    # The protocol's slice split scores every copy, as published.
    (found, _), prepared = packed(split={"unit": "slice"})
    assert "copies_not_scored" not in found
    assert sum(len(prepared.indices(part)) for part in ("train", "val", "test")) == 48
    assert found["leak"]["test_images_with_training_near_duplicate"] > 0


def test_a_table_of_subjects_goes_before_the_pixels(packed, collection):
    with pytest.raises(UserError, match=r"subjects\.csv not found"):
        packed(split={"subjects": "file"})
    with (collection / "subjects.csv").open("w") as handle:
        handle.write("path,subject\n")
        for number, path in enumerate(sorted(collection.rglob("*.jpg"))):
            handle.write(f"{path.relative_to(collection)},S{number % 24}\n")
    (found, _), prepared = packed()
    assert {row.subject for row in prepared.rows} == {f"S{n}" for n in range(24)}
    assert found["people"] == {"from": "file", "cut": None, "gap": None}
    assert found["leak"]["near_duplicates_across_subject_split"] > 0
    _, prepared = packed(split={"subjects": "pixels"})
    assert all(row.subject.startswith("P") for row in prepared.rows)
    (collection / "subjects.csv").write_text("not read")
    (found, _), prepared = packed(split={"unit": "slice", "subjects": "unknown"})
    assert not prepared.subjects_known
    assert found["subjects"] is None
    assert found["people"]["from"] == "unknown"
    parts = found["split"].values()
    assert {part["subjects"] for of in parts for part in of.values()} == {0}
    assert len(prepared.subjects("train")) == len(prepared.indices("train"))


def test_merged_and_missing_classes(packed, collection):
    _, prepared = packed(data={"merge": "binary"})
    assert prepared.classes == ("Non Demented", "Demented")
    assert np.bincount(prepared.labels).tolist() == [12, 36]
    for path in (collection / "ModerateDemented").glob("[23]_*"):
        path.unlink()
    (problem,) = packing.problems(packed()[0][0], "subject")
    assert problem.startswith("Moderate Demented has 2 subjects and does not occur in val:")
    assert packing.problems(packed(data={"merge": "three-class"})[0][0], "subject") == []


def test_data_that_do_not_fit_name_the_remedy(packed, make_params, tmp_path):
    with pytest.raises(UserError, match="dvc repro prepare"):
        Prepared.open(make_params(), tmp_path)
    packed()
    directory = tmp_path / "prepared"
    Prepared.open(make_params(train={"lr": 0.5}), directory)
    for change in ({"data": {"image_size": 32}}, {"split": {"unit": "slice"}}):
        with pytest.raises(UserError, match=r"other parameters \(data, split\)"):
            Prepared.open(make_params(**change), directory)
    whole = {name: (directory / name).read_bytes() for name in ("images.npy", "manifest.csv")}
    lines = whole["manifest.csv"].splitlines()
    np.save(scalar := io.BytesIO(), np.uint8(0))
    for name, content in (
        ("images.npy", whole["images.npy"][:200]),
        ("images.npy", b""),
        ("images.npy", b"these are no images"),
        ("images.npy", scalar.getvalue()),
        ("manifest.csv", b"\n".join(lines[:-1])),
        ("manifest.csv", b"\n".join(line.rpartition(b",")[0] for line in lines)),
        ("manifest.csv", b""),
        ("manifest.csv", b"\xff\xfe"),
    ):
        (directory / name).write_bytes(content)
        with pytest.raises(UserError, match=r"is damaged .*dvc repro --force prepare"):
            Prepared.open(make_params(), directory)
        (directory / name).write_bytes(whole[name])


def test_a_file_that_cannot_be_written_is_one_sentence(collection, tmp_path, committed):
    """As on a full disk, which takes root to make: files may not grow beyond 50 kB."""
    (tmp_path / "params.yaml").write_text(committed("params.yaml").read_text())
    code = (
        "import resource, sys; from pathlib import Path; from alzmri import params, terminal\n"
        "from alzmri.data.packing import pack\n"
        "from alzmri.files import replacing_directory\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "def main():\n"
        "    with replacing_directory(Path(sys.argv[2])) as directory:\n"
        "        pack(Path(sys.argv[1]), directory, params.load(), Path('subjects.png'))\n"
        "terminal.start(main)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, collection, tmp_path / "out/prepared"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert re.fullmatch("error: (No space left on device|File too large).*\n", done.stderr)
    assert list((tmp_path / "out").iterdir()) == []


def test_near_duplicates_are_counted_between_every_two_parts(packed, monkeypatch):
    """Subjects are torn apart; the slices of one are near-duplicates of each other."""
    parts = {
        "0_0": "train",
        "0_1": "train",
        "0_2": "val",
        "1_0": "val",
        "1_1": "val",
        "1_2": "test",
    }
    usual = {"2": "train", "3": "test"}

    def tear(entries, *_):
        names = [entry.path.rpartition("/")[2][:3] for entry in entries]
        return [parts.get(name) or usual[name[0]] for name in names]

    monkeypatch.setattr(packing.splits, "parts", tear)
    leak = packed()[0][0]["leak"]
    # In each of four classes: one of validation and training, one of test and validation.
    assert leak["near_duplicates_across_subject_split"] == 4 + 4
    assert leak["test_images_with_training_near_duplicate"] == 0


def test_converted_images_are_counted(packed, collection):
    path = collection / "MildDemented" / "0_0.jpg"
    pixels = Image.open(path).convert("RGB")
    path.unlink()
    pixels.save(path.with_suffix(".png"))
    assert packed()[0][0]["converted"] == 1


def test_permuted_labels_are_packed_and_another_seed_permutes_otherwise(packed):
    def labels(**changes):
        _, prepared = packed(**changes)
        return {row.path.rpartition("_")[0]: row.label for row in prepared.rows}

    plain, permuted = labels(), labels(data={"permute_labels": True})
    assert permuted != plain
    assert Counter(permuted.values()) == Counter(plain.values())
    assert labels(data={"permute_labels": True}, split={"seed": 1}) != permuted


def test_a_label_is_part_of_the_digest(prepared):
    relabelled = (replace(prepared.rows[0], label=prepared.classes[1]), *prepared.rows[1:])
    assert replace(prepared, rows=relabelled).digest != prepared.digest
